/** How many clones are under way at once (lib/ceph/live/snapshots.ts): the other quick cells stay free of them. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { Calls } from "../../../lib/ceph/live/call.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { snapshotCalls } from "../../../lib/ceph/live/snapshots.ts";
import { memoryAccess } from "../../support/ceph-memory/memory.ts";

test("Clones that find their share of the cells taken wait outside of them, and all are made", async () => {
  const full = Promise.withResolvers<void>();
  let now = 0;
  let most = 0;
  let made = 0;
  const inPool = () =>
    Effect.gen(function* () {
      now += 1;
      most = Math.max(most, now);
      if (now === 2) full.resolve();
      yield* Effect.promise(() => full.promise);
      yield* Effect.yieldNow;
      now -= 1;
      made += 1;
    });
  const method = () => () => Effect.void;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a clone is made by `inPool` alone
  const calls = { call: method, change: method, inPool } as unknown as Calls;
  const { imageClone } = snapshotCalls(calls, Duration.hours(1), 2, 8);
  const pool = { access: memoryAccess, pool: "rbd", namespace: "" };
  const clones = Array.from({ length: 10 }, (_, i) =>
    imageClone({ pool, image: "a", snapshot: "s" }, pool, `${i}`, {}),
  );
  await Effect.runPromise(Effect.all(clones, { concurrency: "unbounded" }));
  expect({ most, made }).toEqual({ most: 2, made: 10 });
});

test("Clones into a pool that does not answer hold up none into another one", async () => {
  const inPool = ({ pool }: PoolRef) => (pool === "sick" ? Effect.never : Effect.void);
  const method = () => () => Effect.void;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a clone is made by `inPool` alone
  const calls = { call: method, change: method, inPool } as unknown as Calls;
  const { imageClone } = snapshotCalls(calls, Duration.hours(1), 2, 8);
  const source = { pool: { access: memoryAccess, pool: "rbd", namespace: "" }, image: "a", snapshot: "s" };
  const clone = (pool: string) => imageClone(source, { ...source.pool, pool }, "b", {});
  const made = Effect.gen(function* () {
    for (let n = 0; n < 4; n++) yield* Effect.forkChild(clone("sick"), { startImmediately: true });
    yield* clone("rbd");
  });
  await Effect.runPromise(Effect.scoped(Effect.timeout(made, "5 seconds")));
});
