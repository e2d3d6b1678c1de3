/** CreateVolumeGroupSnapshot and GetVolumeGroupSnapshot: one point in time, the layout, and what is refused. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { AccessDenied } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { GroupControllerServiceCapability_RPC_Type as Offered } from "../../../lib/gen/csi_pb.ts";
import { journalTime } from "../../support/group-time.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  asking,
  aVolume,
  BLOCK,
  DIRECTORY,
  dropVolumes,
  grouping,
  HALF_MADE_GROUP,
  halfMadeGroup,
  holderOf,
  imageOf,
  groupNow,
  isTaken,
  read,
  readyGroup,
  restored,
  twoVolumes,
  ungrouping,
} from "../../support/group-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  EAST,
  eventually,
  failureOf,
  GIB,
  PARAMETERS,
  poolDump,
  seed,
  uuidOf,
  SECRETS,
} from "../../support/world.ts";
import { POOL } from "../../support/copies-world.ts";
import { LISTING } from "../../support/listing-world.ts";

const trashIsEmpty = (cluster: MemoryCluster) => Object.keys(poolDump(cluster).trash).length === 0;

describe("CreateVolumeGroupSnapshot", () => {
  test("a group snapshot is one point in time of each volume, and each member restores it", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const ids = await twoVolumes(driver, cluster);
    const before = ids.map((id) => read(cluster, imageOf(id)));
    const group = await readyGroup(driver, grouping(ids));
    for (const id of ids) cluster.image("rbd", imageOf(id)).write(0n, BLOCK);
    expect(group.snapshots.map(({ sourceVolumeId }) => sourceVolumeId)).toEqual(ids);
    for (const [i, { snapshotId, ...snapshot }] of group.snapshots.entries()) {
      expect(snapshot).toMatchObject({
        sizeBytes: GIB,
        readyToUse: true,
        creationTime: group.creationTime,
        groupSnapshotId: group.groupSnapshotId,
      });
      const copy = await restored(driver, `copy-${i}`, snapshotId);
      expect(read(cluster, imageOf(copy))).toEqual(before[i] ?? []);
      expect(read(cluster, imageOf(ids[i] ?? ""))).not.toEqual(before[i] ?? []);
    }
  });

  test("a group snapshot has no write that came between its members' snapshots, because all have one moment", async () => {
    const cluster = aCluster();
    await using maker = aDriver(cluster);
    const [a, b] = await twoVolumes(maker, cluster);
    let writes = 0;
    // A writer that writes to one, then to the other, around every call of the driver.
    const writing = intercepted(cephMemoryService(cluster), (_call, act) =>
      Effect.andThen(
        Effect.sync(() => {
          writes += 1;
          const at = BigInt(writes) * 4096n;
          cluster.image("rbd", imageOf(a)).write(BLOCK + at, 4096n);
          cluster.image("rbd", imageOf(b)).write(BLOCK + at, 4096n);
        }),
        act,
      ),
    );
    await using driver = aDriver(cluster, { ceph: writing });
    const { snapshots } = await readyGroup(driver, grouping([a, b]));
    const [seenA = 0, seenB = 0] = snapshots.map(({ snapshotId }) => read(cluster, holderOf(snapshotId)).length);
    expect(seenA).toBe(seenB);
    expect(seenA).toBeGreaterThan(1);
    expect(seenA).toBeLessThan(writes);
  });

  test("a group snapshot has ceph-csi's layout, and leaves no RBD group", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const ids = await twoVolumes(driver, cluster);
    const { groupSnapshotId, creationTime, snapshots } = await readyGroup(driver, grouping(ids));
    const uuid = uuidOf(groupSnapshotId);
    expect(groupSnapshotId).toBe(`0001-0004-east-0000000000000002-${uuid}`);
    const { objects, images, groups } = poolDump(cluster);
    expect(groups).toBeUndefined();
    expect(objects[DIRECTORY]).toEqual({ "csi.volume.group.group-1": uuid });
    expect(objects[`csi.volume.group.${uuid}`]).toEqual({
      "csi.volname": "group-1",
      "csi.groupname": `csi-vol-group-${uuid}`,
      "csi.creationtime": journalTime(creationTime),
      ...Object.fromEntries(snapshots.map(({ snapshotId }) => [snapshotId, holderOf(snapshotId)])),
    });
    for (const [i, { snapshotId }] of snapshots.entries()) {
      const member = uuidOf(snapshotId);
      const source = ids[i] ?? "";
      const name = `group-${uuid}-${uuidOf(source)}`;
      expect(objects["csi.snaps.default"]?.[`csi.snap.${name}`]).toBe(member);
      expect(objects[`csi.snap.${member}`]).toEqual({
        "csi.snapname": name,
        "csi.imagename": `csi-snap-${member}`,
        "csi.imageid": cluster.image("rbd", `csi-snap-${member}`).id,
        "csi.source": imageOf(source),
        "csi.groupid": groupSnapshotId,
      });
      const { features, snapshots: own } = images[`csi-snap-${member}`] ?? {};
      expect(features).toBe("33");
      expect(own?.map(({ name: snapshot, kind }) => [snapshot, kind])).toEqual([[`csi-snap-${member}`, "user"]]);
      const left = images[imageOf(source)]?.snapshots.map(({ kind, children }) => [kind, children]);
      expect(left).toEqual([["trash", [`rbd/csi-snap-${member}`]]]);
    }
  });

  test("CreateVolumeGroupSnapshot answers when every member is ready, and a retry waits for them, too", async () => {
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
    const ids = await twoVolumes(driver, cluster);
    const first = driver.createGroup(grouping(ids));
    await eventually(() => isTaken(cluster), "the point in time");
    const groupSnapshotId = groupNow(cluster) ?? "";
    expect((await driver.getGroup(asking(groupSnapshotId))).groupSnapshot.readyToUse).toBe(false);
    const second = driver.createGroup(grouping(ids));
    release();
    const { groupSnapshot: ready } = await first;
    expect(ready).toMatchObject({ groupSnapshotId, readyToUse: true });
    expect(ready.snapshots.map(({ readyToUse, sizeBytes }) => [readyToUse, sizeBytes])).toEqual([
      [true, GIB],
      [true, GIB],
    ]);
    expect((await second).groupSnapshot).toEqual(ready);
    const byId = ready.snapshots.toSorted((x, y) => (x.snapshotId < y.snapshotId ? -1 : 1));
    expect((await driver.getGroup(asking(groupSnapshotId))).groupSnapshot).toEqual({
      ...ready,
      snapshots: byId,
    });
  });

  test("A failure after the point in time is ABORTED, so that the caller comes back, and the retry goes on with it", async () => {
    const cluster = aCluster();
    let denied = true;
    const refusal = new AccessDenied({ op: "rbd_clone", subject: "rbd", user: "x" });
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "imageClone" && denied ? Effect.fail(refusal) : act,
    );
    await using driver = aDriver(cluster, { ceph });
    const ids = await twoVolumes(driver, cluster);
    const failure = await failureOf(driver.createGroup(grouping(ids)));
    expect(failure).toMatchObject({ code: "ABORTED", message: expect.stringContaining(refusal.message) });
    const { creationTime } = (await driver.getGroup(asking(groupNow(cluster) ?? ""))).groupSnapshot;
    denied = false;
    expect((await driver.createGroup(grouping(ids))).groupSnapshot).toMatchObject({ creationTime, readyToUse: true });
  });

  test("a later driver answers with the same group snapshot for the same volumes in another order", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const [a, b] = await twoVolumes(driver, cluster);
    const made = await readyGroup(driver, grouping([a, b]));
    const before = cluster.dump();
    await using next = aDriver(cluster);
    const again = await readyGroup(next, grouping([b, a]));
    expect(again).toEqual({ ...made, snapshots: made.snapshots.toReversed() });
    expect(cluster.dump()).toEqual(before);
  });

  test("a group snapshot holds volumes of several pools, and its entry is in the pool that the class names", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const a = await aVolume(driver, cluster, "pvc-a");
    const b = await aVolume(driver, cluster, "pvc-b", { parameters: { ...PARAMETERS, pool: "ssd" } });
    const parameters = { pool: "ec", volumeNamePrefix: "mine-", snapshotNamePrefix: "snap-" };
    const group = await readyGroup(driver, grouping([a, b], { parameters }));
    expect(group.groupSnapshotId).toContain("-0000000000000004-");
    const { objects } = poolDump(cluster, "ec");
    const uuid = uuidOf(group.groupSnapshotId);
    expect(objects[`csi.volume.group.${uuid}`]?.["csi.groupname"]).toBe(`mine-${uuid}`);
    for (const [i, pool] of ["rbd", "ssd"].entries()) {
      const { snapshotId = "" } = group.snapshots[i] ?? {};
      expect(Object.keys(poolDump(cluster, pool).images)).toContain(`snap-${uuidOf(snapshotId)}`);
    }
    await driver.deleteGroup(ungrouping(group.groupSnapshotId));
    expect(poolDump(cluster, "ec").objects).toEqual({ [DIRECTORY]: {} });
    await time.until(restoredNothing(driver, [a, b], cluster));
  });

  for (const [what, prefixes, name] of [
    ["volumeGroupNamePrefix", { volumeGroupNamePrefix: "mine-" }, "mine-"],
    ["volumeNamePrefix", { volumeNamePrefix: "older-" }, "older-"],
    ["the first of both", { volumeNamePrefix: "older-", volumeGroupNamePrefix: "mine-" }, "mine-"],
    ["none that is empty", { volumeNamePrefix: "older-", volumeGroupNamePrefix: "" }, "older-"],
  ] as const) {
    test(`the name of the RBD group begins as the class says, by ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const ids = await twoVolumes(driver, cluster);
      const { groupSnapshotId } = await readyGroup(driver, grouping(ids, { parameters: prefixes }));
      const uuid = uuidOf(groupSnapshotId);
      expect(poolDump(cluster).objects[`csi.volume.group.${uuid}`]?.["csi.groupname"]).toBe(name + uuid);
    });
  }

  test("every answer about a member names the group snapshot", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const group = await readyGroup(driver, grouping(await twoVolumes(driver, cluster)));
    for (const { snapshotId, sourceVolumeId } of group.snapshots) {
      const { snapshot } = await driver.getSnapshot({ snapshotId: snapshotId, secrets: SECRETS });
      const { groupSnapshotId } = group;
      expect(snapshot).toMatchObject({ snapshotId, sourceVolumeId, groupSnapshotId, readyToUse: true });
    }
  });

  test("CreateVolumeGroupSnapshot flattens members whose source has many snapshots", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { minsnapshotsonimage: 1, maxsnapshotsonimage: 3 } });
    const ids = await twoVolumes(driver, cluster);
    for (const name of ["g1", "g2", "g3", "g4", "g5", "g6"]) {
      await readyGroup(driver, grouping(ids, { name }));
      await eventually(() => cluster.tasks().length === 0, "the manager's flattens");
    }
    for (const id of ids) expect(cluster.image("rbd", imageOf(id)).snapshots.length).toBeLessThanOrEqual(2);
  });
});

/** The volumes, and nothing that was made of them. */
const restoredNothing = async (
  driver: ReturnType<typeof aDriver>,
  ids: readonly string[],
  cluster: MemoryCluster,
): Promise<void> => {
  await dropVolumes(driver, ids);
  await eventually(() => trashIsEmpty(cluster), "an empty trash");
  for (const pool of ["rbd", "ssd"]) expect(poolDump(cluster, pool).images).toEqual({});
};

describe("refused group snapshots", () => {
  type World = {
    readonly driver: ReturnType<typeof aDriver>;
    readonly cluster: MemoryCluster;
    ids: [string, string];
  };
  const WEST = { ...EAST, clusterId: "west", radosNamespace: "west" };
  const rows: readonly {
    readonly what: string;
    readonly request: (world: World) => Promise<ReturnType<typeof grouping>> | ReturnType<typeof grouping>;
    readonly code: string;
    readonly names: string | ((world: World) => string);
  }[] = [
    {
      what: "a request without volumes",
      request: () => grouping([]),
      code: "INVALID_ARGUMENT",
      names: "source_volume_ids is empty",
    },
    {
      what: "an empty volume ID",
      request: ({ ids }) => grouping([ids[0], ""]),
      code: "INVALID_ARGUMENT",
      names: "source_volume_ids[1] is missing",
    },
    {
      what: "a request without a name",
      request: ({ ids }) => grouping(ids, { name: "" }),
      code: "INVALID_ARGUMENT",
      names: "name",
    },
    {
      what: "a long name",
      request: ({ ids }) => grouping(ids, { name: "x".repeat(129) }),
      code: "INVALID_ARGUMENT",
      names: "name has 129 bytes",
    },
    {
      what: "a request without secrets",
      request: ({ ids }) => grouping(ids, { secrets: {} }),
      code: "INVALID_ARGUMENT",
      names: "userID",
    },
    {
      what: "a volume twice",
      request: ({ ids: [a] }) => grouping([a, a]),
      code: "INVALID_ARGUMENT",
      names: "source_volume_ids[1]",
    },
    {
      what: "a volume that is gone",
      request: async ({ driver, cluster, ids }) => {
        const gone = await aVolume(driver, cluster, "pvc-gone");
        await dropVolumes(driver, [gone]);
        await eventually(() => trashIsEmpty(cluster), "an empty trash");
        return grouping([...ids, gone]);
      },
      code: "NOT_FOUND",
      names: "does not exist",
    },
    {
      what: "a text that is not a volume ID",
      request: ({ ids }) => grouping([...ids, "x"]),
      code: "NOT_FOUND",
      names: "volume x",
    },
    {
      what: "volumes of two namespaces",
      request: async ({ driver, ids }) => {
        const west = creation({ name: "pvc-w", parameters: { clusterID: "west", pool: "rbd" } });
        const { volume } = await driver.createVolume(west);
        return grouping([...ids, volume.volumeId], { parameters: {} });
      },
      code: "INVALID_ARGUMENT",
      names: "source_volume_ids[2] names a volume in cluster west",
    },
    {
      what: "a class of another cluster",
      request: ({ ids }) => grouping(ids, { parameters: { clusterID: "west" } }),
      code: "INVALID_ARGUMENT",
      names: "parameters.clusterID",
    },
    {
      what: "an unknown cluster",
      request: ({ ids }) => grouping(ids, { parameters: { clusterID: "north" } }),
      code: "INVALID_ARGUMENT",
      names: "north",
    },
    {
      what: "a pool that does not exist",
      request: ({ ids }) => grouping(ids, { parameters: { pool: "nowhere" } }),
      code: "INVALID_ARGUMENT",
      names: "nowhere",
    },
    {
      what: "a prefix with a slash",
      request: ({ ids }) => grouping(ids, { parameters: { volumeNamePrefix: "a/b" } }),
      code: "INVALID_ARGUMENT",
      names: "volumeNamePrefix",
    },
    {
      what: "a prefix of the group with an @",
      request: ({ ids }) => grouping(ids, { parameters: { volumeNamePrefix: "a-", volumeGroupNamePrefix: "a@b" } }),
      code: "INVALID_ARGUMENT",
      names: "volumeGroupNamePrefix",
    },
    {
      what: "an image in another group",
      request: async ({ cluster, ids }) => {
        const ceph = cephMemoryService(cluster);
        await Effect.runPromise(ceph.groupCreate(POOL, "theirs"));
        await Effect.runPromise(ceph.groupAdd(POOL, "theirs", { pool: POOL, image: imageOf(ids[1]) }));
        return grouping(ids);
      },
      code: "FAILED_PRECONDITION",
      names: ({ ids }) => `image rbd/${imageOf(ids[1])} is in another RBD group`,
    },
    {
      what: "two members whose writers it can't hold",
      request: async ({ driver, cluster, ids }) => {
        const parameters = { ...PARAMETERS, imageFeatures: "layering" };
        const free = [];
        for (const name of ["pvc-x", "pvc-y"]) free.push(await aVolume(driver, cluster, name, { parameters }));
        return grouping([...ids, ...free]);
      },
      code: "FAILED_PRECONDITION",
      names: "lack the feature exclusive-lock",
    },
    {
      what: "more snapshots than an image may have",
      request: async ({ cluster, ids }) => {
        const ceph = cephMemoryService(cluster);
        for (let i = 0; i < 451; i++) await Effect.runPromise(ceph.snapshotCreate(POOL, imageOf(ids[0]), `s${i}`));
        return grouping(ids);
      },
      code: "RESOURCE_EXHAUSTED",
      names: "has 451 snapshots",
    },
  ];
  for (const { what, request, code, names } of rows) {
    test(`CreateVolumeGroupSnapshot refuses ${what}, and changes nothing`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster, { clusters: [EAST, WEST] });
      const world: World = { driver, cluster, ids: await twoVolumes(driver, cluster) };
      const wanted = await request(world);
      const before = cluster.dump();
      const failure = await failureOf(driver.createGroup(wanted));
      expect(failure?.code).toBe(code);
      expect(failure?.message).toContain(typeof names === "string" ? names : names(world));
      // An empty directory object is as good as none.
      const after = cluster.dump();
      const { [DIRECTORY]: groups, "csi.snaps.default": snaps, ...objects } = after["rbd"]?.[""]?.objects ?? {};
      expect({ ...after, rbd: { ...after["rbd"], "": { ...after["rbd"]?.[""], objects } } }).toEqual(before as never);
      expect({ ...groups, ...snaps }).toEqual({});
      expect((await driver.locks()).table()).toEqual([]);
    });
  }

  test("CreateVolumeGroupSnapshot accepts one member whose writers it can't hold", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const parameters = { ...PARAMETERS, imageFeatures: "layering" };
    const ids = [await aVolume(driver, cluster, "pvc-x", { parameters }), await aVolume(driver, cluster, "pvc-a")];
    expect((await readyGroup(driver, grouping(ids))).snapshots).toHaveLength(2);
  });

  test("CreateVolumeGroupSnapshot answers ALREADY_EXISTS to the same name for other volumes", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const [a, b] = await twoVolumes(driver, cluster);
    const c = await aVolume(driver, cluster, "pvc-c");
    await readyGroup(driver, grouping([a, b]));
    const before = cluster.dump();
    for (const ids of [[a], [a, c], [a, b, c]])
      expect(await codeOf(driver.createGroup(grouping(ids)))).toBe("ALREADY_EXISTS");
    expect(cluster.dump()).toEqual(before);
  });

  test("calls for a group snapshot that has lost a member fail and say so, and do not touch the other members", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const ids = await twoVolumes(driver, cluster);
    const { groupSnapshotId, snapshots } = await readyGroup(driver, grouping(ids));
    const lost = holderOf(snapshots[0]?.snapshotId ?? "");
    cluster.namespace("rbd", "")?.images.delete(lost);
    const before = cluster.dump();
    for (const call of [() => driver.createGroup(grouping(ids)), () => driver.getGroup(asking(groupSnapshotId))]) {
      const failure = await failureOf(call());
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("is gone") });
    }
    expect(cluster.dump()).toEqual(before);
  });
});

describe("an entry that ceph-csi left without members", () => {
  for (const createdAt of [undefined, "2024-10-22T12:30:00.123456789+02:00"]) {
    const what = createdAt === undefined ? "" : ", with a creation time";
    test(`CreateVolumeGroupSnapshot takes over the entry${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const ids = await twoVolumes(driver, cluster);
      const id = halfMadeGroup(cluster, createdAt);
      expect(await codeOf(driver.getGroup(asking(id)))).toBe("NOT_FOUND");
      const { groupSnapshotId, creationTime, snapshots } = await readyGroup(driver, grouping(ids));
      expect(groupSnapshotId).toBe(id);
      expect(poolDump(cluster).objects[`csi.volume.group.${uuidOf(id)}`]).toEqual({
        "csi.volname": "group-1",
        "csi.groupname": `csi-vol-group-try1.${uuidOf(id)}`,
        "csi.creationtime": journalTime(creationTime),
        ...Object.fromEntries(snapshots.map(({ snapshotId }) => [snapshotId, holderOf(snapshotId)])),
      });
      expect(poolDump(cluster).groups).toBeUndefined();
      for (const [i, { snapshotId }] of snapshots.entries()) {
        const copy = await restored(driver, `copy-${i}`, snapshotId);
        expect(read(cluster, imageOf(copy))).toEqual(read(cluster, imageOf(ids[i] ?? "")));
      }
    });
  }

  test("CreateVolumeGroupSnapshot leaves the entry of a group of volumes as it is, which has its RBD group", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const ids = await twoVolumes(driver, cluster);
    halfMadeGroup(cluster, "2024-10-22T12:30:00Z");
    await Effect.runPromise(cephMemoryService(cluster).groupCreate(POOL, HALF_MADE_GROUP));
    const before = cluster.dump();
    const failure = await failureOf(driver.createGroup(grouping(ids)));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("group of volumes") });
    expect(cluster.dump()).toEqual(before);
  });

  test("of two drivers that take over the entry for different volumes one succeeds", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const [a, b] = await twoVolumes(driver, cluster);
    halfMadeGroup(cluster, "2024-10-22T12:30:00Z");
    // the other takes over just before this one writes
    await using other = aDriver(cluster);
    let answer: Promise<unknown> | undefined;
    const late = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
      method === "omapWrite" && subject.includes("csi.volume.group.") && answer === undefined
        ? Effect.andThen(
            Effect.promise(() => (answer = readyGroup(other, grouping([a])))),
            act,
          )
        : act,
    );
    await using overtaken = aDriver(cluster, { ceph: late });
    expect(await codeOf(overtaken.createGroup(grouping([a, b])))).toBe("ABORTED");
    expect(await codeOf(overtaken.createGroup(grouping([a, b])))).toBe("ALREADY_EXISTS");
    expect((await readyGroup(driver, grouping([a]))).snapshots).toHaveLength(1);
  });
});

describe("GetVolumeGroupSnapshot", () => {
  test("GetVolumeGroupSnapshot uses the administrator's credentials where the request has none", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const { groupSnapshotId } = await readyGroup(driver, grouping(await twoVolumes(driver, cluster)));
    const { groupSnapshot } = await driver.getGroup(asking(groupSnapshotId, { secrets: {} }));
    expect(groupSnapshot.readyToUse).toBe(true);
    await using other = aDriver(cluster);
    expect(await codeOf(other.getGroup(asking(groupSnapshotId, { secrets: {} })))).toBe("FAILED_PRECONDITION");
  });

  test("GetVolumeGroupSnapshot answers NOT_FOUND to an unknown ID, and INVALID_ARGUMENT to members that are not the group's", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const group = await readyGroup(driver, grouping(await twoVolumes(driver, cluster)));
    const { groupSnapshotId } = group;
    const members = group.snapshots.map(({ snapshotId }) => snapshotId);
    const unknown = groupSnapshotId.replace(uuidOf(groupSnapshotId), crypto.randomUUID());
    for (const id of ["x", unknown, members[0] ?? ""])
      expect(await codeOf(driver.getGroup(asking(id)))).toBe("NOT_FOUND");
    expect(await codeOf(driver.getGroup(asking("")))).toBe("INVALID_ARGUMENT");
    const told = (snapshotIds: string[]) => codeOf(driver.getGroup(asking(groupSnapshotId, { snapshotIds })));
    expect(await told(members)).toBe("OK");
    expect(await told(members.toReversed())).toBe("OK");
    expect(await told(members.slice(1))).toBe("INVALID_ARGUMENT");
    expect(await told([...members, unknown])).toBe("INVALID_ARGUMENT");
  });

  test("GetVolumeGroupSnapshot reads the creation time that ceph-csi wrote with nanoseconds", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const group = await readyGroup(driver, grouping(await twoVolumes(driver, cluster)));
    const uuid = uuidOf(group.groupSnapshotId);
    const entry = poolDump(cluster).objects[`csi.volume.group.${uuid}`] ?? {};
    seed(cluster, {
      [`csi.volume.group.${uuid}`]: { ...entry, "csi.creationtime": "2024-10-22T12:30:00.123456789+02:00" },
    });
    const { groupSnapshot } = await driver.getGroup(asking(group.groupSnapshotId));
    expect(groupSnapshot.creationTime).toMatchObject({ seconds: 1_729_593_000n, nanos: 123_000_000 });
  });

  test("the GroupController service offers to create, delete and get group snapshots", async () => {
    await using driver = aDriver(aCluster());
    const { capabilities } = await driver.groupCapabilities();
    expect(capabilities.map(({ type }) => type.value.type)).toEqual([Offered.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT]);
  });
});
