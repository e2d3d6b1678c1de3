/** The number of calls to Ceph does not depend on how many names a journal has. */
import { expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import { aVolume, readySnapshot, restoreOf, snapshotDeletion, snapshotOf } from "../../support/copies-world.ts";
import { aCluster, deletion, objectsOf, seed } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";

test("R42: copies and deletes make as many calls among 300 names as alone, and scan no directory", async () => {
  const counts = async (others: number) => {
    const cluster = aCluster();
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const id = await aVolume(driver, cluster);
    for (let n = 0; n < others; n++) {
      objectsOf(cluster).get("csi.volumes.default")?.set(`csi.volume.other-${n}`, UUID);
      seed(cluster, { [`csi.snap.${UUID}`]: {} });
    }
    forget();
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const { volume } = await driver.createVolume(restoreOf(snapshotId));
    await driver.deleteVolume(deletion(volume.volumeId));
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    return calls().map(({ method }) => method);
  };
  const alone = await counts(0);
  expect(alone).not.toContain("omapList");
  expect(alone).not.toContain("trashList");
  expect(await counts(300)).toEqual(alone);
});
