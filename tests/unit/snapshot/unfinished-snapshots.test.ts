/**
 * Snapshots that a driver has begun and not finished, as ceph-csi leaves them: the next request for the name finishes
 * them. Drivers of this layout went wrong here before; each R-number is one such case.
 *
 * Not here: deaths of our own driver (tests/unit/crash/crash-copies.test.ts).
 */
import { expect, test } from "bun:test";
import type { MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  imageOf,
  metaOf,
  MIB_4,
  PARAMETERS,
  read,
  readySnapshot,
  restoreOf,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import { aCluster, codeOf, failureOf, objectsOf, poolDump, seed, uuidOf } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const HOLDER = `csi-snap-${UUID}`;
const K8S = "csi.storage.k8s.io/";

/** ceph-csi's reservation of `snap-1`, complete. */
const reserveSnapshot = (cluster: MemoryCluster, source: string): void => {
  const attributes = { "csi.snapname": "snap-1", "csi.imagename": HOLDER, "csi.source": source };
  seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": UUID }, [`csi.snap.${UUID}`]: attributes });
};

test("R13: a snapshot whose own snapshot is missing is made ready by the first retry", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  reserveSnapshot(cluster, imageOf(id));
  await byHand(cluster).snapshot(imageOf(id), HOLDER);
  await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
  await byHand(cluster).dropSnapshot(imageOf(id), HOLDER);
  const data = read(cluster, imageOf(id));
  cluster.image("rbd", imageOf(id)).write(0n, MIB_4);
  const { snapshot } = await driver.createSnapshot(snapshotOf(id));
  expect(uuidOf(snapshot.snapshotId)).toBe(UUID);
  const again = await readySnapshot(driver, snapshotOf(id));
  expect(again).toEqual({ ...snapshot, readyToUse: true });
  expect(snapshotsOf(cluster, HOLDER)).toEqual([`user ${HOLDER}`]);
  expect(read(cluster, HOLDER)).toEqual(data);
});

test("R13: a snapshot whose own snapshot is missing cannot be restored yet, and the message says so", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  reserveSnapshot(cluster, imageOf(id));
  await byHand(cluster).snapshot(imageOf(id), HOLDER);
  await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
  const before = poolDump(cluster).images;
  const failure = await failureOf(driver.createVolume(restoreOf(`0001-0004-east-0000000000000002-${UUID}`)));
  expect(failure).toMatchObject({ code: "ABORTED", message: expect.stringContaining("not ready to use yet") });
  expect(poolDump(cluster).images).toEqual(before);
  expect(objectsOf(cluster).get("csi.volumes.default")?.has("csi.volume.pvc-copy")).toBe(false);
});

test("a snapshot whose image a dead driver still has open is made by a later retry", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  reserveSnapshot(cluster, imageOf(id));
  await byHand(cluster).snapshot(imageOf(id), HOLDER);
  await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
  const close = cluster.watch("rbd", HOLDER);
  expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("ABORTED");
  close();
  await readySnapshot(driver, snapshotOf(id));
});

test("R15: the retry of CreateSnapshot writes metadata on the snapshot, and none on the source", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-1" } });
  reserveSnapshot(cluster, imageOf(id));
  await byHand(cluster).snapshot(imageOf(id), HOLDER);
  await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
  await byHand(cluster).dropSnapshot(imageOf(id), HOLDER);
  const before = metaOf(cluster, imageOf(id));
  await readySnapshot(driver, snapshotOf(id, { parameters: { [`${K8S}volumesnapshot/name`]: "nightly" } }));
  expect(metaOf(cluster, imageOf(id))).toEqual(before);
  expect(metaOf(cluster, HOLDER)).toEqual({ [`${K8S}volumesnapshot/name`]: "nightly" });
});

test("R16: each answer of CreateSnapshot names its source", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  const first = await driver.createSnapshot(snapshotOf(id));
  expect(first.snapshot.readyToUse).toBe(false);
  const second = await readySnapshot(driver, snapshotOf(id));
  const third = await driver.createSnapshot(snapshotOf(id));
  expect([first.snapshot, second, third.snapshot].map(({ sourceVolumeId }) => sourceVolumeId)).toEqual([id, id, id]);
});
