/**
 * `--type=controller` on a real API server and a real Ceph: a journal that a failover has left behind is written anew from
 * the PersistentVolume.
 */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { openSync } from "node:fs";
import { join } from "node:path";
import { type Driver, startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { inventory, makePool, omapOf, tool } from "../ceph/inventory.ts";
import { CLUSTER, createRequest, deleteRequest, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { driverCommand } from "../support/driver-command.ts";
import { MINUTES, plane, until } from "./attacher-world.ts";

const dir = testFolder("journal");
const driverName = `journal${process.pid}.csi.example.com`;
const SECRET = `journal-${process.pid}`;
const OWNER = { "csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "team" };
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
const children: Bun.Subprocess[] = [];

beforeAll(async () => {
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  pool = await makePool("journal");
  driver = await startDriver({ dir });
  await createSecret(SECRET);
}, MINUTES);
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill("SIGKILL");
    await child.exited;
  }
});
afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, MINUTES);

const create = (object: object) => plane.kubectl(["create", "-f", "-"], JSON.stringify(object));
const createSecret = (name: string) =>
  create({ apiVersion: "v1", kind: "Secret", metadata: { name, namespace: "default" }, stringData: secrets() });

/** A volume that the driver made, and its PersistentVolume as external-provisioner writes it. */
const aVolume = async (name: string, secret: string) => {
  const { volume } = await driver.controller.createVolume(createRequest(name, { pool: pool.name, ...OWNER }));
  if (volume === undefined) throw new Error("no volume");
  const reference = { name: secret, namespace: "default" };
  await create({
    apiVersion: "v1",
    kind: "PersistentVolume",
    metadata: { name },
    spec: {
      capacity: { storage: "1Gi" },
      accessModes: ["ReadWriteOnce"],
      persistentVolumeReclaimPolicy: "Retain",
      claimRef: { apiVersion: "v1", kind: "PersistentVolumeClaim", name: "data", namespace: "team" },
      csi: {
        driver: driverName,
        volumeHandle: volume.volumeId,
        volumeAttributes: volume.volumeContext,
        controllerExpandSecretRef: reference,
        nodeStageSecretRef: reference,
      },
    },
  });
  return { volumeId: volume.volumeId, uuid: volume.volumeId.slice(-36) };
};

const journal = async () => {
  const { objects, names } = await inventory(pool.name);
  const entries = objects.filter((name) => name.startsWith("csi."));
  const omaps = await Promise.all(entries.map(async (name) => [name, await omapOf(pool.name, name)] as const));
  return { names, omaps: new Map(omaps) };
};

/** As mirroring leaves it: images, and nothing of the journal. */
const loseJournal = async (...uuids: readonly string[]) => {
  for (const object of ["csi.volumes.default", ...uuids.map((uuid) => `csi.volume.${uuid}`)])
    await tool("rados", "--pool", pool.name, "rm", object);
};

const startController = () => {
  const { argv, env } = driverCommand();
  const flags = [
    "--type=controller",
    `--drivername=${driverName}`,
    "--drivernamespace=default",
    `--kubeconfig=${plane.kubeconfig}`,
    `--config-dir=${join(dir, "config")}`,
    `--ceph-conf=${join(dir, "no-ceph.conf")}`,
  ];
  const log = openSync(join(dir, "controller.log"), "a");
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...argv, ...flags], {
    env: { ...process.env, ...env, CEPH_CONF: "", CEPH_ARGS: "" },
    stdio: ["ignore", log, log],
  });
  children.push(child);
};

const warningsOf = (name: string): Promise<string> => {
  const which = `involvedObject.kind=PersistentVolume,involvedObject.name=${name},reason=JournalNotWritten`;
  return plane.kubectl(["get", "events", `--field-selector=${which}`, "-o", "jsonpath={.items[*].message}"]);
};

test(
  "a journal that is gone is written as it was, when the controller starts and while it watches, and the volumes can be deleted",
  async () => {
    const first = await aVolume("journal-first", SECRET);
    const before = await journal();
    await loseJournal(first.uuid);
    startController();
    await until(async () => Bun.deepEquals(await journal(), before), "the first journal is as it was");
    const { volume } = await driver.controller.createVolume(
      createRequest("journal-first", { pool: pool.name, ...OWNER }),
    );
    expect(volume?.volumeId).toBe(first.volumeId);

    const second = await aVolume("journal-second", "not-there");
    const both = await journal();
    await loseJournal(first.uuid, second.uuid);
    await until(async () => (await warningsOf("journal-second")) !== "", "an event says what is missing");
    expect(await warningsOf("journal-second")).toContain("not-there");

    await createSecret("not-there");
    await plane.kubectl(["annotate", "pv", "journal-first", "looked=again"]);
    await until(async () => Bun.deepEquals(await journal(), both), "both journals are as they were");
    for (const { volumeId } of [first, second]) await driver.controller.deleteVolume(deleteRequest(volumeId));
    await until(async () => (await inventory(pool.name)).images.length === 0, "no image is left");
    await plane.kubectl(["delete", "pv", "journal-first", "journal-second", "--wait=false"]);
  },
  MINUTES,
);
