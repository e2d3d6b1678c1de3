/** The pool of cells (lib/cells/pool.ts), with a toy cell: limits, keys, deaths, replacements, the queue. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Logger from "effect/Logger";
import { Caller } from "../../../lib/cells/caller.ts";
import { type CellPool, makeCellPool, type PoolOptions } from "../../../lib/cells/pool.ts";

const LIMIT = 10_000;
const toy = new URL("./toy-cell.ts", import.meta.url).href;

interface Given {
  readonly limit?: Duration.Duration;
  readonly key?: string;
  readonly place?: string;
  readonly onLeave?: () => void;
  readonly onLate?: (answer: unknown) => void;
  readonly onAside?: () => void;
  readonly onBack?: () => void;
  readonly onLost?: () => void;
}

const call = <A>(pool: CellPool, op: string, arg?: unknown, given: Given = {}) =>
  pool.call<A>(op, arg, { limit: Duration.seconds(5), subject: `the toy's ${op}`, ...given });

const withPool = (
  options: Partial<PoolOptions>,
  body: (pool: CellPool) => Effect.Effect<unknown, unknown>,
): Promise<unknown> =>
  makeCellPool({ name: "toy", url: toy, size: 2, ...options }).pipe(
    Effect.flatMap(body),
    Effect.scoped,
    Effect.timeout(LIMIT - 1_000),
    // what the log says of calls that hang is in cells-stuck.test.ts
    Effect.provide(Logger.layer([])),
    Effect.runPromise,
  );

const pooled = (name: string, options: Partial<PoolOptions>, body: Parameters<typeof withPool>[1]) =>
  test(name, () => withPool(options, body), LIMIT);

const makeGate = () => new SharedArrayBuffer(4);
const open = (gate: SharedArrayBuffer) => {
  const word = new Int32Array(gate);
  Atomics.store(word, 0, 1);
  Atomics.notify(word, 0);
};
/** Polls: what the pool learns from other threads has no moment that a test could wait for. */
const until = (holds: () => boolean) =>
  Effect.gen(function* () {
    while (!holds()) yield* Effect.sleep(5);
  });
const elapsed = <A, E>(effect: Effect.Effect<A, E>) => {
  const since = performance.now();
  return Effect.map(effect, (value) => ({ value, ms: performance.now() - since }));
};

pooled("A cell receives and returns plain data, bigints and maps", {}, (pool) =>
  Effect.gen(function* () {
    const data = { handle: 2n ** 63n, names: ["a", "é"], map: new Map([["k", 1n]]), none: undefined };
    expect(yield* call<typeof data>(pool, "echo", data)).toEqual(data);
  }),
);

pooled("An errno is returned as an errno, and the cell goes on", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(call(pool, "fail", { errno: 16 }));
    expect(error).toMatchObject({ _tag: "CellErrno", op: "toy_fail", errno: 16 });
    expect(yield* call<string>(pool, "echo", "still here")).toBe("still here");
  }),
);

pooled("A bug in a handler, an unknown call and an answer that can't be sent are errors", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const thrown = yield* Effect.flip(call(pool, "throws"));
    expect(thrown).toMatchObject({ _tag: "CellErrno", errno: 0, message: "a bug in a cell" });
    expect(yield* Effect.flip(call(pool, "nonsense"))).toMatchObject({ _tag: "CellErrno", errno: 38 });
    expect((yield* Effect.flip(call(pool, "uncloneable")))._tag).toBe("CellErrno");
    expect((yield* Effect.flip(call(pool, "echo", () => {})))._tag).toBe("CellErrno");
    expect(yield* call<string>(pool, "echo", "still here")).toBe("still here");
  }),
);

pooled("A cell that ends in a call fails the call, and the pool replaces the cell", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    for (let i = 0; i < 3; i++) {
      const error = yield* Effect.flip(call(pool, "exit"));
      expect(error).toMatchObject({ _tag: "CellDown", ran: true });
      expect(error.message).toContain("exit");
    }
    expect(yield* call<string>(pool, "echo", "a new one")).toBe("a new one");
    expect(pool.state()).toMatchObject({ running: [], stuck: [], healthy: true });
  }),
);

pooled("A cell that ended holds no key past its call's limit", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    yield* Effect.flip(call(pool, "exit", undefined, { limit: Duration.millis(100), key: "image" }));
    yield* Effect.sleep(200);
    expect(pool.state().stuck).toEqual([]);
    expect(yield* call<string>(pool, "echo", "free", { key: "image" })).toBe("free");
  }),
);

pooled("A call past its limit fails with CellStuck, and other calls go on meanwhile", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const { value: error, ms } = yield* elapsed(
      Effect.flip(call(pool, "wait", { gate }, { limit: Duration.millis(100) })),
    );
    expect(error).toMatchObject({ _tag: "CellStuck", op: "wait", subject: "the toy's wait" });
    expect(ms).toBeGreaterThan(90);
    expect(ms).toBeLessThan(1_000);
    expect(pool.state().stuck).toHaveLength(1);
    expect(yield* call<string>(pool, "echo", "others")).toBe("others");
    open(gate);
    yield* until(() => pool.state().stuck.length === 0);
    expect(pool.state().healthy).toBe(true);
  }),
);

pooled("The pool refuses a key while its call hangs, and accepts it once the call has returned", { size: 2 }, (pool) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const seen: string[] = [];
    const watch = { onAside: () => void seen.push("aside"), onBack: () => void seen.push("back") };
    yield* Effect.flip(call(pool, "wait", { gate }, { limit: Duration.millis(50), key: "image a", ...watch }));
    expect(seen).toEqual(["aside"]);
    const { value: refused, ms } = yield* elapsed(Effect.flip(call(pool, "echo", 1, { key: "image a" })));
    expect(refused).toMatchObject({ _tag: "CellStuck", op: "wait" });
    expect(ms).toBeLessThan(50);
    expect(yield* call<number>(pool, "echo", 2, { key: "image b" })).toBe(2);
    expect(yield* call<number>(pool, "echo", 3)).toBe(3);
    open(gate);
    yield* until(() => pool.state().stuck.length === 0);
    expect(seen).toEqual(["aside", "back"]);
    expect(yield* call<number>(pool, "echo", 4, { key: "image a" })).toBe(4);
  }),
);

pooled("The pool refuses a call that waits for a cell as soon as its key hangs", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const hanging = yield* Effect.forkChild(
      Effect.flip(call(pool, "wait", { gate }, { limit: Duration.millis(100), key: "image" })),
    );
    const waiting = yield* Effect.forkChild(Effect.flip(call(pool, "echo", 1, { key: "image" })));
    expect((yield* Fiber.join(hanging))._tag).toBe("CellStuck");
    expect((yield* Fiber.join(waiting))._tag).toBe("CellStuck");
    open(gate);
  }),
);

pooled("Calls that wait start in order", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const list = new SharedArrayBuffer(4 * 32);
    const busy = yield* Effect.forkChild(call(pool, "sleep", { ms: 50 }));
    yield* Effect.forEach(
      Array.from({ length: 20 }, (_, i) => i + 1),
      (mark) => call(pool, "note", { list, mark }),
      { concurrency: "unbounded" },
    );
    yield* Fiber.join(busy);
    expect([...new Int32Array(list)].slice(1, 21)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  }),
);

pooled("Callers take turns: many calls of one do not delay those of another", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const list = new SharedArrayBuffer(4 * 16);
    const gate = makeGate();
    const busy = yield* Effect.forkChild(call(pool, "wait", { gate }));
    yield* until(() => pool.state().running.length === 1);
    const note = (kind: string, mark: number, turn = 0) =>
      Effect.forkChild(Effect.provideService(call(pool, "note", { list, mark }), Caller, { kind, turn }));
    const notes = yield* Effect.all([
      ...[1, 2, 3, 4].map((mark) => note("CreateSnapshot", mark)),
      note("CreateVolume", 11),
      note("DeleteVolume", 21),
      note("CreateVolume", 12),
    ]);
    yield* until(() => pool.state().waiting === 7);
    open(gate);
    yield* Fiber.joinAll([busy, ...notes]);
    expect([...new Int32Array(list)].slice(1, 8)).toEqual([1, 11, 21, 2, 12, 3, 4]);
  }),
);

pooled("Of callers of one kind the one that began first goes first", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const list = new SharedArrayBuffer(4 * 16);
    const gate = makeGate();
    const busy = yield* Effect.forkChild(call(pool, "wait", { gate }));
    yield* until(() => pool.state().running.length === 1);
    const note = (turn: number, mark: number, kind = "CreateSnapshot") =>
      Effect.forkChild(Effect.provideService(call(pool, "note", { list, mark }), Caller, { kind, turn }));
    const notes = yield* Effect.all([
      note(2, 21),
      note(3, 31),
      note(1, 11),
      note(2, 22),
      note(9, 91, "CreateVolume"),
      note(1, 12),
      note(3, 32),
    ]);
    yield* until(() => pool.state().waiting === 7);
    open(gate);
    yield* Fiber.joinAll([busy, ...notes]);
    expect([...new Int32Array(list)].slice(1, 8)).toEqual([11, 91, 12, 21, 22, 31, 32]);
  }),
);

pooled("As many calls run at once as there are cells", { size: 4 }, (pool) =>
  Effect.gen(function* () {
    const eight = Array.from({ length: 8 }, () => call(pool, "sleep", { ms: 500 }));
    const all = yield* Effect.forkChild(Effect.all(eight, { concurrency: "unbounded" }));
    yield* until(() => pool.state().running.length === 4);
    expect(pool.state()).toMatchObject({ running: { length: 4 }, waiting: 4 });
    yield* Fiber.join(all);
  }),
);

pooled(
  "A call that takes longer than the pool's patience holds up no other, and the cells for it end with it",
  { size: 2, patience: Duration.millis(100) },
  (pool) =>
    Effect.gen(function* () {
      const gate = makeGate();
      const slow = yield* Effect.forkChild(
        Effect.all([call(pool, "wait", { gate }), call(pool, "wait", { gate })], { concurrency: 2 }),
      );
      yield* until(() => pool.state().running.length === 2);
      // they wait all at once, and still two at most run beside the slow ones
      const four = Array.from({ length: 4 }, (_, i) => call<number>(pool, "echo", i));
      expect(yield* Effect.all(four, { concurrency: 4 })).toEqual([0, 1, 2, 3]);
      expect(pool.state()).toMatchObject({ running: { length: 2 }, stuck: [], healthy: true });
      expect(pool.state().cells).toBeLessThanOrEqual(4);
      open(gate);
      yield* Fiber.join(slow);
      yield* until(() => pool.state().cells === 2);
    }),
);

pooled(
  "Cells that hang and calls that are slow are at most as many as may be put aside",
  { size: 1, maxAside: 2, patience: Duration.millis(50) },
  (pool) =>
    Effect.gen(function* () {
      const gates = [makeGate(), makeGate(), makeGate(), makeGate()];
      const waits = yield* Effect.forEach(gates, (gate) => Effect.forkChild(call(pool, "wait", { gate })));
      yield* until(() => pool.state().running.length === 3);
      yield* Effect.sleep(150);
      expect(pool.state()).toMatchObject({ running: { length: 3 }, waiting: 1, healthy: true });
      for (const gate of gates.slice(0, 1)) open(gate);
      yield* until(() => pool.state().waiting === 0);
      for (const gate of gates) open(gate);
      yield* Fiber.joinAll(waits);
    }),
);

pooled(
  "Calls for a place that does not answer leave cells to those for another one, however many they are",
  { size: 2, maxAside: 4, patience: Duration.millis(50) },
  (pool) =>
    Effect.gen(function* () {
      const gate = makeGate();
      const sick = Array.from({ length: 20 }, () => call(pool, "wait", { gate }, { place: "sick" }));
      const all = yield* Effect.forkChild(Effect.all(sick, { concurrency: "unbounded" }));
      // half of the two cells and of the four that may be slow
      yield* until(() => pool.state().running.length === 3);
      for (let n = 0; n < 5; n++) expect(yield* call<number>(pool, "echo", n, { place: "well" })).toBe(n);
      yield* Effect.sleep(150);
      expect(pool.state()).toMatchObject({ running: { length: 3 }, waiting: 17, stuck: [] });
      open(gate);
      yield* Fiber.join(all);
    }),
);

pooled("What a call answers after its limit goes to who asks for it", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const late: unknown[] = [];
    const given = { limit: Duration.millis(50), onLate: (answer: unknown) => void late.push(answer) };
    yield* Effect.flip(call(pool, "sleep", { ms: 150 }, given));
    yield* until(() => pool.state().stuck.length === 0);
    expect(late).toEqual([150]);
    yield* call(pool, "echo", 1, given);
    expect(late).toEqual([150]);
  }),
);

pooled("An interrupt waits for a call that runs, and removes a waiting call from the queue", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const list = new SharedArrayBuffer(4 * 8);
    const told: string[] = [];
    const tells = (name: string) => ({ onLeave: () => void told.push(name) });
    const running = yield* Effect.forkChild(call(pool, "sleep", { ms: 300 }, tells("sleep")));
    const waiting = yield* Effect.forkChild(call(pool, "note", { list, mark: 1 }, tells("note")));
    yield* until(() => pool.state().waiting === 1);
    const out = yield* elapsed(Fiber.interrupt(waiting));
    expect(out.ms).toBeLessThan(100);
    const end = yield* elapsed(Fiber.interrupt(running));
    expect(end.ms).toBeGreaterThan(100);
    expect(told).toEqual(["sleep"]);
    expect(pool.state()).toMatchObject({ running: [], waiting: 0 });
    yield* call(pool, "echo");
    expect(new Int32Array(list)[0]).toBe(0);
  }),
);

test("A pool that ends tells of the calls that its cells were making, also of those that nobody waits for", async () => {
  const told: string[] = [];
  const program = Effect.gen(function* () {
    const pool = yield* makeCellPool({ name: "toy", url: toy, size: 3 });
    const tells = (name: string) => ({
      onLost: () => void told.push(name),
      onLeave: () => void told.push(`${name} left`),
    });
    const begin = (name: string, ms: number) =>
      Effect.forkDetach(call(pool, "sleep", { ms }, tells(name)), { startImmediately: true });
    yield* begin("waited for", 2_000);
    const left = yield* begin("left", 2_000);
    const ended = yield* begin("ended", 1);
    yield* Fiber.join(ended);
    left.interruptUnsafe();
  });
  await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(Logger.layer([]))));
  expect(told.toSorted()).toEqual(["left", "left left", "waited for"]);
});

pooled("A call that is told that nobody waits may end early, and its cell serves the next", { size: 1 }, (pool) =>
  Effect.gen(function* () {
    const gate = makeGate();
    const running = yield* Effect.forkChild(call(pool, "wait", { gate }, { onLeave: () => open(gate) }));
    yield* until(() => pool.state().running.length === 1);
    yield* Fiber.interrupt(running);
    expect(yield* call<string>(pool, "echo", "next")).toBe("next");
  }),
);

pooled(
  "When all cells hang and the pool may put no more aside, calls fail at once until one cell returns",
  { size: 1, maxAside: 1 },
  (pool) =>
    Effect.gen(function* () {
      const gate = makeGate();
      for (let i = 0; i < 2; i++) yield* Effect.flip(call(pool, "wait", { gate }, { limit: Duration.millis(50) }));
      expect(pool.state()).toMatchObject({ healthy: false });
      const { value: error, ms } = yield* elapsed(Effect.flip(call(pool, "echo", 1)));
      expect(error._tag).toBe("CellDown");
      expect(error).toMatchObject({ ran: false });
      expect(error.message).toContain("All 1 worker threads for toy calls are stuck (oldest: wait on the toy's wait, ");
      expect(ms).toBeLessThan(50);
      open(gate);
      yield* until(() => pool.state().healthy && pool.state().stuck.length === 0);
      expect(yield* call<number>(pool, "echo", 1)).toBe(1);
    }),
);

test(
  "A pool whose cells can't load fails with the reason",
  async () => {
    for (const [url, reason] of [
      [new URL("./broken-cell.ts", import.meta.url).href, "no such library here"],
      [new URL("./no-such-cell.ts", import.meta.url).href, "no-such-cell"],
    ] as const) {
      const error = await Effect.runPromise(Effect.scoped(Effect.flip(makeCellPool({ name: "toy", url, size: 2 }))));
      expect(error._tag).toBe("CellDown");
      expect(error.message).toContain(reason);
    }
  },
  LIMIT,
);

test(
  "A pool that closes answers the calls that run and those that wait",
  async () => {
    const answers = await Effect.runPromise(
      Effect.gen(function* () {
        const fibers = yield* Effect.scoped(
          Effect.gen(function* () {
            const pool = yield* makeCellPool({ name: "toy", url: toy, size: 1 });
            const running = yield* Effect.forkDetach(Effect.flip(call(pool, "sleep", { ms: 1_000 })));
            const waiting = yield* Effect.forkDetach(Effect.flip(call(pool, "echo", 1)));
            yield* until(() => pool.state().waiting === 1);
            return [running, waiting];
          }),
        );
        return yield* elapsed(Effect.forEach(fibers, Fiber.join));
      }),
    );
    expect(answers.value.map((error) => error._tag)).toEqual(["CellDown", "CellDown"]);
    expect(answers.ms).toBeLessThan(500);
  },
  LIMIT,
);
