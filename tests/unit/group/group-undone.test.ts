/**
 * Group snapshots that were begun, and whose retry fails for good before it takes them over: all that is left of them goes,
 * because no caller knows an ID to delete.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, type CephError, NoSpace, TimedOut, Unreachable } from "../../../lib/ceph/errors.ts";
import { FEATURE_BITS } from "../../../lib/ceph/feature-bits.ts";
import { crashAt, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  DIRECTORY,
  dropVolumes,
  grouping,
  halfMadeGroup,
  imageOf,
  isTaken,
  readyGroup,
  twoVolumes,
} from "../../support/group-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, codeOf, eventually, failureOf, objectsOf, poolDump, seed } from "../../support/world.ts";

const ABOUT = { op: "a_call", subject: "rbd" };
const DIRECTORIES = [DIRECTORY, "csi.snaps.default"];

type Fault = (inner: CephCalls) => CephCalls;

const failing =
  (at: string, failure: Effect.Effect<never, CephError>): Fault =>
  (inner) =>
    intercepted(inner, ({ method }, act) => (method === at ? failure : act));

/** The volumes' images cannot be looked at, and that for good. */
const denied = failing("imageHeader", Effect.fail(new AccessDenied({ ...ABOUT, user: "x" })));

/** The images have lost the feature without which no point in time of two of them can be held. */
const withoutLock: Fault = (inner) => ({
  ...inner,
  imageHeader: (...args) =>
    Effect.map(inner.imageHeader(...args), (header) => ({
      ...header,
      features: header.features & ~FEATURE_BITS["exclusive-lock"],
    })),
});

const aWorld = async (options: Parameters<typeof aCluster>[0] = {}) => {
  const cluster = aCluster(options);
  seed(cluster, Object.fromEntries(DIRECTORIES.map((directory) => [directory, {}])));
  await using driver = aDriver(cluster);
  return { cluster, ids: await twoVolumes(driver, cluster) };
};

/** A call for the group snapshot by a driver of its own -> its code; "DEAD" where the driver dies. */
const attempt = async (cluster: MemoryCluster, ids: readonly string[], fault: Fault = (inner) => inner) => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ceph: fault(cephMemoryService(cluster)), time });
  const code = await codeOf(time.until(driver.createGroup(grouping([...ids])))).catch(() => "DEAD");
  await time.until(Effect.runPromise((await driver.operations()).drain(5000)));
  return code;
};

/** What the journal and the pool have of group snapshots. */
const left = (cluster: MemoryCluster) => ({
  groups: Object.keys(poolDump(cluster).groups ?? {}),
  entries: [...objectsOf(cluster).keys()].filter((name) => /^csi\.(snap|volume\.group)\./.test(name)),
  names: DIRECTORIES.flatMap((directory) => [...(objectsOf(cluster).get(directory)?.keys() ?? [])]),
});
const NOTHING = { groups: [], entries: [], names: [] };

describe("a group snapshot that was cut off, and loses a volume", () => {
  for (const at of ["groupCreate", "groupAdd", "groupSnapshotCreate"]) {
    for (const [how, failure] of [
      ["a death", Effect.die("the driver died")],
      ["a timeout", Effect.fail(new TimedOut(ABOUT))],
    ] as const) {
      for (const trashesMembers of [true, false]) {
        const where = trashesMembers ? "moves members of groups to the trash" : "does not delete members of groups";
        test(`The retry answers NOT_FOUND and leaves nothing after ${how} at ${at}, where Ceph ${where}`, async () => {
          const { cluster, ids } = await aWorld({ trashesMembers });
          await attempt(cluster, ids, failing(at, failure));
          const [gone, survivor] = ids;
          const time = virtualTime();
          await using driver = aDriver(cluster, { time });
          // what Ceph does not delete a person may have
          const dropped = await codeOf(time.until(dropVolumes(driver, [gone])));
          if (dropped !== "OK") cluster.namespace("rbd", "")?.images.delete(imageOf(gone));
          for (let times = 0; times < 2; times++) {
            const failure = await failureOf(time.until(driver.createGroup(grouping(ids))));
            expect(failure).toMatchObject({
              code: "NOT_FOUND",
              message: expect.stringContaining('stage "find sources"'),
            });
            expect(left(cluster)).toEqual(NOTHING);
          }
          await time.pass("40 seconds");
          await eventually(() => {
            cluster.runManager();
            return Object.keys(poolDump(cluster).trash).length === 0;
          }, "an empty trash");
          const third = await time.until(aVolume(driver, cluster, "pvc-c"));
          const other = await time.until(readyGroup(driver, grouping([survivor, third], { name: "group-2" })));
          expect(other.snapshots).toHaveLength(2);
        });
      }
    }
  }
});

describe("a retry that fails for good", () => {
  for (const [what, fault, code] of [
    ["that may not look at the volumes", denied, "PERMISSION_DENIED"],
    ["of volumes that have lost exclusive-lock", withoutLock, "FAILED_PRECONDITION"],
  ] as const) {
    test(`A retry ${what} undoes whatever a driver left that died before the point in time was recorded`, async () => {
      let undone = 0;
      for (const moment of ["before", "after"] as const) {
        for (let k = 1; k < 40; k++) {
          const { cluster, ids } = await aWorld();
          await attempt(cluster, ids, (inner) => crashAt(inner, k, moment).service);
          if (isTaken(cluster)) break;
          expect([k, await attempt(cluster, ids, fault)]).toEqual([k, code]);
          expect([k, left(cluster)]).toEqual([k, NOTHING]);
          undone = k;
        }
      }
      expect(undone).toBeGreaterThan(15);
    });
  }

  test("An undo that is cut off at any call is finished by the next call", async () => {
    let deaths = 0;
    for (const moment of ["before", "after"] as const) {
      for (let k = 1; k < 60; k++) {
        const { cluster, ids } = await aWorld();
        await attempt(cluster, ids, failing("groupSnapshotCreate", Effect.die("the driver died")));
        let crashed = () => false;
        await attempt(cluster, ids, (inner) => {
          const dying = crashAt(denied(inner), k, moment);
          crashed = dying.crashed;
          return dying.service;
        });
        if (!crashed()) break;
        deaths = k;
        expect([k, await attempt(cluster, ids, denied)]).toEqual([k, "PERMISSION_DENIED"]);
        const { entries, ...rest } = left(cluster);
        // The last step removes the entry, which nothing names any more.
        expect([k, rest]).toEqual([k, { groups: [], names: [] }]);
        expect(entries.length).toBeLessThanOrEqual(1);
        expect(await attempt(cluster, ids)).toBe("OK");
      }
    }
    expect(deaths).toBeGreaterThan(10);
  });

  test("A retry that fails for good after two drivers died undoes what both left", async () => {
    const { cluster, ids } = await aWorld();
    const dying = failing("groupSnapshotCreate", Effect.die("the driver died"));
    for (let times = 0; times < 2; times++) await attempt(cluster, ids, dying);
    expect(left(cluster).groups).toHaveLength(1);
    expect(await attempt(cluster, ids, denied)).toBe("PERMISSION_DENIED");
    expect(left(cluster)).toEqual(NOTHING);
  });

  test("A retry that cannot remove the earlier group, or write its own, undoes the earlier attempt as far as it can", async () => {
    for (const [at, once] of [
      ["groupRemove", 1],
      ["omapWrite", 1],
    ] as const) {
      const { cluster, ids } = await aWorld();
      const dying = failing("groupSnapshotCreate", Effect.die("the driver died"));
      for (let times = 0; times < 2; times++) await attempt(cluster, ids, dying);
      let failures = 0;
      const full: Fault = (inner) =>
        intercepted(inner, ({ method }, act) =>
          method === at && failures++ < once ? Effect.fail(new NoSpace(ABOUT)) : act,
        );
      expect([at, await attempt(cluster, ids, full)]).toEqual([at, "RESOURCE_EXHAUSTED"]);
      expect([at, left(cluster)]).toEqual([at, NOTHING]);
    }
  });

  test("A name without an entry, and one with an entry that ceph-csi left without members, are free again", async () => {
    const uuid = "c0000000-0000-4000-8000-000000000003";
    for (const begun of [
      (cluster: MemoryCluster) => seed(cluster, { [DIRECTORY]: { "csi.volume.group.group-1": uuid } }),
      (cluster: MemoryCluster) => halfMadeGroup(cluster),
      (cluster: MemoryCluster) => halfMadeGroup(cluster, "2024-10-22T12:30:00Z"),
    ]) {
      const { cluster, ids } = await aWorld();
      begun(cluster);
      expect(await attempt(cluster, ids, denied)).toBe("PERMISSION_DENIED");
      expect(left(cluster)).toEqual(NOTHING);
    }
  });

  test("A retry whose failure may pass undoes nothing", async () => {
    const { cluster, ids } = await aWorld();
    await attempt(cluster, ids, failing("groupSnapshotCreate", Effect.die("the driver died")));
    const before = cluster.dump();
    const away = failing("imageHeader", Effect.fail(new Unreachable({ ...ABOUT, reason: "no answer" })));
    expect(await attempt(cluster, ids, away)).toBe("UNAVAILABLE");
    expect(cluster.dump()).toEqual(before);
  });

  test("An undo that does not come to its end answers so that the caller comes back", async () => {
    const { cluster, ids } = await aWorld();
    await attempt(cluster, ids, failing("groupSnapshotCreate", Effect.die("the driver died")));
    const slow = failing("groupRemove", Effect.fail(new TimedOut(ABOUT)));
    expect(await attempt(cluster, ids, (inner) => slow(denied(inner)))).toBe("DEADLINE_EXCEEDED");
    expect(await attempt(cluster, ids, denied)).toBe("PERMISSION_DENIED");
    expect(left(cluster)).toEqual(NOTHING);
  });

  test("A retry that would undo what another driver has just recorded answers ABORTED, and undoes nothing", async () => {
    const { cluster, ids } = await aWorld();
    await using other = aDriver(cluster);
    let made: unknown;
    // the other driver takes over, and comes to its end, just before the undo
    const late: Fault = (inner) =>
      intercepted(inner, ({ method, subject }, act) =>
        method === "omapWrite" && subject.includes("csi.volume.group.") && made === undefined
          ? Effect.andThen(
              Effect.promise(async () => {
                made = await readyGroup(other, grouping(ids));
              }),
              act,
            )
          : act,
      );
    await attempt(cluster, ids, failing("groupSnapshotCreate", Effect.die("the driver died")));
    expect(await attempt(cluster, ids, (inner) => denied(late(inner)))).toBe("ABORTED");
    expect(await readyGroup(other, grouping(ids))).toEqual(made as never);
  });

  test("A driver whose attempt is undone by another before it records the point in time fails, and leaves nothing", async () => {
    const { cluster, ids } = await aWorld();
    let undone = false;
    const overtaken: Fault = (inner) =>
      intercepted(inner, ({ method }, act) =>
        method === "groupSnapshotMembers" && !undone
          ? Effect.andThen(
              Effect.promise(async () => {
                undone = true;
                expect(await attempt(cluster, ids, denied)).toBe("PERMISSION_DENIED");
              }),
              act,
            )
          : act,
      );
    expect(await attempt(cluster, ids, overtaken)).not.toBe("OK");
    expect(undone).toBe(true);
    expect(left(cluster)).toEqual(NOTHING);
  });
});

test("An attempt in the pool of another class is not found, and its volumes are refused by the name of what holds them", async () => {
  const { cluster, ids } = await aWorld();
  await attempt(cluster, ids, failing("groupSnapshotCreate", Effect.die("the driver died")));
  const before = cluster.dump();
  await using driver = aDriver(cluster);
  const elsewhere = grouping(ids, { parameters: { clusterID: "east", pool: "ssd" } });
  const failure = await failureOf(driver.createGroup(elsewhere));
  expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("another RBD group") });
  expect(cluster.dump()["rbd"]).toEqual(before["rbd"] as never);
  // with the class of the first call it goes on
  expect((await readyGroup(driver, grouping(ids))).snapshots).toHaveLength(2);
});
