/**
 * A driver that dies at each call that it makes of Ceph, of each RPC and from each state: a driver that starts over the
 * same cluster finishes what was begun, and what is left is what a driver leaves that never died.
 *
 * Not here: calls that fail under a driver that lives on (./crash-failures.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import { Crash, crashAt, intercepted } from "../../support/ceph-faults.ts";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import type { CutShort } from "../../support/ceph-memory/cluster.ts";
import { RpcError } from "../../../lib/grpc/status.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aWorld,
  callsOf,
  createdAndDeleted,
  dropOrphans,
  entryOf,
  isGivenUp,
  imageNames,
  scenarios,
  SETTINGS,
  type Scenario,
} from "../../support/crash-world.ts";
import { everyDeath } from "../../support/every-death.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { poolDump, shape } from "../../support/world.ts";

/** Runs the scenario's call on a driver that is to die; -> whether it died. */
const dies = async (
  cluster: MemoryCluster,
  { call, ceph }: Scenario,
  service: CephCalls,
  crashed: () => boolean,
): Promise<boolean> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, ceph: service, time });
  try {
    await time.until(call(driver));
    // what the driver removes behind its answer, or gives to the manager
    await time.pass("6 seconds");
  } catch (error) {
    const expected = ceph !== undefined && error instanceof RpcError;
    if (!crashed() && !expected) throw error;
    await time.pass("6 seconds");
  }
  return crashed();
};

/** What the retry of the call leaves, by a driver that starts afresh; the retry has to succeed at once. */
const retried = async (cluster: MemoryCluster, { call, afterwards, mayOrphan }: Scenario): Promise<unknown> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, time });
  await time.until(call(driver));
  if (afterwards !== undefined) await time.until(afterwards(driver));
  if (mayOrphan) expect(dropOrphans(cluster)).toBeLessThanOrEqual(1);
  // by then it has looked for what the dead one left, which Ceph then knows to be dead
  await time.pass("40 seconds");
  expect(poolDump(cluster).trash).toEqual({});
  return shape(cluster);
};

/** What a driver leaves that does not die. */
const undisturbed = async (scenario: Scenario): Promise<unknown> => {
  const cluster = await aWorld(scenario);
  return retried(cluster, scenario);
};

/** One death; -> false when the call needed fewer calls of Ceph than that. */
const oneDeath = async (
  scenario: Scenario,
  expected: unknown,
  dying: (cluster: MemoryCluster, inner: CephCalls) => { service: CephCalls; crashed: () => boolean },
): Promise<boolean> => {
  const cluster = await aWorld(scenario);
  const before = cluster.dump();
  const inner = (scenario.ceph ?? ((each: CephCalls) => each))(cephMemoryService(cluster));
  const { service, crashed } = dying(cluster, inner);
  if (!(await dies(cluster, scenario, service, crashed))) return false;
  const begun = entryOf(cluster);
  const givenUp = isGivenUp(cluster, begun);
  expect(await retried(cluster, scenario)).toEqual(expected);
  // One name, one ID: what the dead driver had written down is what the retry answers.
  if (scenario.creates && begun !== undefined && !scenario.replaces) {
    if (givenUp) expect(entryOf(cluster)).not.toBe(begun);
    else expect(entryOf(cluster)).toBe(begun);
  }
  if (scenario.creates && scenario.isFresh) {
    await createdAndDeleted(cluster);
    expect(cluster.dump()).toEqual(before);
  }
  expect(imageNames(cluster).length).toBeLessThanOrEqual(2);
  return true;
};

describe("death before or after each call", () => {
  for (const scenario of scenarios) {
    test(`The next driver finishes "${scenario.name}" after a death before or after each call`, async () => {
      const expected = await undisturbed(scenario);
      const deaths = await everyDeath(60, (k, moment) =>
        oneDeath(scenario, expected, (_, inner) => crashAt(inner, k, moment)),
      );
      expect(deaths).toEqual({ before: callsOf(scenario), after: callsOf(scenario) });
    }, 60_000);
  }
});

describe("death in the middle of a call that is several to Ceph", () => {
  /** Dies in the creation of an image, or in its move to the trash, and leaves it as `how` says. */
  const cutting = (how: CutShort) => (cluster: MemoryCluster, inner: CephCalls) => {
    const method = how === "header" || how === "object-map" ? "imageCreate" : "trashMove";
    let crash: Crash | undefined;
    const service = intercepted(inner, (call, act) => {
      if (crash !== undefined) return Effect.die(crash);
      if (call.method !== method) return act;
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
  for (const scenario of scenarios) {
    for (const how of scenario.cuts ?? []) {
      test(`The next driver finishes "${scenario.name}" after a death in the middle of a call, cut off as ${how}`, async () => {
        const expected = await undisturbed(scenario);
        expect(await oneDeath(scenario, expected, cutting(how))).toBe(true);
      });
    }
  }

  test("A retry uses an image whose undo was cut off at its entry in the trash, and DeleteVolume removes both", async () => {
    const undoing = scenarios.find(({ ceph }) => ceph !== undefined);
    if (undoing?.ceph === undefined) throw new Error("no such scenario");
    const cluster = await aWorld(undoing);
    const before = cluster.dump();
    const { service, crashed } = cutting("trash-entered")(cluster, undoing.ceph(cephMemoryService(cluster)));
    expect(await dies(cluster, undoing, service, crashed)).toBe(true);
    await createdAndDeleted(cluster);
    expect(cluster.dump()).toEqual(before);
  });
});
