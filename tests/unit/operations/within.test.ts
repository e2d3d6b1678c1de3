/** Limits of waiting for calls that cannot be cut off (lib/operations/within.ts), with the real worker of a toy cell too. */
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Logger from "effect/Logger";
import { makeCellPool } from "../../../lib/cells/pool.ts";
import { makeLateWrites } from "../../../lib/node/late-writes.ts";
import { within } from "../../../lib/operations/within.ts";
import { hanging } from "../../support/hanging.ts";

const LIMIT = "50 millis";
const late = () => Effect.succeed("late");
const elapsed = async <A>(run: () => Promise<A>) => {
  const since = performance.now();
  const value = await run();
  return { value, ms: performance.now() - since };
};

describe("within", () => {
  test("Work that ends in time gives its answer, its failure or its defect", async () => {
    const run = <A, E>(work: Effect.Effect<A, E>) =>
      Effect.runPromise(within(work, { limit: "5 seconds", orElse: late }));
    expect(await run(Effect.delay(Effect.succeed("answer"), "1 millis"))).toBe("answer");
    const failed = within(Effect.fail("failed"), { limit: "5 seconds", orElse: late });
    expect(await Effect.runPromise(Effect.flip(failed))).toBe("failed");
    expect(run(Effect.die(new Error("broke")))).rejects.toThrow("broke");
  });

  test("A call that hangs holds nobody up past the limit, and no step follows it", async () => {
    const call = hanging();
    const steps: string[] = [];
    const told: Fiber.Fiber<unknown, unknown>[] = [];
    const work = Effect.andThen(
      call.around(Effect.sync(() => steps.push("call"))),
      Effect.sync(() => steps.push("next")),
    );
    const onLate = (fiber: Fiber.Fiber<unknown, unknown>) => void told.push(fiber);
    const { value, ms } = await elapsed(() => Effect.runPromise(within(work, { limit: LIMIT, orElse: late, onLate })));
    expect([value, steps, told.length]).toEqual(["late", [], 1]);
    expect(ms).toBeLessThan(1_000);
    call.end();
    await Effect.runPromise(Fiber.await(told[0]!));
    expect(steps).toEqual(["call"]);
  });

  test("Whoever is interrupted does not wait for it either, and what can be cut off is", async () => {
    const call = hanging();
    let cut = 0;
    let told = 0;
    const waited = within(
      Effect.all([call.around(Effect.void), Effect.onInterrupt(Effect.never, () => Effect.sync(() => (cut += 1)))], {
        concurrency: 2,
      }),
      { limit: "1 hour", orElse: late, onLate: () => (told += 1) },
    );
    const exit = await Effect.runPromise(
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(waited, { startImmediately: true });
        yield* Fiber.interrupt(fiber);
        return yield* Fiber.await(fiber);
      }).pipe(Effect.timeout("2 seconds")),
    );
    expect([Exit.isFailure(exit), cut, told]).toEqual([true, 1, 1]);
    call.end();
  });

  test("A real cell stays counted until its call ends", async () => {
    const gate = new SharedArrayBuffer(4);
    const url = new URL("../cells/toy-cell.ts", import.meta.url).href;
    const program = Effect.gen(function* () {
      const pool = yield* makeCellPool({ name: "toy", url, size: 1 });
      const options = { limit: Duration.seconds(30), subject: "the toy" };
      let fiber: Fiber.Fiber<unknown, unknown> | undefined;
      const onLate = (work: Fiber.Fiber<unknown, unknown>) => void (fiber = work);
      const since = performance.now();
      const answer = yield* within(pool.call("wait", { gate }, options), { limit: LIMIT, orElse: late, onLate });
      expect([answer, performance.now() - since < 5_000]).toEqual(["late", true]);
      expect(pool.state().running).toEqual([{ op: "wait", subject: "the toy" }]);
      Atomics.store(new Int32Array(gate), 0, 1);
      Atomics.notify(new Int32Array(gate), 0);
      yield* Fiber.await(fiber!);
      expect(pool.state().running).toEqual([]);
      expect(yield* pool.call<string>("echo", "goes on", options)).toBe("goes on");
    });
    await Effect.runPromise(Effect.scoped(program).pipe(Effect.timeout("9 seconds"), Effect.provide(Logger.layer([]))));
  }, 10_000);
});

test("A write waits for those of its volume that were given up, and for no others", async () => {
  const { write, settled } = makeLateWrites();
  const [first, second] = [hanging(), hanging()];
  const order: string[] = [];
  const noted = (what: string) => Effect.sync(() => void order.push(what));
  const given = (volumeId: string, work: Effect.Effect<unknown>) =>
    Effect.runPromise(write(volumeId, work, { limit: LIMIT, orElse: late }));
  expect(await given("one", first.around(noted("first")))).toBe("late");
  // It has not begun, so it never will.
  expect(await given("one", second.around(noted("second")))).toBe("late");
  await given("other", noted("other"));
  expect(order).toEqual(["other"]);
  const last = Effect.runPromise(Effect.andThen(settled("one"), noted("last")));
  first.end();
  await last;
  expect(order).toEqual(["other", "first", "last"]);
});
