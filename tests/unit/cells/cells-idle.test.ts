/** How many cells a pool has (lib/cells/pool.ts): as many as calls need, and few when there are none. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type CellPool, makeCellPool } from "../../../lib/cells/pool.ts";

const LIMIT = 10_000;
const url = new URL("./toy-cell.ts", import.meta.url).href;

const call = (pool: CellPool, op: string, arg: unknown) =>
  pool.call(op, arg, { limit: Duration.seconds(5), subject: `the toy's ${op}` });
const cells = (pool: CellPool) => pool.state().cells;
const until = (holds: () => boolean) =>
  Effect.gen(function* () {
    while (!holds()) yield* Effect.sleep(5);
  });
const together = (pool: CellPool, count: number, ms: number) =>
  Effect.all(
    Array.from({ length: count }, () => call(pool, "sleep", { ms })),
    { concurrency: "unbounded" },
  );

for (const kept of [0, 1] as const) {
  test(
    `Cells start when calls need them, and end when they are idle, except for ${kept} that the pool keeps`,
    () =>
      Effect.gen(function* () {
        const pool = yield* makeCellPool({ name: "toy", url, size: 3, kept, idle: Duration.millis(200) });
        expect(cells(pool)).toBe(kept);
        yield* together(pool, 5, 100);
        expect(cells(pool)).toBe(3);
        yield* until(() => cells(pool) === kept);
        expect(yield* call(pool, "echo", "again")).toBe("again");
        expect(pool.state()).toMatchObject({ stuck: [], waiting: 0, healthy: true });
      }).pipe(Effect.scoped, Effect.timeout(LIMIT - 1_000), Effect.runPromise),
    LIMIT,
  );
}

test(
  "A cell that works, or worked a moment ago, does not end",
  () =>
    Effect.gen(function* () {
      const pool = yield* makeCellPool({ name: "toy", url, size: 2, kept: 0, idle: Duration.seconds(2) });
      // longer than a cell may rest
      yield* together(pool, 2, 2_500);
      expect(cells(pool)).toBe(2);
      // one after the other: the cell that rested last is taken, and the other one ends
      while (cells(pool) === 2) yield* call(pool, "sleep", { ms: 30 });
      expect(cells(pool)).toBe(1);
    }).pipe(Effect.scoped, Effect.timeout(3 * LIMIT - 1_000), Effect.runPromise),
  3 * LIMIT,
);
