/**
 * Image metadata of ceph-csi 3.15 to 3.18 that this release does not act on: it stays where it is, so that whoever acts on
 * it, a node of ceph-csi or a later release, finds it.
 */
import { expect, test } from "bun:test";
import { aDriver } from "../../support/one-world.ts";
import { readySnapshot, restoreOf, snapshotOf } from "../../support/copies-world.ts";
import { aCluster, creation, deletion, expansion, GIB, PARAMETERS, uuidOf } from "../../support/world.ts";

const KEPT = {
  ".rbd.csi.ceph.com/serviceaccount": "builder,tester",
  ".rbd.csi.ceph.com/clientAddress/node-1": "10.0.0.1:0/123",
  ".rbd.csi.ceph.com/userID/node-1": "csi-rbd-node",
  ".rbd.image.creation_time": "seconds:1 nanos:2",
  "rbd.csi.ceph.com/luks2HeaderSize": "16777216",
};
const NAMES = { "csi.storage.k8s.io/pv/name": "pvc-1" };

test("A volume keeps the metadata of other drivers through its life, and a restore begins without its nodes and users", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { flags: { clustername: "prod" } });
  const request = creation({ parameters: { ...PARAMETERS, ...NAMES } });
  const { volume } = await driver.createVolume(request);
  const metaOf = (volumeId: string) => Object.fromEntries(cluster.image("rbd", `csi-vol-${uuidOf(volumeId)}`).meta);
  const { meta } = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
  for (const [key, value] of Object.entries(KEPT)) meta.set(key, value);
  await driver.createVolume(request);
  await driver.expandVolume(expansion(volume.volumeId));
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volume.volumeId));
  expect(metaOf(volume.volumeId)).toEqual({ ...KEPT, ...NAMES, "csi.ceph.com/cluster/name": "prod" });
  const restored = await driver.createVolume(restoreOf(snapshotId, { capacityRange: { requiredBytes: 2n * GIB } }));
  // librbd gives a clone no key that begins with a dot; so it is with ceph-csi.
  expect(Object.keys(metaOf(restored.volume.volumeId)).filter((key) => key.startsWith("."))).toEqual([]);
  await driver.deleteVolume(deletion(restored.volume.volumeId));
});
