/**
 * Calls that hang (lib/cells/pool.ts), on a clock that the test moves: each limit holds, and each cell that is put aside
 * or comes back is in the log.
 */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as References from "effect/References";
import * as TestClock from "effect/testing/TestClock";
import { type CellPool, makeCellPool, type PoolOptions } from "../../../lib/cells/pool.ts";

const LIMIT = 10_000;
const url = new URL("./toy-cell.ts", import.meta.url).href;

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

const pooled = (
  name: string,
  options: Partial<PoolOptions>,
  body: (pool: CellPool, lines: readonly Line[]) => Effect.Effect<void, unknown>,
) =>
  test(
    name,
    () => {
      const lines: Line[] = [];
      const logger = Logger.make(({ fiber, logLevel, message }) => {
        lines.push({
          level: logLevel,
          message: String(message),
          fields: fiber.getRef(References.CurrentLogAnnotations),
        });
      });
      return makeCellPool({ name: "toy", url, size: 2, advice: 'Check "toy -s".', ...options }).pipe(
        Effect.flatMap((pool) => body(pool, lines)),
        Effect.scoped,
        Effect.provide(Layer.merge(TestClock.layer(), Logger.layer([logger]))),
        Effect.runPromise,
      );
    },
    LIMIT,
  );

const makeGate = () => new SharedArrayBuffer(4);
const open = (gate: SharedArrayBuffer) => {
  const word = new Int32Array(gate);
  Atomics.store(word, 0, 1);
  Atomics.notify(word, 0);
};

/** A call that blocks its thread until the gate opens; it has begun when this returns. */
const hanging = (pool: CellPool, gate: SharedArrayBuffer, subject: string, key?: string) =>
  Effect.gen(function* () {
    const before = pool.state().running.length;
    const call = pool.call("wait", { gate }, { limit: Duration.seconds(100), subject, key });
    const fiber = yield* Effect.forkChild(Effect.flip(call));
    yield* until(() => pool.state().running.length > before);
    return fiber;
  });

/** Polls in real time: worker threads know no other. */
const until = (holds: () => boolean) =>
  Effect.promise(async () => {
    while (!holds()) await Bun.sleep(2);
  });

pooled("A call that hangs fails at its limit and not before, and the log names it", {}, (pool, lines) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const call = yield* hanging(pool, gate, "rbd/image", "image");
    yield* TestClock.adjust("99 seconds");
    expect(call.pollUnsafe()).toBeUndefined();
    expect(lines).toEqual([]);
    yield* TestClock.adjust("1 second");
    const error = yield* Fiber.join(call);
    expect(error).toMatchObject({ _tag: "CellStuck", op: "wait", subject: "rbd/image", seconds: 100 });
    expect(error.message).toBe(
      'wait on rbd/image has not returned for 100 s and continues in the background. Check "toy -s".',
    );
    expect(lines).toEqual([
      {
        level: "Warn",
        message: "wait on rbd/image has not returned for 100 s; its worker thread is put aside",
        fields: { cells: "toy", call: "wait", subject: "rbd/image", seconds: 100 },
      },
    ]);
    yield* TestClock.adjust("200 seconds");
    const options = { limit: Duration.seconds(1), subject: "rbd/image", key: "image" };
    expect(yield* Effect.flip(pool.call("echo", 1, options))).toMatchObject({ _tag: "CellStuck", seconds: 300 });
    yield* TestClock.adjust("112 seconds");
    open(gate);
    yield* until(() => pool.state().stuck.length === 0);
    expect(lines.slice(1)).toEqual([
      {
        level: "Info",
        message: "wait on rbd/image ended after 412 s, past its limit",
        fields: { cells: "toy", call: "wait", subject: "rbd/image", seconds: 412 },
      },
    ]);
  }),
);

pooled("When all cells are stuck, the error names the oldest call, its subject and its age", { maxAside: 0 }, (pool) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const first = yield* hanging(pool, gate, "rbd/one");
    yield* TestClock.adjust("50 seconds");
    const second = yield* hanging(pool, gate, "rbd/two");
    yield* TestClock.adjust("362 seconds");
    yield* Fiber.join(first);
    yield* Fiber.join(second);
    const error = yield* Effect.flip(pool.call("echo", 1, { limit: Duration.seconds(1), subject: "rbd/three" }));
    expect(error).toMatchObject({ _tag: "CellDown", ran: false });
    expect(error.message).toBe(
      'All 2 worker threads for toy calls are stuck (oldest: wait on rbd/one, 412 s). Check "toy -s".',
    );
    expect(pool.state().healthy).toBe(false);
    open(gate);
    yield* until(() => pool.state().stuck.length === 0);
  }),
);

pooled("Each of many calls that hang one after the other ends at its own limit", { size: 1 }, (pool, lines) =>
  Effect.gen(function* () {
    const gate = makeGate();
    for (const [i, limit] of [500, 3, 100].entries()) {
      const options = { limit: Duration.seconds(limit), subject: `rbd/${i}` };
      const call = yield* Effect.forkChild(Effect.flip(pool.call("wait", { gate }, options)));
      yield* until(() => pool.state().running.length === 1);
      yield* TestClock.adjust(Duration.seconds(limit - 1));
      expect(call.pollUnsafe()).toBeUndefined();
      yield* TestClock.adjust("1 second");
      expect(yield* Fiber.join(call)).toMatchObject({ _tag: "CellStuck", seconds: limit });
    }
    expect(lines.map(({ fields }) => fields["subject"])).toEqual(["rbd/0", "rbd/1", "rbd/2"]);
    open(gate);
    yield* until(() => pool.state().stuck.length === 0);
  }),
);

pooled("An idle cell ends after its rest, by the same clock", { kept: 0 }, (pool) =>
  Effect.gen(function* () {
    yield* pool.call("echo", 1, { limit: Duration.seconds(100), subject: "the toy" });
    yield* TestClock.adjust("9 seconds");
    expect(pool.state().cells).toBe(1);
    yield* TestClock.adjust("1 second");
    expect(pool.state().cells).toBe(0);
  }),
);

pooled("The log names the volume that a hanging call is made for, once", { size: 1 }, (pool, lines) =>
  Effect.gen(function* () {
    const gate = makeGate();
    for (const subject of ["/dev/rbd0", "/stage/volume-1"]) {
      const options = { limit: Duration.seconds(100), subject, madeFor: "volume-1" };
      const fiber = yield* Effect.forkChild(Effect.flip(pool.call("wait", { gate }, options)));
      yield* until(() => pool.state().running.length === 1);
      yield* TestClock.adjust("100 seconds");
      yield* Fiber.join(fiber);
    }
    expect(lines.map(({ message }) => message)).toEqual([
      "wait on /dev/rbd0 for volume-1 has not returned for 100 s; its worker thread is put aside",
      "wait on /stage/volume-1 has not returned for 100 s; its worker thread is put aside",
    ]);
    open(gate);
  }),
);
