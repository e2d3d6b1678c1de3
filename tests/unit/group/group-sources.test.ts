/** Group snapshots whose point in time is recorded, and their volumes: which may be deleted when, and what becomes of a group without one. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  asking,
  BLOCK,
  DIRECTORY,
  dropVolumes,
  grouping,
  groupNow,
  holderNow,
  imageOf,
  read,
  readyGroup,
  restored,
  twoVolumes,
  ungrouping,
} from "../../support/group-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, codeOf, deletion, eventually, failureOf, poolDump, SECRETS, seed } from "../../support/world.ts";

/** Two volumes, and a group snapshot of them by a driver that died before it made a member. */
const aTakenGroup = async (cluster: MemoryCluster) => {
  seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {} });
  const dying = intercepted(cephMemoryService(cluster), ({ method }, act) =>
    method === "imageClone" ? Effect.die("the driver died") : act,
  );
  await using driver = aDriver(cluster, { ceph: dying });
  const ids = await twoVolumes(driver, cluster);
  await driver.createGroup(grouping(ids)).catch(() => undefined);
  const { groupSnapshot } = await driver.getGroup(asking(groupNow(cluster) ?? ""));
  const data = ids.map((id) => read(cluster, imageOf(id)));
  for (const id of ids) cluster.image("rbd", imageOf(id)).write(0n, BLOCK);
  expect(groupSnapshot.readyToUse).toBe(false);
  return { ids, data, taken: groupSnapshot };
};

describe("a volume of a group snapshot", () => {
  for (const trashesMembers of [true, false]) {
    test(`DeleteVolume refuses it until its member is made, where Ceph ${trashesMembers ? "would move it to the trash" : "refuses, too"}`, async () => {
      const cluster = aCluster({ trashesMembers });
      const { ids, data, taken } = await aTakenGroup(cluster);
      await using driver = aDriver(cluster);
      const before = cluster.dump();
      for (const id of ids) {
        const failure = await failureOf(driver.deleteVolume(deletion(id)));
        expect(failure).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringContaining("a part of the snapshot of an RBD group"),
        });
      }
      expect(cluster.dump()).toEqual(before);
      const group = await readyGroup(driver, grouping(ids));
      expect(group).toMatchObject({ creationTime: taken.creationTime, groupSnapshotId: taken.groupSnapshotId });
      await dropVolumes(driver, ids);
      // the group snapshot is there without its volumes
      expect(await readyGroup(driver, grouping(ids))).toEqual(group);
      for (const [i, { snapshotId }] of group.snapshots.entries()) {
        const copy = await restored(driver, `copy-${i}`, snapshotId);
        expect(read(cluster, imageOf(copy))).toEqual(data[i] ?? []);
        await dropVolumes(driver, [copy]);
      }
      await driver.deleteGroup(ungrouping(group.groupSnapshotId));
      await eventually(() => {
        cluster.runManager();
        return Object.keys(poolDump(cluster).trash).length === 0;
      }, "an empty trash");
      expect(poolDump(cluster).images).toEqual({});
    });
  }

  test("A call without one of its volumes makes the other members, says which volume is gone, and goes on when it is back", async () => {
    const cluster = aCluster();
    const { ids, data, taken } = await aTakenGroup(cluster);
    const [gone, there] = ids;
    await using driver = aDriver(cluster);
    const images = cluster.namespace("rbd", "")?.images;
    const image = cluster.image("rbd", imageOf(gone));
    images?.delete(imageOf(gone));
    for (let times = 0; times < 2; times++) {
      const failure = await failureOf(driver.createGroup(grouping(ids)));
      const message = expect.stringMatching(new RegExp(`volume ${gone} is gone.*rbd trash restore`));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message });
    }
    const made = taken.snapshots.find(({ sourceVolumeId }) => sourceVolumeId === there)?.snapshotId ?? "";
    const { snapshot } = await driver.getSnapshot({ snapshotId: made, secrets: SECRETS });
    expect(snapshot.readyToUse).toBe(true);
    await dropVolumes(driver, [there]).catch(() => undefined);
    images?.set(imageOf(gone), image);
    const { groupSnapshotId, creationTime, snapshots } = await readyGroup(driver, grouping(ids));
    expect([groupSnapshotId, creationTime]).toEqual([taken.groupSnapshotId, taken.creationTime]);
    const seen = snapshots.map(({ snapshotId }) => read(cluster, holderNow(cluster, snapshotId)));
    expect(seen).toEqual(data);
  });

  test("A new group snapshot of a volume that is gone is NOT_FOUND, as ever", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const ids = await twoVolumes(driver, cluster);
    await dropVolumes(driver, [ids[1]]);
    expect(await codeOf(driver.createGroup(grouping(ids)))).toBe("NOT_FOUND");
  });
});
