/** `--type=controller`: journals that are written anew from PersistentVolumes, over Ceph and Kubernetes in memory. */
import { afterEach, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Result from "effect/Result";
import type { MappingTable } from "../../../lib/config/mapping.ts";
import { parseFlags } from "../../../lib/config/flags.ts";
import { whatFlagsAsk } from "../../../lib/process/command-line.ts";
import { rolesOf } from "../../../services/main.ts";
import { eventually } from "../../support/grpc-serving.ts";
import { KubeMemory } from "../../support/kube-memory.ts";
import { aDriver, memoryWorld } from "../../support/one-world.ts";
import {
  aCluster,
  creation,
  deletion,
  EAST,
  objectsOf,
  PARAMETERS,
  poolDump,
  SECRETS,
  uuidOf,
} from "../../support/world.ts";

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const VOLUMES = "/api/v1/persistentvolumes";
const EVENTS = "/api/v1/namespaces/default/events";
const OWNER = { "csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "team" };
/** The Lease that ceph-csi's controller holds: controller-runtime takes its name as it is. */
const LEASES = "/apis/coordination.k8s.io/v1/namespaces/rook/leases";
const LEASE = `${LEASES}/rbd.csi.ceph.com-rook`;
const metadataOf = (cluster: ReturnType<typeof aCluster>, image: string) =>
  Object.fromEntries(cluster.image("rbd", image).meta);

/** A volume that a driver made, its PersistentVolume as external-provisioner writes it, and its secret. */
const aVolume = async (more: { parameters?: object; attributes?: object; handle?: (id: string) => string } = {}) => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const parameters = { ...PARAMETERS, ...OWNER, ...more.parameters };
  const { volume } = await driver.createVolume(
    creation({ parameters, secrets: { ...SECRETS, encryptionPassphrase: "p" } }),
  );
  const kube = new KubeMemory();
  const data = Object.fromEntries(Object.entries(SECRETS).map(([key, value]) => [key, btoa(value)]));
  kube.create("/api/v1/namespaces/storage/secrets", { metadata: { name: "ceph" }, data });
  const volumeHandle = more.handle?.(volume.volumeId) ?? volume.volumeId;
  const pv = (name: string, csi: object = {}, spec: object = {}) =>
    kube.create(VOLUMES, {
      metadata: { name },
      spec: {
        claimRef: { namespace: "team", name: "data" },
        csi: {
          driver: "rbd.csi.ceph.com",
          volumeHandle,
          volumeAttributes: { ...volume.volumeContext, ...more.attributes },
          nodeStageSecretRef: { name: "ceph", namespace: "storage" },
          ...csi,
        },
        ...spec,
      },
    });
  return { cluster, kube, pv, volume, volumeHandle };
};

const controlling = (cluster: ReturnType<typeof aCluster>, kube: KubeMemory, mapping?: MappingTable) => {
  const flags = Result.getOrThrow(parseFlags(["--type=controller", "--drivernamespace=rook"]));
  const world = (given: typeof flags) => memoryWorld(cluster, given, { kube, ...(mapping && { mapping }) });
  const asked = whatFlagsAsk(flags, (given) => rolesOf(given, world(given)), String);
  if ("text" in asked) throw new Error("it runs");
  const fiber = Effect.runFork(Effect.scoped(asked.run));
  ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
};

/** It looks at volumes in order, so an event on this one says that those before it were looked at. */
const looksAtAll = async (kube: KubeMemory, pv: (name: string, csi: object) => unknown) => {
  pv("zz-last", { volumeHandle: "not-a-handle" });
  await eventually(
    () => kube.objects(EVENTS).some(({ message }) => String(message).includes("volumeHandle")),
    "the end",
  );
};

test("A journal that is gone is written as CreateVolume wrote it, and leads to the volume again", async () => {
  const { cluster, kube, pv, volume } = await aVolume({ parameters: { volumeNamePrefix: "team-" } });
  const before = poolDump(cluster).objects;
  objectsOf(cluster).clear();
  pv("pvc-1");
  controlling(cluster, kube);
  await eventually(() => Bun.deepEquals(poolDump(cluster).objects, before), "the journal is as it was");
  expect(kube.get(LEASE)["spec"]).toMatchObject({ leaseDurationSeconds: 15 });
  expect(metadataOf(cluster, `team-${uuidOf(volume.volumeId)}`)).toMatchObject(OWNER);
  await using driver = aDriver(cluster);
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(poolDump(cluster).images).toEqual({});
});

test("It writes nothing while ceph-csi's controller leads, and takes over once that has stopped", async () => {
  const { cluster, kube, pv } = await aVolume();
  const before = poolDump(cluster).objects;
  objectsOf(cluster).clear();
  pv("pvc-1");
  const now = new Date().toISOString().replace("Z", "000Z");
  kube.create(LEASES, {
    metadata: { name: "rbd.csi.ceph.com-rook" },
    spec: { holderIdentity: "cephcsi-0_1", leaseDurationSeconds: 15, acquireTime: now, renewTime: now },
  });
  controlling(cluster, kube);
  await eventually(() => kube.requests.includes(`get ${LEASE}`), "it asks who leads");
  expect(poolDump(cluster).objects).toEqual({});
  expect(kube.objects(LEASES)).toHaveLength(1);
  kube.merge(LEASE, { spec: { holderIdentity: "" } });
  await eventually(() => Bun.deepEquals(poolDump(cluster).objects, before), "the journal is as it was");
}, 20_000);

test("A volume whose journal is in another pool gets it there, as ceph-csi writes it, and its ID leads to the image", async () => {
  const { cluster, kube, pv, volume } = await aVolume({ attributes: { journalPool: "ssd" } });
  const uuid = uuidOf(volume.volumeId);
  const object = `csi.volume.${uuid}`;
  objectsOf(cluster).clear();
  pv("pvc-1");
  controlling(cluster, kube);
  const written = () => poolDump(cluster, "ssd").objects;
  await eventually(() => written()[object]?.["csi.imageid"] !== undefined, "the journal is written");
  expect(written()).toEqual({
    "csi.volumes.default": { "csi.volume.pvc-1": `0000000000000002/${uuid}` },
    [object]: {
      "csi.volname": "pvc-1",
      "csi.imagename": `csi-vol-${uuid}`,
      "csi.volume.owner": "team",
      "csi.journalpool": "0000000000000003",
      "csi.imageid": cluster.image("rbd", `csi-vol-${uuid}`).id,
    },
  });
  expect(poolDump(cluster).objects).toEqual({ [object]: {} });
  const before = cluster.dump();
  controlling(cluster, kube);
  await looksAtAll(kube, pv);
  expect(cluster.dump()).toEqual(before);
  await using driver = aDriver(cluster);
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(poolDump(cluster)).toMatchObject({ images: {}, objects: {} });
});

test("A name that the journal gives to an image in another pool is left alone", async () => {
  const { cluster, kube, pv, volume } = await aVolume();
  const before = cluster.dump();
  pv("pvc-1", { volumeAttributes: { ...volume.volumeContext, pool: "ssd", journalPool: "rbd" } });
  controlling(cluster, kube);
  const told = () => kube.objects(EVENTS).find(({ reason }) => reason === "JournalNotWritten");
  await eventually(() => told() !== undefined, "the event");
  expect(String(told()?.["message"])).toContain("has its image in another pool than ssd");
  expect(cluster.dump()).toEqual(before);
});

test("The journal of an encrypted volume says again how it is encrypted", async () => {
  const { cluster, kube, pv, volume } = await aVolume({ parameters: { encrypted: "true", encryptionKMSID: "" } });
  const before = poolDump(cluster).objects;
  const object = `csi.volume.${uuidOf(volume.volumeId)}`;
  expect(before[object]).toMatchObject({ "csi.volume.encryptKMS": "default", "csi.volume.encryptionType": "block" });
  objectsOf(cluster).clear();
  pv("pvc-1");
  controlling(cluster, kube);
  await eventually(() => Bun.deepEquals(poolDump(cluster).objects, before), "the journal is as it was");
});

test("After a failover the volume is found in the cluster that stands in, by its old ID", async () => {
  const { cluster, kube, pv, volume, volumeHandle } = await aVolume({
    handle: (id) => id.replace("0004-east-", "0004-west-").replace(/-\d{16}-/, "-0000000000000063-"),
  });
  const home = /-(\d{16})-/.exec(volume.volumeId)?.[1] ?? "";
  const pools = [[["99", BigInt(`0x${home}`).toString()]]] as const;
  const mapping: MappingTable = {
    elements: [{ clusters: [["west", "east"]], pools }],
    problems: new Map(),
    remarks: [],
  };
  objectsOf(cluster).clear();
  pv("pvc-1");
  controlling(cluster, kube, mapping);
  const object = `csi.volume.${uuidOf(volume.volumeId)}`;
  await eventually(() => poolDump(cluster).objects[object]?.["csi.imageid"] !== undefined, "the journal is written");
  await using driver = aDriver(cluster, { mapping, clusters: [EAST, { ...EAST, clusterId: "west" }] });
  await driver.deleteVolume(deletion(volumeHandle));
  expect(poolDump(cluster)).toMatchObject({ images: {}, trash: {} });
});

test("An entry that is half-written is completed, and a claim in another namespace is its owner now", async () => {
  const { cluster, kube, pv, volume } = await aVolume();
  const object = `csi.volume.${uuidOf(volume.volumeId)}`;
  const id = poolDump(cluster).objects[object]?.["csi.imageid"];
  objectsOf(cluster).get(object)?.delete("csi.imageid");
  pv("pvc-1", {}, { claimRef: { namespace: "other-team", name: "moved" } });
  controlling(cluster, kube);
  await eventually(() => poolDump(cluster).objects[object]?.["csi.imageid"] === id, "the entry is complete");
  expect(poolDump(cluster).objects[object]?.["csi.volume.owner"]).toBe("other-team");
  expect(metadataOf(cluster, `csi-vol-${uuidOf(volume.volumeId)}`)).toMatchObject({
    "csi.storage.k8s.io/pvc/namespace": "other-team",
  });
});

test("No entry is written for an image that does not exist, and an event on the volume says so until it does", async () => {
  const { cluster, kube, pv, volume } = await aVolume();
  const image = `csi-vol-${uuidOf(volume.volumeId)}`;
  const there = cluster.namespace("rbd", "");
  const kept = there?.images.get(image);
  there?.images.delete(image);
  objectsOf(cluster).clear();
  pv("pvc-1");
  controlling(cluster, kube);
  const told = () => kube.objects(EVENTS).find(({ reason }) => reason === "JournalNotWritten");
  await eventually(() => told() !== undefined, "the event");
  expect(String(told()?.["message"])).toContain(`image rbd/${image}`);
  expect(poolDump(cluster).objects).toEqual({});
  if (kept !== undefined) there?.images.set(image, kept);
  await eventually(() => Object.keys(poolDump(cluster).objects).length === 2, "the journal is written");
});

test("Volumes of others, static ones, released ones and ones being deleted are left alone", async () => {
  const { cluster, kube, pv, volume } = await aVolume();
  objectsOf(cluster).clear();
  pv("pvc-1", { driver: "other.csi.example.com" });
  pv("pvc-2", { volumeAttributes: { ...volume.volumeContext, staticVolume: "true" } });
  pv("pvc-3");
  kube.merge(`${VOLUMES}/pvc-3`, { spec: { claimRef: null } });
  pv("pvc-4");
  kube.merge(`${VOLUMES}/pvc-4`, { metadata: { finalizers: ["a/b"] } });
  kube.remove(`${VOLUMES}/pvc-4`);
  controlling(cluster, kube);
  await looksAtAll(kube, pv);
  expect(poolDump(cluster).objects).toEqual({});
});

test("A name that the journal gives to another volume stays with it", async () => {
  const { cluster, kube, pv, volume } = await aVolume();
  const other = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";
  objectsOf(cluster).clear();
  const theirs = { "csi.volume.pvc-1": other };
  objectsOf(cluster).set("csi.volumes.default", new Map(Object.entries(theirs)));
  pv("pvc-1");
  controlling(cluster, kube);
  await looksAtAll(kube, pv);
  expect(poolDump(cluster).objects).toEqual({ "csi.volumes.default": theirs });
  const said = kube.objects(EVENTS).map(({ message }) => String(message));
  expect(said.join("\n")).toContain(`has the UUID ${other} in the journal of pool rbd, not ${uuidOf(volume.volumeId)}`);
});
