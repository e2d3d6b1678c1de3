/**
 * A driver that dies at each call that it makes of Ceph, and in the middle of each that is several to Ceph, in the RPCs
 * of snapshots and copies: a driver that starts over the same cluster finishes what was begun, and what is left, data
 * included, is what a driver leaves that never died.
 *
 * Not here: calls that fail under a driver that lives on (./crash-copies-failures.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { NoSpace } from "../../../lib/ceph/errors.ts";
import { Crash, crashAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import type { CutShort } from "../../support/ceph-memory/cluster.ts";
import { RpcError } from "../../../lib/grpc/status.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { MIB_4, holderOf, imageOf, read, snapshotOf, snapshotsOf } from "../../support/copies-world.ts";
import {
  aWorld,
  canonical,
  COPY_KEY,
  copyScenarios,
  type CopyScenario,
  dropOrphans,
  entryOf,
  idle,
  type Ids,
  SETTINGS,
  SETTINGS_THROUGH,
} from "../../support/crash-copies-world.ts";
import { isGivenUp } from "../../support/crash-world.ts";
import { everyDeath } from "../../support/every-death.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { eventually, uuidOf } from "../../support/world.ts";

/** Runs the scenario's call on a driver that is to die; -> whether it died. */
const dies = async (
  cluster: MemoryCluster,
  { call, ceph, settings = SETTINGS }: CopyScenario,
  ids: Ids,
  service: CephCalls,
  crashed: () => boolean,
): Promise<boolean> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...settings, ceph: service, time });
  try {
    await time.until(call(driver, ids));
    // what the driver removes behind its answer, or gives to the manager
    await time.pass("6 seconds");
    await idle(cluster);
  } catch (error) {
    const expected = ceph !== undefined && error instanceof RpcError;
    if (!crashed() && !expected) throw error;
  }
  return crashed();
};

/** What the retry of the call leaves, by a driver that starts afresh; the retry has to succeed at once. */
const retried = async (cluster: MemoryCluster, { call, mayOrphan, settings = SETTINGS }: CopyScenario, ids: Ids) => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...settings, time });
  const made = await time.until(call(driver, ids));
  if (mayOrphan) expect(dropOrphans(cluster)).toBeLessThanOrEqual(1);
  // by then it has looked for what the dead one left, which Ceph then knows to be dead
  await time.pass("40 seconds");
  await idle(cluster);
  return { made, left: canonical(cluster, ids) };
};

type Dying = (cluster: MemoryCluster, inner: CephCalls) => { service: CephCalls; crashed: () => boolean };

/** One death; -> false when the call needed fewer calls of Ceph than that. */
const oneDeath = async (scenario: CopyScenario, expected: unknown, dying: Dying): Promise<boolean> => {
  const { cluster, ids } = await aWorld(scenario);
  const before = canonical(cluster, ids);
  const inner = (scenario.ceph ?? ((each: CephCalls) => each))(cephMemoryService(cluster));
  const { service, crashed } = dying(cluster, inner);
  if (!(await dies(cluster, scenario, ids, service, crashed))) return false;
  const begun = scenario.makes && entryOf(cluster, scenario.makes);
  const givenUp = isGivenUp(cluster, begun);
  const { made, left } = await retried(cluster, scenario, ids);
  expect(left).toEqual(expected);
  // One name, one ID: what the dead driver had written down is what the retry answers.
  if (scenario.makes !== undefined && begun !== undefined) {
    if (givenUp) expect(entryOf(cluster, scenario.makes)).not.toBe(begun);
    else expect(entryOf(cluster, scenario.makes)).toBe(begun);
  }
  if (scenario.undo !== undefined) {
    const time = virtualTime();
    await using driver = aDriver(cluster, { ...(scenario.settings ?? SETTINGS), time });
    await time.until(scenario.undo(driver, made));
    await time.pass("40 seconds");
    await idle(cluster);
    expect(canonical(cluster, ids)).toEqual(before);
  }
  return true;
};

const undisturbed = async (scenario: CopyScenario): Promise<unknown> => {
  const { cluster, ids } = await aWorld(scenario);
  return (await retried(cluster, scenario, ids)).left;
};

describe("death before or after each call", () => {
  for (const scenario of copyScenarios) {
    test(`The next driver finishes "${scenario.name}" after a death before or after each call`, async () => {
      const expected = await undisturbed(scenario);
      const deaths = await everyDeath(80, (k, moment) =>
        oneDeath(scenario, expected, (_, inner) => crashAt(inner, k, moment)),
      );
      expect(deaths.before).toBeGreaterThan(4);
      expect(deaths.after).toBe(deaths.before);
    }, 60_000);
  }
});

const CUTS: Readonly<Record<"imageClone" | "trashMove", readonly CutShort[]>> = {
  imageClone: ["header", "parent", "child", "metadata"],
  trashMove: ["trash-entered", "name-gone", "entry-gone"],
};

describe("death in the middle of a call that is several to Ceph", () => {
  /** Dies in the n-th call of the method, which it leaves as `how` says. */
  const cutting =
    (method: keyof typeof CUTS, nth: number, how: CutShort): Dying =>
    (cluster, inner) => {
      let crash: Crash | undefined;
      let seen = 0;
      const service = intercepted(inner, (call, act) => {
        if (crash !== undefined) return Effect.die(crash);
        if (call.method !== method || ++seen !== nth) return act;
        crash = new Crash(call);
        const death = Effect.die(crash);
        const image = call.subject.split("/").at(-1) ?? "";
        const cut = Effect.sync(() => cluster.cutShort(how, "rbd", image));
        // A call that fails leaves nothing that could be cut.
        return Effect.flatMap(Effect.exit(act), (exit) =>
          Effect.andThen(Exit.isSuccess(exit) ? cut : Effect.void, death),
        );
      });
      return { service, crashed: () => crash !== undefined };
    };

  for (const scenario of copyScenarios) {
    for (const method of ["imageClone", "trashMove"] as const) {
      test(`The next driver finishes "${scenario.name}" after a death in the middle of ${method}`, async () => {
        const expected = await undisturbed(scenario);
        const { cluster, ids } = await aWorld(scenario);
        const { service, calls } = recorded((scenario.ceph ?? ((each: CephCalls) => each))(cephMemoryService(cluster)));
        await dies(cluster, scenario, ids, service, () => true);
        // A call that is made to fail leaves nothing that could be cut.
        const failed = scenario.name.match(/clone (\d)/)?.[1] ?? (scenario.name.includes("can't hold") ? "1" : "");
        const made = calls().filter((call) => call.method === method).length;
        for (let nth = 1; nth <= made; nth++) {
          if (method === "imageClone" && String(nth) === failed) continue;
          for (const how of CUTS[method]) {
            try {
              expect(await oneDeath(scenario, expected, cutting(method, nth, how))).toBe(true);
            } catch (error) {
              throw new Error(`${method} ${nth}: ${how}`, { cause: error });
            }
          }
        }
      }, 60_000);
    }
  }
});

describe("a clone that fails half-way, and death in its undo", () => {
  const undone = copyScenarios.filter(({ name }) =>
    /^(CreateSnapshot|CreateVolume from a volume(, by way of.*)?)$/.test(name),
  );
  for (const scenario of undone) {
    for (const how of CUTS.imageClone) {
      for (const nth of scenario.settings === SETTINGS_THROUGH ? [1, 2] : [1]) {
        test(`The next driver finishes "${scenario.name}" after a death in the undo of clone ${nth}, cut off as ${how}`, async () => {
          const expected = await undisturbed(scenario);
          let deaths = 0;
          for (let k = 1; k < 40; k++) {
            const dying: Dying = (cluster, inner) => {
              let seen = 0;
              let since = 0;
              let crash: Crash | undefined;
              const service = intercepted(inner, (call, act) => {
                if (crash !== undefined) return Effect.die(crash);
                if (call.method === "imageClone" && ++seen === nth) {
                  since = 1;
                  const image = call.subject.split("/").at(-1) ?? "";
                  return Effect.exit(act).pipe(
                    Effect.andThen(Effect.sync(() => cluster.cutShort(how, "rbd", image))),
                    Effect.andThen(Effect.fail(new NoSpace({ op: "rbd_clone", subject: "rbd" }))),
                  );
                }
                if (since === 0 || since++ < k) return act;
                crash = new Crash(call);
                return Effect.die(crash);
              });
              return { service, crashed: () => crash !== undefined };
            };
            const failing: CopyScenario = { ...scenario, ceph: (inner) => inner, mayOrphan: true };
            try {
              if (!(await oneDeath(failing, expected, dying))) break;
            } catch (error) {
              throw new Error(`call ${k} of the undo`, { cause: error });
            }
            deaths = k;
          }
          expect(deaths).toBeGreaterThan(4);
        }, 60_000);
      }
    }
  }
});

describe("a copy of a volume that another way was begun for", () => {
  // As when the source gets a snapshot too many in between, or another driver takes over.
  const scenario = copyScenarios.find(
    ({ name }) => name === "CreateVolume from a volume, by way of an image in between",
  );
  if (scenario === undefined) throw new Error("no such scenario");
  for (const [way, first, next] of [
    ["a clone of the volume", SETTINGS, SETTINGS_THROUGH],
    ["by way of an image in between", SETTINGS_THROUGH, SETTINGS],
  ] as const) {
    test(`A copy begun ${way} is finished, with its data, by a driver that goes the other way`, async () => {
      let finished = 0;
      for (const moment of ["before", "after"] as const) {
        for (let k = 1; ; k++) {
          const { cluster, ids } = await aWorld(scenario);
          const before = canonical(cluster, ids);
          const source = imageOf(ids.volumeId);
          const kept = snapshotsOf(cluster, source);
          const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
          if (!(await dies(cluster, { ...scenario, settings: first }, ids, service, crashed))) break;
          const uuid = entryOf(cluster, COPY_KEY);
          const { made } = await retried(cluster, { ...scenario, settings: next }, ids);
          const { volume } = made as Awaited<ReturnType<Driver["createVolume"]>>;
          expect([moment, k, uuid ?? uuidOf(volume.volumeId)]).toEqual([moment, k, uuidOf(volume.volumeId)]);
          expect(read(cluster, imageOf(volume.volumeId))).toEqual(read(cluster, source));
          expect(snapshotsOf(cluster, source)).toEqual([...kept, `trash ${imageOf(volume.volumeId)}-temp`]);
          const time = virtualTime();
          await using driver = aDriver(cluster, { ...next, time });
          if (scenario.undo !== undefined) await time.until(scenario.undo(driver, made));
          await time.pass("40 seconds");
          await idle(cluster);
          expect([moment, k, canonical(cluster, ids)]).toEqual([moment, k, before]);
          finished += 1;
        }
      }
      expect(finished).toBeGreaterThan(20);
    }, 60_000);
  }
});

describe("a point in time that was answered", () => {
  const scenario = copyScenarios.find(({ name }) => name === "CreateSnapshot");
  if (scenario === undefined) throw new Error("no such scenario");
  for (const moment of ["before", "after"] as const) {
    test(`An answered point in time keeps its ID and its time when the driver dies ${moment} each later call`, async () => {
      let answered = 0;
      for (let k = 1; k < 60; k++) {
        const { cluster, ids } = await aWorld(scenario);
        const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
        const dying = aDriver(cluster, { ...SETTINGS, ceph: service });
        const early = await dying.createSnapshot(snapshotOf(ids.volumeId)).catch(() => undefined);
        if (early !== undefined && !crashed()) await dying.createSnapshot(snapshotOf(ids.volumeId)).catch(() => {});
        await dying[Symbol.asyncDispose]();
        if (!crashed()) break;
        const data = read(cluster, imageOf(ids.volumeId));
        cluster.image("rbd", imageOf(ids.volumeId)).write(0n, MIB_4);
        await using driver = aDriver(cluster, SETTINGS);
        const { snapshot } = await driver.createSnapshot(snapshotOf(ids.volumeId));
        if (early === undefined) continue;
        answered += 1;
        expect(snapshot.snapshotId).toBe(early.snapshot.snapshotId);
        expect(snapshot.creationTime).toEqual(early.snapshot.creationTime);
        expect(read(cluster, holderOf(snapshot.snapshotId))).toEqual(data);
        await eventually(() => cluster.image("rbd", holderOf(snapshot.snapshotId)).snapshots.length === 1, "readiness");
      }
      expect(answered).toBeGreaterThan(3);
    }, 60_000);
  }
});
