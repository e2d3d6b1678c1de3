/** How many differences are read at once (lib/ceph/live/snapshots.ts), and what becomes of one that nobody waits for. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import type { Calls } from "../../../lib/ceph/live/call.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { snapshotCalls } from "../../../lib/ceph/live/snapshots.ts";
import { memoryAccess } from "../../support/ceph-memory/memory.ts";
import { hanging } from "../../support/hanging.ts";

const AT_ONCE = 8;

type InPool = (pool: PoolRef, op: string, name: string, arg: { left: SharedArrayBuffer }, about: object) => unknown;

/** The method, over calls that `inPool` makes. */
const diffBy = (inPool: InPool) => {
  const method = () => () => Effect.void;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a difference is read by `inPool` alone
  const calls = { call: method, change: method, inPool } as unknown as Calls;
  const { diff } = snapshotCalls(calls, Duration.hours(1), 2, AT_ONCE);
  return (pool: string) =>
    diff({ pool: { access: memoryAccess, pool, namespace: "" }, image: "a", snapshot: "s" }, undefined, 0n, 10);
};

test("Differences of one pool take half of their share of the cells, those of several all of it, and none is lost", async () => {
  const call = hanging();
  const made: string[] = [];
  const diff = diffBy(({ pool }) => call.around(Effect.sync(() => made.push(pool))));
  await Effect.runPromise(
    Effect.gen(function* () {
      const begin = (pool: string) => Effect.forkChild(diff(pool), { startImmediately: true });
      const fibers: Fiber.Fiber<unknown, unknown>[] = [];
      const counts: number[] = [];
      for (const pool of ["one", "two", "three"]) {
        for (let n = 0; n < 10; n++) fibers.push(yield* begin(pool));
        counts.push(call.begun());
      }
      expect(counts).toEqual([AT_ONCE / 2, AT_ONCE, AT_ONCE]);
      call.end();
      for (const fiber of fibers) yield* Fiber.join(fiber);
      expect(made.length).toBe(30);
    }),
  );
});

test("A difference that waits for its turn is given up at once, and takes no cell", async () => {
  const call = hanging();
  const diff = diffBy(() => call.around(Effect.void));
  await Effect.runPromise(
    Effect.gen(function* () {
      const begin = () => Effect.forkChild(diff("one"), { startImmediately: true });
      for (let n = 0; n < AT_ONCE / 2; n++) yield* begin();
      const waiting = yield* begin();
      yield* Effect.timeout(Fiber.interrupt(waiting), "2 seconds");
      expect(call.begun()).toBe(AT_ONCE / 2);
      call.end();
    }),
  );
});

test("The cell of a difference that nobody waits for any more is told", async () => {
  const told: number[] = [];
  const diff = diffBy((_pool, _op, _name, { left }, about) =>
    Effect.sync(() => {
      const word = new Int32Array(left);
      told.push(Atomics.load(word, 0));
      // as the pool of cells does when the caller is interrupted
      (about as { readonly onLeave: () => void }).onLeave();
      told.push(Atomics.load(word, 0));
    }),
  );
  await Effect.runPromise(diff("one"));
  expect(told).toEqual([0, 1]);
});
