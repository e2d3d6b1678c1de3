/** Group snapshots that ceph-csi has completed: their members have random UUIDs, and are known by their volumes alone. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { POOL, readySnapshot, snapshotOf } from "../../support/copies-world.ts";
import {
  asking,
  aVolume,
  DIRECTORY,
  dropVolumes,
  grouping,
  imageOf,
  read,
  readyGroup,
  restored,
  twoVolumes,
  ungrouping,
} from "../../support/group-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import {
  aCluster,
  codeOf,
  creation,
  eventually,
  failureOf,
  objectsOf,
  PARAMETERS,
  poolDump,
  seed,
  uuidOf,
} from "../../support/world.ts";

const UUID = "c0000000-0000-4000-8000-000000000009";
const ID = `0001-0004-east-0000000000000002-${UUID}`;
const THEN = "2026-01-01T00:00:00.123456789Z";

/** Writes the entry of `group-1` as ceph-csi does. */
const writeEntry = (cluster: MemoryCluster, members: readonly string[], time: string | undefined) =>
  seed(cluster, {
    [DIRECTORY]: { "csi.volume.group.group-1": UUID },
    [`csi.volume.group.${UUID}`]: {
      "csi.volname": "group-1",
      "csi.groupname": `csi-vol-group-${UUID}`,
      ...(time !== undefined && { "csi.creationtime": time }),
      ...Object.fromEntries(members.map((member) => [member, `csi-snap-${uuidOf(member)}`])),
    },
  });

/** Makes `group-1` of the volumes as ceph-csi does -> its snapshots, in the order of the volumes. */
const complete = async (cluster: MemoryCluster, driver: Driver, ids: readonly string[], time: string | undefined) => {
  const members = [];
  for (const [i, id] of ids.entries()) {
    const member = await readySnapshot(driver, snapshotOf(id, { name: `member-${i}` }));
    objectsOf(cluster)
      .get(`csi.snap.${uuidOf(member.snapshotId)}`)
      ?.set("csi.groupid", ID);
    members.push(member);
  }
  writeEntry(
    cluster,
    members.map(({ snapshotId }) => snapshotId),
    time,
  );
  return members;
};

const aWorld = async (time: string | undefined) => {
  const cluster = aCluster();
  seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {} });
  const clock = virtualTime();
  const driver = aDriver(cluster, { time: clock });
  const ids = await clock.until(twoVolumes(driver, cluster));
  const before = cluster.dump();
  const members = await clock.until(complete(cluster, driver, ids, time));
  return { cluster, clock, driver, ids, before, members };
};

for (const [what, time] of [
  ["", THEN],
  [" that has no creation time", undefined],
] as const) {
  test(`CreateVolumeGroupSnapshot answers with a group snapshot${what} that ceph-csi completed, in the order of the request`, async () => {
    const { cluster, clock, driver, ids, members } = await aWorld(time);
    await using _driver = driver;
    const there = cluster.dump();
    for (const order of [ids, ids.toReversed()]) {
      const { groupSnapshot } = await clock.until(driver.createGroup(grouping(order)));
      expect(groupSnapshot).toMatchObject({ groupSnapshotId: ID, readyToUse: true });
      expect(groupSnapshot.snapshots.map(({ sourceVolumeId }) => sourceVolumeId)).toEqual(order);
      for (const { snapshotId, sourceVolumeId, sizeBytes, readyToUse } of members) {
        const creationTime = groupSnapshot.creationTime;
        const wanted = { snapshotId, sourceVolumeId, sizeBytes, readyToUse, creationTime, groupSnapshotId: ID };
        expect(groupSnapshot.snapshots).toContainEqual(expect.objectContaining(wanted));
      }
      const { groupSnapshot: got } = await driver.getGroup(asking(ID));
      expect(groupSnapshot.creationTime).toEqual(got.creationTime as never);
    }
    expect(cluster.dump()).toEqual(there);
  });
}

test("CreateVolumeGroupSnapshot answers ALREADY_EXISTS for other volumes than those of ceph-csi's group snapshot, and changes nothing", async () => {
  const { cluster, clock, driver, ids } = await aWorld(THEN);
  await using _driver = driver;
  const [a, b] = ids;
  const c = await clock.until(aVolume(driver, cluster, "pvc-c"));
  const d = await clock.until(aVolume(driver, cluster, "pvc-d", { parameters: { ...PARAMETERS, pool: "ssd" } }));
  const there = cluster.dump();
  for (const others of [[a], [a, c], [c, b], [a, b, c], [a, d]]) {
    const failure = await failureOf(
      driver.createGroup(grouping(others, { parameters: { clusterID: "east", pool: "rbd" } })),
    );
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("of other volumes") });
  }
  expect(cluster.dump()).toEqual(there);
});

test("CreateVolumeGroupSnapshot answers ALREADY_EXISTS to the name of a group of as many volumes, and leaves its RBD group", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const ids = await twoVolumes(driver, cluster);
  writeEntry(cluster, ids, THEN);
  await Effect.runPromise(cephMemoryService(cluster).groupCreate(POOL, `csi-vol-group-${UUID}`));
  const there = cluster.dump();
  expect(await codeOf(driver.createGroup(grouping(ids)))).toBe("ALREADY_EXISTS");
  expect(cluster.dump()).toEqual(there);
});

test("CreateVolumeGroupSnapshot of ceph-csi's group snapshot needs none of its volumes, also if they had a name prefix", async () => {
  const cluster = aCluster();
  const clock = virtualTime();
  await using driver = aDriver(cluster, { time: clock });
  const ids: string[] = [];
  for (const name of ["pvc-a", "pvc-b"]) {
    const parameters = { ...PARAMETERS, volumeNamePrefix: "mine-" };
    const { volume } = await clock.until(driver.createVolume(creation({ name, parameters })));
    ids.push(volume.volumeId);
  }
  await clock.until(complete(cluster, driver, ids, THEN));
  const first = await clock.until(readyGroup(driver, grouping(ids)));
  await clock.until(dropVolumes(driver, ids));
  expect(await clock.until(readyGroup(driver, grouping(ids)))).toEqual(first);
});

test("CreateVolumeGroupSnapshot says which member of ceph-csi's group snapshot has lost its image", async () => {
  const { cluster, clock, driver, ids, members } = await aWorld(THEN);
  await using _driver = driver;
  const lost = members[1]?.snapshotId ?? "";
  cluster.namespace("rbd", "")?.images.delete(`csi-snap-${uuidOf(lost)}`);
  const failure = await failureOf(clock.until(driver.createGroup(grouping(ids))));
  const message = expect.stringContaining(`snapshot ${lost} is gone`);
  expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message });
});

test("A group snapshot that ceph-csi completed is restored, and DeleteVolumeGroupSnapshot leaves nothing of it", async () => {
  const { cluster, clock, driver, ids, before, members } = await aWorld(THEN);
  await using _driver = driver;
  const snapshotIds = members.map(({ snapshotId }) => snapshotId);
  const copy = await clock.until(restored(driver, "copy", snapshotIds[0] ?? ""));
  expect(read(cluster, imageOf(copy))).toEqual(read(cluster, imageOf(ids[0])));
  await clock.until(dropVolumes(driver, [copy]));
  for (let times = 0; times < 2; times++) await clock.until(driver.deleteGroup(ungrouping(ID, { snapshotIds })));
  await clock.pass("40 seconds");
  await eventually(() => {
    cluster.runManager();
    return Object.keys(poolDump(cluster).trash).length === 0;
  }, "an empty trash");
  expect(cluster.dump()).toEqual(before);
  expect(await codeOf(driver.getGroup(asking(ID)))).toBe("NOT_FOUND");
});
