/**
 * What a driver has given up, because a call failed for good, and is undoing: whoever comes meanwhile, or after the driver died
 * in it, neither completes it nor loses anything by it.
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { CallStuck, NoSpace } from "../../../lib/ceph/errors.ts";
import { type CephMethod, failingOnce, held, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  POOL,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { interceptedStore, type Kept, keepingStore } from "../../support/key-stores.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  creation,
  deletion,
  eventually,
  failureOf,
  objectsOf,
  PARAMETERS,
  poolDump,
  SECRETS,
  uuidOf,
} from "../../support/world.ts";

const FULL = new NoSpace({ op: "a_call", subject: "rbd" });
const ENCRYPTED = creation({
  name: "pvc-2",
  parameters: { ...PARAMETERS, encrypted: "true", encryptionKMSID: "keeper" },
  secrets: { ...SECRETS, encryptionPassphrase: "unused" },
});

/** Ceph that refuses a method once, for want of space. */
const refusing = (cluster: MemoryCluster, method: CephMethod) => failingOnce(cephMemoryService(cluster), method, /./);

test("A snapshot that is being undone is not completed when its source is gone", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const volumeId = await aVolume(making, cluster);
  const undoing = held(refusing(cluster, "imageBriefs"), "trashMove");
  await using first = aDriver(cluster, { ceph: undoing.ceph });
  const failed = failureOf(first.createSnapshot(snapshotOf(volumeId)));
  await eventually(() => undoing.waiting() === 1, "the undo");
  await making.deleteVolume(deletion(volumeId));
  expect(await failureOf(making.createSnapshot(snapshotOf(volumeId)))).toMatchObject({ code: "NOT_FOUND" });
  undoing.letGo();
  expect(await failed).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
  await settled(cluster);
  expect(poolDump(cluster).images).toEqual({});
});

test("A snapshot that is being deleted before it was ready is made under another ID", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const volumeId = await aVolume(making, cluster);
  const never = intercepted(cephMemoryService(cluster), (call, act) =>
    call.method === "snapshotCreate" && call.subject.includes("csi-snap-") ? Effect.never : act,
  );
  const { snapshot } = await aDriver(cluster, { ceph: never }).createSnapshot(snapshotOf(volumeId));
  const deleting = held(cephMemoryService(cluster), "omapWrite", /csi\.snaps\.default/);
  await using second = aDriver(cluster, { ceph: deleting.ceph });
  const deleted = second.deleteSnapshot(snapshotDeletion(snapshot.snapshotId));
  await eventually(() => deleting.waiting() === 1, "the name about to be freed");
  const ready = await readySnapshot(making, snapshotOf(volumeId));
  deleting.letGo();
  await deleted;
  expect(ready.snapshotId).not.toBe(snapshot.snapshotId);
  expect((await readySnapshot(making, snapshotOf(volumeId))).snapshotId).toBe(ready.snapshotId);
});

test("The deletion of a snapshot that was cut off is finished although the source is gone", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const volumeId = await aVolume(driver, cluster);
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId));
  const dying = held(cephMemoryService(cluster), "omapWrite", /csi\.snaps\.default/);
  void aDriver(cluster, { ceph: dying.ceph }).deleteSnapshot(snapshotDeletion(snapshotId));
  await eventually(() => dying.waiting() === 1, "the name about to be freed");
  await driver.deleteVolume(deletion(volumeId));
  expect(await failureOf(driver.createSnapshot(snapshotOf(volumeId)))).toMatchObject({ code: "NOT_FOUND" });
  expect(poolDump(cluster).objects).toEqual({ "csi.volumes.default": {}, "csi.snaps.default": {} });
});

test("A clone that comes after its call, and a retry, had failed leaves nothing", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const volumeId = await aVolume(making, cluster);
  const { snapshotId } = await readySnapshot(making, snapshotOf(volumeId, { name: "snap-0" }));
  let late: Effect.Effect<unknown, unknown> = Effect.void;
  let clones = 0;
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    if (call.method !== "imageClone") return act;
    clones += 1;
    if (clones === 1) {
      late = act;
      return Effect.fail(new CallStuck({ op: "rbd_clone", subject: call.subject, reason: "it hangs" }));
    }
    return clones === 2 ? Effect.fail(FULL) : act;
  });
  await using driver = aDriver(cluster, { ceph });
  expect(await failureOf(driver.createVolume(restoreOf(snapshotId)))).toMatchObject({ code: "UNAVAILABLE" });
  expect(await failureOf(driver.createVolume(restoreOf(snapshotId)))).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
  const { volume } = await driver.createVolume(restoreOf(snapshotId));
  await Effect.runPromise(Effect.exit(late));
  await driver.deleteVolume(deletion(volume.volumeId));
  await driver.deleteSnapshot(snapshotDeletion(snapshotId));
  await driver.deleteVolume(deletion(volumeId));
  await settled(cluster);
  expect(poolDump(cluster)).toMatchObject({
    images: {},
    objects: { "csi.volumes.default": {}, "csi.snaps.default": {} },
  });
});

test("The deletion of a source does not bring back a copy that is being undone", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const volumeId = await aVolume(making, cluster);
  const refused = refusing(cluster, "imageClone");
  const freeing = held(refused, "omapWrite");
  let writes = 0;
  const undoing = held(
    {
      ...refused,
      // the first one reserves the name
      omapWrite: (pool, object, write) =>
        (object === "csi.volumes.default" && (writes += 1) > 1 ? freeing.ceph : refused).omapWrite(pool, object, write),
    },
    "snapshotRemove",
  );
  await using first = aDriver(cluster, { ceph: undoing.ceph });
  const failed = failureOf(first.createVolume(cloneOf(volumeId)));
  await eventually(() => undoing.waiting() === 1, "the undo");
  const dying = held(cephMemoryService(cluster), "trashMove");
  void aDriver(cluster, { ceph: dying.ceph }).deleteVolume(deletion(volumeId));
  await eventually(() => dying.waiting() === 1, "the source about to go");
  undoing.letGo();
  await eventually(() => freeing.waiting() === 1, "the name about to be freed");
  const { volume } = await making.createVolume(cloneOf(volumeId));
  freeing.letGo();
  expect(await failed).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
  expect((await making.createVolume(cloneOf(volumeId))).volume.volumeId).toBe(volume.volumeId);
});

test("An image that a mirror daemon watches is undone by the next call, too", async () => {
  const cluster = aCluster();
  const undoing = held(refusing(cluster, "imageMetaSet"), "trashMove");
  const metadata = { "csi.storage.k8s.io/pvc/name": "x", "csi.storage.k8s.io/pvc/namespace": "y" };
  const request = creation({ name: "pvc-2", parameters: { ...PARAMETERS, ...metadata } });
  void failureOf(aDriver(cluster, { ceph: undoing.ceph }).createVolume(request));
  await eventually(() => undoing.waiting() === 1, "the undo");
  const [name = ""] = Object.keys(poolDump(cluster).images);
  cluster.image("rbd", name).mirror = "primary";
  cluster.watch("rbd", name);
  await using second = aDriver(cluster);
  await second.createVolume(request);
  expect(Object.keys(poolDump(cluster).images)).not.toContain(name);
});

test("An undo that was cut off is finished on the source that the snapshot was of", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const volumeId = await aVolume(driver, cluster);
  const other = await aVolume(driver, cluster, { name: "pvc-9" });
  const undoing = held(refusing(cluster, "imageClone"), "snapshotRemove");
  void failureOf(aDriver(cluster, { ceph: undoing.ceph }).createSnapshot(snapshotOf(volumeId)));
  await eventually(() => undoing.waiting() === 1, "the undo");
  await readySnapshot(driver, snapshotOf(other));
  await driver.deleteVolume(deletion(volumeId));
});

test("The key of a volume whose undo was cut off goes with the volume", async () => {
  const cluster = aCluster();
  const kept: Kept = new Map();
  const dying = interceptedStore(keepingStore(kept), (method, act) => (method === "remove" ? Effect.never : act));
  const ceph = refusing(cluster, "imageMetaSet");
  void failureOf(aDriver(cluster, { stores: { keeper: dying }, ceph }).createVolume(ENCRYPTED));
  await eventually(() => kept.size === 1 && Object.keys(poolDump(cluster).images).length === 0, "the image undone");
  await using second = aDriver(cluster, { stores: { keeper: keepingStore(kept) } });
  const { volume } = await second.createVolume(ENCRYPTED);
  await second.deleteVolume(deletion(volume.volumeId));
  expect([...kept.keys()]).toEqual([]);
});

test("The key of an answered volume stays when another driver undoes", async () => {
  const cluster = aCluster();
  const kept: Kept = new Map();
  const going = Promise.withResolvers<void>();
  let removing = false;
  const slow = interceptedStore(keepingStore(kept), (method, act) => {
    if (method !== "remove") return act;
    removing = true;
    return Effect.andThen(
      Effect.promise(() => going.promise),
      act,
    );
  });
  await using first = aDriver(cluster, { stores: { keeper: slow }, ceph: refusing(cluster, "imageCreate") });
  const failed = failureOf(first.createVolume(ENCRYPTED));
  await eventually(() => removing, "the key about to go");
  await using second = aDriver(cluster, { stores: { keeper: keepingStore(kept) } });
  const { volume } = await second.createVolume(ENCRYPTED);
  going.resolve();
  expect(await failed).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
  expect([...kept.keys()]).toEqual([volume.volumeId]);
});

test("A deletion that waits for its snapshot to be ready succeeds", async () => {
  const cluster = aCluster();
  const making = held(cephMemoryService(cluster), "imageMetaSet", /csi-snap-/);
  const { service, calls } = recorded(making.ceph);
  const looks = () =>
    calls().filter(({ method, subject }) => method === "omapGet" && /csi\.snap\./.test(subject)).length;
  await using driver = aDriver(cluster, { ceph: service });
  const volumeId = await aVolume(driver, cluster);
  const { snapshot } = await driver.createSnapshot(snapshotOf(volumeId));
  await eventually(() => making.waiting() === 1, "the work behind the answer");
  const before = looks();
  const deleted = driver.deleteSnapshot(snapshotDeletion(snapshot.snapshotId));
  await eventually(() => looks() > before, "the deletion's look at the journal");
  making.letGo();
  await deleted;
  expect(Object.keys(poolDump(cluster).images)).toEqual([imageOf(volumeId)]);
});

test("A snapshot without the ID of its image, whose deletion was refused, is what the name still stands for", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const volumeId = await aVolume(driver, cluster);
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId));
  // as older releases of ceph-csi left it
  objectsOf(cluster)
    .get(`csi.snap.${uuidOf(snapshotId)}`)
    ?.delete("csi.imageid");
  await byHand(cluster).snapshot(holderOf(snapshotId), "mine");
  expect(await failureOf(driver.deleteSnapshot(snapshotDeletion(snapshotId)))).toMatchObject({
    code: "FAILED_PRECONDITION",
  });
  expect((await readySnapshot(driver, snapshotOf(volumeId))).snapshotId).toBe(snapshotId);
});

test("The key of a snapshot stays while a person keeps its image in the trash", async () => {
  const cluster = aCluster();
  const kept: Kept = new Map();
  await using driver = aDriver(cluster, { stores: { keeper: keepingStore(kept) } });
  const { volume } = await driver.createVolume(ENCRYPTED);
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volume.volumeId));
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, holderOf(snapshotId)));
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(await failureOf(driver.createSnapshot(snapshotOf(volume.volumeId)))).toMatchObject({ code: "NOT_FOUND" });
  expect([...kept.keys()]).toEqual([snapshotId]);
});
