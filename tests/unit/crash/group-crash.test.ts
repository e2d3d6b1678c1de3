/**
 * Group snapshots by drivers that die at each call, or whose calls fail: the next driver finishes what was begun, and
 * what is left is what a driver leaves that nothing happened to.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, Busy, type CephError, NoSpace, TimedOut } from "../../../lib/ceph/errors.ts";
import { crashAt, faultAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { RpcError } from "../../../lib/grpc/status.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  asking,
  BLOCK,
  DIRECTORY,
  grouping,
  halfMadeGroup,
  groupNow,
  isTaken,
  readyGroup,
  ungrouping,
} from "../../support/group-world.ts";
import { aCluster, codeOf, creation, deletion, eventually, poolDump, seed, seedImage } from "../../support/world.ts";
import { POOL } from "../../support/copies-world.ts";
import { type VirtualTime, virtualTime } from "../../support/virtual-time.ts";

const VOLUMES = ["a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000002"] as const;
const IDS = VOLUMES.map((uuid) => `0001-0004-east-0000000000000002-${uuid}`);
const SETTINGS = { flags: {} };
/** Far more than any of these RPCs makes. */
const MOST_CALLS = 80;

/** Two volumes with data, made by a driver before this one. */
const aWorld = async (): Promise<MemoryCluster> => {
  const cluster = aCluster();
  seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {}, "csi.volumes.default": {} });
  for (const uuid of VOLUMES) {
    const image = `csi-vol-${uuid}`;
    const id = await seedImage(cluster, image);
    seed(cluster, {
      [`csi.volume.${uuid}`]: { "csi.volname": `pvc-${uuid}`, "csi.imagename": image, "csi.imageid": id },
    });
    cluster.namespace("rbd", "")?.objects.get("csi.volumes.default")?.set(`csi.volume.pvc-${uuid}`, uuid);
    cluster.image("rbd", image).write(0n, BLOCK);
  }
  return cluster;
};

const create = (driver: Driver) => driver.createGroup(grouping(IDS));
const createdWholly = (driver: Driver) => readyGroup(driver, grouping(IDS));

/** With the time in which the driver removes what it finds in the trash, and what it could not remove at first. */
const emptyTrash = async (cluster: MemoryCluster, time: VirtualTime): Promise<void> => {
  await time.pass("40 seconds");
  await eventually(() => {
    cluster.runManager();
    return Object.keys(poolDump(cluster).trash).length === 0;
  }, "an empty trash");
};

/** What the cluster holds, with names for UUIDs and image ids that differ from one run to the next, and for attempts. */
const shape = (cluster: MemoryCluster): unknown => {
  const { objects } = poolDump(cluster);
  const group = objects[DIRECTORY]?.["csi.volume.group.group-1"];
  let text = JSON.stringify(cluster.dump()).replaceAll(/try\d+\./g, "");
  for (const image of cluster.namespace("rbd", "")?.images.values() ?? []) {
    text = text.replaceAll(image.id, `id of ${image.place.name.replace(/try\d+\./, "")}`);
  }
  for (const uuid of VOLUMES) {
    const member = objects["csi.snaps.default"]?.[`csi.snap.group-${group}-${uuid}`];
    if (member !== undefined) text = text.replaceAll(member, `member of ${uuid}`);
  }
  if (group !== undefined) text = text.replaceAll(group, "group");
  text = text.replaceAll(/\.group\.[0-9a-f_]+/g, ".group");
  return canonical(JSON.parse(text.replaceAll(/"csi.creationtime":"[^"]*"/g, '"csi.creationtime":"then"')));
};

const canonical = (value: unknown): unknown => {
  if (Array.isArray(value))
    return value.map(canonical).toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, canonical(inner)]),
  );
};

/**
 * Forgets entries of groups without a name -> how many there were. A death between the two steps of an undo leaves one
 * that nobody was ever told of; see tests/support/crash-world.ts for why the steps are in that order.
 */
const dropOrphans = (cluster: MemoryCluster): number => {
  const objects = cluster.namespace("rbd", "")?.objects;
  const named = new Set(objects?.get(DIRECTORY)?.values());
  const orphans = [...(objects?.keys() ?? [])].filter(
    (object) => object.startsWith("csi.volume.group.") && !named.has(object.slice("csi.volume.group.".length)),
  );
  for (const object of orphans) objects?.delete(object);
  return orphans.length;
};

interface Scenario {
  readonly name: string;
  readonly prepare?: (cluster: MemoryCluster) => Promise<unknown>;
  readonly call: (driver: Driver, cluster: MemoryCluster) => Promise<unknown>;
  /** What the caller of the driver that comes next does. */
  readonly retry: (driver: Driver, cluster: MemoryCluster) => Promise<unknown>;
  /** Faults of the first driver, besides its death. */
  readonly ceph?: (inner: CephCalls) => CephCalls;
  readonly deletes?: boolean;
}

const aGroup = async (cluster: MemoryCluster): Promise<void> => {
  await using driver = aDriver(cluster, SETTINGS);
  await createdWholly(driver);
};
const groupId = (cluster: MemoryCluster): string =>
  groupNow(cluster) ?? `0001-0004-east-0000000000000002-${crypto.randomUUID()}`;
const remove = (driver: Driver, cluster: MemoryCluster) => driver.deleteGroup(ungrouping(groupId(cluster)));

/** A pool that is used again is looked through for what a dead driver left in the trash. */
const usePool = async (driver: Driver) => {
  const { volume } = await driver.createVolume(creation());
  await driver.deleteVolume(deletion(volume.volumeId));
};
const removeAndUsePool = async (driver: Driver, cluster: MemoryCluster) => {
  await remove(driver, cluster);
  await usePool(driver);
};
const createAndUsePool = async (driver: Driver) => {
  await createdWholly(driver);
  await usePool(driver);
};

/** A driver that died before any member was made. */
const aPoint = async (cluster: MemoryCluster): Promise<void> => {
  const dying = intercepted(cephMemoryService(cluster), ({ method }, act) =>
    method === "imageClone" ? Effect.die("the driver died") : act,
  );
  await using driver = aDriver(cluster, { ...SETTINGS, ceph: dying });
  await create(driver).catch(() => undefined);
  expect(isTaken(cluster)).toBe(true);
};

/** A driver that died with the group's snapshot taken, and not recorded. */
const anAttempt = async (cluster: MemoryCluster): Promise<void> => {
  const dying = intercepted(cephMemoryService(cluster), ({ method }, act) =>
    method === "groupSnapshotMembers" ? Effect.die("the driver died") : act,
  );
  await using driver = aDriver(cluster, { ...SETTINGS, ceph: dying });
  await create(driver).catch(() => undefined);
  expect(Object.keys(poolDump(cluster).groups ?? {})).toHaveLength(1);
};

/** A driver that died with the members' images made, after one that died before; and a third one, which had taken over. */
const halfMadeMembers = async (cluster: MemoryCluster): Promise<void> => {
  await aPoint(cluster);
  for (const last of ["snapshotCreate", "imageStatus"]) {
    const dying = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
      method === last && subject.includes("csi-snap-") ? Effect.die("the driver died") : act,
    );
    await using driver = aDriver(cluster, { ...SETTINGS, ceph: dying });
    await create(driver).catch(() => undefined);
    await Effect.runPromise((await driver.operations()).drain(5000));
  }
  expect(Object.keys(poolDump(cluster).images).filter((name) => name.includes("csi-snap-"))).not.toEqual([]);
};

/** Fails what comes last before the point in time is recorded, so that all is undone. */
const failingAtTheEnd = (inner: CephCalls): CephCalls =>
  intercepted(inner, (call, act) =>
    call.method === "groupSnapshotMembers" ? Effect.fail(new NoSpace({ op: "rbd_group", subject: "rbd" })) : act,
  );

const scenarios: readonly Scenario[] = [
  { name: "CreateVolumeGroupSnapshot", call: create, retry: createdWholly },
  {
    name: "CreateVolumeGroupSnapshot that fails at its end and undoes",
    call: create,
    retry: createdWholly,
    ceph: failingAtTheEnd,
  },
  {
    name: "CreateVolumeGroupSnapshot of a half-reserved name",
    prepare: async (cluster) => {
      const uuid = "c0000000-0000-4000-8000-000000000003";
      cluster.namespace("rbd", "")?.objects.get(DIRECTORY)?.set("csi.volume.group.group-1", uuid);
    },
    call: create,
    retry: createdWholly,
  },
  {
    name: "CreateVolumeGroupSnapshot of an entry without members",
    prepare: async (cluster) => halfMadeGroup(cluster, "2024-10-22T12:30:00Z"),
    call: create,
    retry: createdWholly,
  },
  { name: "CreateVolumeGroupSnapshot of a point in time", prepare: aPoint, call: createdWholly, retry: createdWholly },
  { name: "CreateVolumeGroupSnapshot of a cut-off attempt", prepare: anAttempt, call: create, retry: createdWholly },
  {
    name: "CreateVolumeGroupSnapshot of half-made members",
    prepare: halfMadeMembers,
    call: createdWholly,
    retry: createAndUsePool,
  },
  { name: "CreateVolumeGroupSnapshot of one that is there", prepare: aGroup, call: create, retry: createdWholly },
  {
    name: "DeleteVolumeGroupSnapshot",
    prepare: aGroup,
    call: remove,
    retry: removeAndUsePool,
    deletes: true,
  },
  {
    name: "DeleteVolumeGroupSnapshot of half-made members",
    prepare: halfMadeMembers,
    call: remove,
    retry: removeAndUsePool,
    deletes: true,
  },
  {
    name: "DeleteVolumeGroupSnapshot of an entry without members",
    prepare: async (cluster) => halfMadeGroup(cluster, "2024-10-22T12:30:00Z"),
    call: remove,
    retry: removeAndUsePool,
    deletes: true,
  },
  {
    name: "DeleteVolumeGroupSnapshot of a point in time",
    prepare: aPoint,
    call: remove,
    retry: removeAndUsePool,
    deletes: true,
  },
];

const prepared = async ({ prepare }: Scenario): Promise<MemoryCluster> => {
  const cluster = await aWorld();
  await prepare?.(cluster);
  return cluster;
};

const undisturbed = async (scenario: Scenario): Promise<unknown> => {
  const cluster = await prepared(scenario);
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, time });
  await time.until(scenario.retry(driver, cluster));
  await emptyTrash(cluster, time);
  return shape(cluster);
};

/** Runs the call on a driver that is to die; the answer may have left before it does. */
const untilItDies = async (cluster: MemoryCluster, scenario: Scenario, ceph: CephCalls): Promise<void> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, ceph, time });
  await time.until(scenario.call(driver, cluster)).catch((error: unknown) => {
    // a death is a defect; what the scenario's own faults fail is an answer
    if (error instanceof RpcError && scenario.ceph === undefined) throw error;
  });
  await time.until(Effect.runPromise((await driver.operations()).drain(5000)));
  // what the driver removes behind its answer
  await time.pass("1 second");
};

/** When it is all deleted, the cluster is as it was before the first call. */
const deletedWholly = async (cluster: MemoryCluster, before: unknown): Promise<void> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, time });
  const { groupSnapshotId, snapshots } = await time.until(createdWholly(driver));
  const { groupSnapshot } = await time.until(driver.getGroup(asking(groupSnapshotId)));
  expect(groupSnapshot.readyToUse).toBe(true);
  const snapshotIds = snapshots.map(({ snapshotId }) => snapshotId);
  await time.until(driver.deleteGroup(ungrouping(groupSnapshotId, { snapshotIds })));
  await emptyTrash(cluster, time);
  expect(cluster.dump()).toEqual(before as never);
};

describe("death before or after each call", () => {
  for (const scenario of scenarios) {
    for (const moment of ["before", "after"] as const) {
      test(`The next driver finishes "${scenario.name}" after a death ${moment} each call`, async () => {
        const expected = await undisturbed(scenario);
        const before = (await aWorld()).dump();
        let deaths = 0;
        for (let k = 1; k < MOST_CALLS; k++) {
          const cluster = await prepared(scenario);
          const inner = (scenario.ceph ?? ((each: CephCalls) => each))(cephMemoryService(cluster));
          const { service, crashed } = crashAt(inner, k, moment);
          await untilItDies(cluster, scenario, service);
          if (!crashed()) break;
          deaths = k;
          const time = virtualTime();
          await using next = aDriver(cluster, { ...SETTINGS, time });
          await time.until(scenario.retry(next, cluster));
          await emptyTrash(cluster, time);
          if (scenario.ceph !== undefined) expect(dropOrphans(cluster)).toBeLessThanOrEqual(1);
          expect([k, shape(cluster)]).toEqual([k, expected]);
          await deletedWholly(cluster, before);
        }
        expect(deaths).toBeGreaterThan(4);
        expect(deaths).toBeLessThan(MOST_CALLS - 1);
      }, 60_000);
    }
  }
});

const ABOUT = { op: "a_call", subject: "rbd" };
const failures: readonly (readonly [error: CephError, code: string, moment: "before" | "after", definite: boolean])[] =
  [
    [new TimedOut(ABOUT), "DEADLINE_EXCEEDED", "after", false],
    [new TimedOut(ABOUT), "DEADLINE_EXCEEDED", "before", false],
    [new AccessDenied({ ...ABOUT, user: "x" }), "PERMISSION_DENIED", "before", true],
    [new NoSpace(ABOUT), "RESOURCE_EXHAUSTED", "before", true],
    [new Busy(ABOUT), "FAILED_PRECONDITION", "before", true],
  ];

describe("a call that fails", () => {
  for (const [error, code, moment, definite] of failures) {
    for (const scenario of scenarios.filter(({ ceph }) => ceph === undefined)) {
      test(`A retry of "${scenario.name}" succeeds after ${error._tag} at any call${moment === "after" ? ", though it was done" : ""}`, async () => {
        const expected = await undisturbed(scenario);
        for (let k = 1; k < MOST_CALLS; k++) {
          const cluster = await prepared(scenario);
          const before = cluster.dump();
          const fault = faultAt(cephMemoryService(cluster), k, error, moment);
          const { service, calls } = recorded(fault.service);
          const time = virtualTime();
          await using driver = aDriver(cluster, { ...SETTINGS, ceph: service, time });
          const outcome = await codeOf(time.until(scenario.call(driver, cluster)));
          await time.until(Effect.runPromise((await driver.operations()).drain(5000)));
          fault.over();
          if (calls().length < k) break;
          const group = poolDump(cluster).objects[`csi.volume.group.${groupId(cluster).slice(-36)}`];
          const removal = calls()[k - 1]?.method === "trashRemove";
          const safe = removal || group?.["csi.creationtime"] !== undefined;
          // What fails once the point in time is recorded may fail nobody; the next call goes on.
          // And the caller of what is taken is to ask again.
          const behind = definite ? [code, "OK", "ABORTED"] : [code, "OK"];
          expect([k, safe ? behind : [code]]).toEqual([k, expect.arrayContaining([outcome])]);
          const fresh = scenario.prepare === undefined;
          if (definite && fresh && !safe) expect([k, cluster.dump()]).toEqual([k, before]);
          await time.until(scenario.retry(driver, cluster));
          await emptyTrash(cluster, time);
          expect([k, shape(cluster)]).toEqual([k, expected]);
        }
      }, 60_000);
    }
  }
});

test("A driver undoes nothing that another driver has recorded meanwhile", async () => {
  const cluster = await aWorld();
  await using other = aDriver(cluster, SETTINGS);
  // The other driver is as far as this one when this one is about to record.
  const late = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
    method === "omapWrite" &&
    subject.includes("csi.volume.group.") &&
    (poolDump(cluster).groups ?? {})[groupName()] !== undefined
      ? Effect.andThen(
          Effect.sync(() => {
            const uuid = poolDump(cluster).objects[DIRECTORY]?.["csi.volume.group.group-1"] ?? "";
            cluster
              .namespace("rbd", "")
              ?.objects.get(`csi.volume.group.${uuid}`)
              ?.set("csi.creationtime", "2026-01-01T00:00:00Z");
          }),
          act,
        )
      : act,
  );
  const groupName = () => `csi-vol-group-${poolDump(cluster).objects[DIRECTORY]?.["csi.volume.group.group-1"]}`;
  await using driver = aDriver(cluster, { ...SETTINGS, ceph: late });
  expect(await codeOf(create(driver))).toBe("ABORTED");
  expect(cluster.groupSnapshots(POOL.pool, groupName())).toHaveLength(1);
  const { readyToUse } = await createdWholly(other);
  expect(readyToUse).toBe(true);
});
