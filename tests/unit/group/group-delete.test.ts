/** DeleteVolumeGroupSnapshot, and what becomes of members whose snapshot is to be deleted alone. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { NoSpace } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  asking,
  aVolume,
  DIRECTORY,
  dropVolumes,
  grouping,
  HALF_MADE_GROUP,
  halfMadeGroup,
  groupNow,
  holderOf,
  imageOf,
  isTaken,
  read,
  readyGroup,
  restored,
  twoVolumes,
  ungrouping,
} from "../../support/group-world.ts";
import { aCluster, codeOf, eventually, failureOf, poolDump, seed, uuidOf, SECRETS } from "../../support/world.ts";
import { LISTING } from "../../support/listing-world.ts";
import { PARAMETERS, POOL, snapshotDeletion } from "../../support/copies-world.ts";

const emptyTrash = (cluster: MemoryCluster) =>
  eventually(() => {
    cluster.runManager();
    return Object.keys(poolDump(cluster).trash).length === 0;
  }, "an empty trash");

/** A world with the group snapshot `group-1`, and how the cluster was before it. */
const aGroup = async () => {
  const cluster = aCluster();
  seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {} });
  const driver = aDriver(cluster);
  const ids = await twoVolumes(driver, cluster);
  const before = cluster.dump();
  const group = await readyGroup(driver, grouping(ids));
  const members = group.snapshots.map(({ snapshotId }) => snapshotId);
  return { cluster, driver, ids, before, group, members, id: group.groupSnapshotId };
};

describe("DeleteVolumeGroupSnapshot", () => {
  test("DeleteVolumeGroupSnapshot leaves nothing behind, and succeeds a second time", async () => {
    const { cluster, driver, before, members, id } = await aGroup();
    await using _driver = driver;
    await driver.deleteGroup(ungrouping(id, { snapshotIds: members }));
    await emptyTrash(cluster);
    expect(cluster.dump()).toEqual(before);
    await driver.deleteGroup(ungrouping(id, { snapshotIds: members }));
    await driver.deleteGroup(ungrouping("no-id-of-ours"));
    expect(cluster.dump()).toEqual(before);
    expect(await codeOf(driver.getGroup(asking(id)))).toBe("NOT_FOUND");
    for (const member of members)
      expect(await codeOf(driver.getSnapshot({ snapshotId: member, secrets: SECRETS }))).toBe("NOT_FOUND");
  });

  test("DeleteVolumeGroupSnapshot keeps the restored volumes with their data", async () => {
    const { cluster, driver, before, members, ids, id } = await aGroup();
    await using _driver = driver;
    const copy = await restored(driver, "copy", members[0] ?? "");
    const data = read(cluster, imageOf(ids[0]));
    await driver.deleteGroup(ungrouping(id, { snapshotIds: members }));
    expect(read(cluster, imageOf(copy))).toEqual(data);
    await dropVolumes(driver, [copy]);
    await emptyTrash(cluster);
    expect(cluster.dump()).toEqual(before);
  });

  test("DeleteVolumeGroupSnapshot deletes the other members where the pool of one is gone, and until then no call says that the group is", async () => {
    const cluster = aCluster();
    seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {} });
    await using driver = aDriver(cluster);
    const here = await aVolume(driver, cluster, "pvc-a");
    const before = poolDump(cluster);
    const there = await aVolume(driver, cluster, "pvc-b", { parameters: { ...PARAMETERS, pool: "ssd" } });
    const { groupSnapshotId, snapshots } = await readyGroup(
      driver,
      grouping([here, there], { parameters: { clusterID: "east", pool: "rbd" } }),
    );
    cluster.pools.delete("ssd");
    expect(await failureOf(driver.getGroup(asking(groupSnapshotId)))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("Delete the group snapshot"),
    });
    const snapshotIds = snapshots.map(({ snapshotId }) => snapshotId);
    for (let times = 0; times < 2; times++) await driver.deleteGroup(ungrouping(groupSnapshotId, { snapshotIds }));
    await emptyTrash(cluster);
    expect(poolDump(cluster)).toEqual(before);
  });

  test("DeleteVolumeGroupSnapshot refuses members that are not the group's, and changes nothing", async () => {
    const { cluster, driver, members, id } = await aGroup();
    await using _driver = driver;
    const there = cluster.dump();
    const foreign = id.replace(uuidOf(id), crypto.randomUUID());
    for (const snapshotIds of [members.slice(1), [...members, foreign], [foreign]]) {
      const failure = await failureOf(driver.deleteGroup(ungrouping(id, { snapshotIds })));
      expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("snapshot_ids") });
    }
    expect(await codeOf(driver.deleteGroup(ungrouping("")))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.deleteGroup(ungrouping(id, { secrets: {} })))).toBe("FAILED_PRECONDITION");
    expect(cluster.dump()).toEqual(there);
  });

  test("DeleteVolumeGroupSnapshot never touches a group of volumes that another client made", async () => {
    const { cluster, driver, ids, id } = await aGroup();
    await using _driver = driver;
    const uuid = crypto.randomUUID();
    const ceph = cephMemoryService(cluster);
    await Effect.runPromise(ceph.groupCreate(POOL, `csi-vol-group-${uuid}`));
    await Effect.runPromise(ceph.groupAdd(POOL, `csi-vol-group-${uuid}`, { pool: POOL, image: imageOf(ids[0]) }));
    const entry = { "csi.volname": "vg", "csi.groupname": `csi-vol-group-${uuid}`, [ids[0]]: "" };
    seed(cluster, { [`csi.volume.group.${uuid}`]: entry });
    const there = cluster.dump();
    const theirs = id.replace(uuidOf(id), uuid);
    expect(await codeOf(driver.deleteGroup(ungrouping(theirs)))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.getGroup(asking(theirs)))).toBe("INVALID_ARGUMENT");
    expect(cluster.dump()).toEqual(there);
  });

  test("DeleteVolumeGroupSnapshot removes an entry that ceph-csi left without members, and its name", async () => {
    const cluster = aCluster();
    seed(cluster, { [DIRECTORY]: {} });
    const before = cluster.dump();
    await using driver = aDriver(cluster);
    const id = halfMadeGroup(cluster, "2024-10-22T12:30:00Z");
    for (let times = 0; times < 2; times++) await driver.deleteGroup(ungrouping(id));
    expect(cluster.dump()).toEqual(before);
  });

  test("DeleteVolumeGroupSnapshot never touches a group of volumes that has none yet", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = halfMadeGroup(cluster, "2024-10-22T12:30:00Z");
    await Effect.runPromise(cephMemoryService(cluster).groupCreate(POOL, HALF_MADE_GROUP));
    const before = cluster.dump();
    expect(await codeOf(driver.deleteGroup(ungrouping(id)))).toBe("INVALID_ARGUMENT");
    expect(cluster.dump()).toEqual(before);
  });

  test("DeleteVolumeGroupSnapshot keeps what another driver makes of an entry that had no members", async () => {
    const cluster = aCluster();
    await using other = aDriver(cluster);
    const ids = await twoVolumes(other, cluster);
    const id = halfMadeGroup(cluster, "2024-10-22T12:30:00Z");
    let made: unknown;
    const late = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "omapWrite" && made === undefined
        ? Effect.andThen(
            Effect.promise(async () => {
              made = await readyGroup(other, grouping(ids));
            }),
            act,
          )
        : act,
    );
    await using driver = aDriver(cluster, { ceph: late });
    expect(await codeOf(driver.deleteGroup(ungrouping(id)))).toBe("ABORTED");
    expect(await readyGroup(other, grouping(ids))).toEqual(made as never);
  });

  test("a DeleteVolumeGroupSnapshot that was cut off frees the name for another group snapshot, and its retry keeps that one", async () => {
    const { cluster, driver, before, members, ids, id } = await aGroup();
    await using _driver = driver;
    const failing = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "trashMove" ? Effect.fail(new NoSpace({ op: "rbd_trash_move", subject: "rbd" })) : act,
    );
    await using cut = aDriver(cluster, { ceph: failing });
    expect(await codeOf(cut.deleteGroup(ungrouping(id)))).toBe("RESOURCE_EXHAUSTED");
    const second = await readyGroup(driver, grouping(ids));
    expect(second.groupSnapshotId).not.toBe(id);
    await driver.deleteGroup(ungrouping(id, { snapshotIds: members }));
    const { groupSnapshot } = await driver.getGroup(asking(second.groupSnapshotId));
    expect(groupSnapshot).toMatchObject({ readyToUse: true, groupSnapshotId: second.groupSnapshotId });
    expect(await readyGroup(driver, grouping(ids))).toEqual(second);
    await driver.deleteGroup(ungrouping(second.groupSnapshotId));
    await emptyTrash(cluster);
    expect(cluster.dump()).toEqual(before);
  });

  test("DeleteVolumeGroupSnapshot uses the administrator's credentials where the request has none", async () => {
    const { cluster, driver: first, id } = await aGroup();
    await first[Symbol.asyncDispose]();
    await using driver = aDriver(cluster, LISTING);
    await driver.deleteGroup(ungrouping(id, { secrets: {} }));
    expect(await codeOf(driver.getGroup(asking(id)))).toBe("NOT_FOUND");
    expect(poolDump(cluster).objects[DIRECTORY]).toEqual({});
  });

  test("DeleteVolumeGroupSnapshot waits for the group snapshot that is being made", async () => {
    const cluster = aCluster();
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "imageClone"
        ? Effect.andThen(
            Effect.promise(() => held),
            act,
          )
        : act,
    );
    await using driver = aDriver(cluster, { ceph });
    seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {} });
    const ids = await twoVolumes(driver, cluster);
    const before = cluster.dump();
    const creation = driver.createGroup(grouping(ids));
    await eventually(() => isTaken(cluster), "the point in time");
    const deletion = driver.deleteGroup(ungrouping(groupNow(cluster) ?? ""));
    release();
    expect((await creation).groupSnapshot.readyToUse).toBe(true);
    await deletion;
    await emptyTrash(cluster);
    expect(cluster.dump()).toEqual(before);
  });
});

describe("DeleteSnapshot of a member", () => {
  test("DeleteSnapshot refuses a member while its group exists, and changes nothing", async () => {
    const { cluster, driver, members } = await aGroup();
    await using _driver = driver;
    const there = cluster.dump();
    const failure = await failureOf(driver.deleteSnapshot(snapshotDeletion(members[0] ?? "")));
    expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("is a member of") });
    expect(cluster.dump()).toEqual(there);
  });

  test("DeleteSnapshot deletes a member whose group is gone, and succeeds a second time", async () => {
    const { cluster, driver, members, id } = await aGroup();
    await using _driver = driver;
    const [member = ""] = members;
    cluster.namespace("rbd", "")?.objects.delete(`csi.volume.group.${uuidOf(id)}`);
    for (let times = 0; times < 2; times++) await driver.deleteSnapshot(snapshotDeletion(member));
    expect(poolDump(cluster).images[holderOf(member)]).toBeUndefined();
  });
});
