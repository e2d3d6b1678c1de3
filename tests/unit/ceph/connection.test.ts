/** When a connection is shut down (lib/ceph/live/connection.ts): once, and under no call that runs. */
import { expect, test } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Redacted from "effect/Redacted";
import type { CellPool } from "../../../lib/cells/pool.ts";
import { CallStuck, CephFailed } from "../../../lib/ceph/errors.ts";
import { type Connection, makeConnections } from "../../../lib/ceph/live/connection.ts";
import { memoryAccess } from "../../support/ceph-memory/memory.ts";

/** As Ceph writes it: type, time, length, secret. */
const key = Buffer.alloc(28, 7);
key.writeUInt16LE(1, 0);
key.writeUInt16LE(16, 10);
const access = { ...memoryAccess, key: Redacted.make(key.toString("base64")) };

/** Logs in with the handles 1, 2, …, and lists the handles that are shut down. */
const aWorld = () => {
  const ended: bigint[] = [];
  const late: Array<(answer: unknown) => void> = [];
  let made = 0n;
  const cells = {
    call: (op: string, arg: unknown, options: { readonly onLate?: (answer: unknown) => void }) =>
      Effect.sync(() => {
        if (op === "shutdown") return void ended.push((arg as { readonly cluster: bigint }).cluster);
        if (options.onLate !== undefined) late.push(options.onLate);
        return ++made;
      }),
  } as unknown as CellPool;
  const seconds = Duration.seconds(5);
  const options = { connectTimeout: seconds, osdTimeout: seconds, cephConf: "/absent", idle: Duration.minutes(10) };
  return { ended, late, connections: makeConnections(cells, options) };
};

const about = { op: "imageId", subject: "rbd/a" };
const BLOCKLISTED = { ...about, errno: 108, reason: "the client is blocklisted" };
const settled = Effect.sleep("20 millis");

test("A connection that is forgotten is shut down once, after the last call over it and those that were put aside", async () => {
  const { ended, connections } = aWorld();
  await Effect.gen(function* () {
    const { use, back } = yield* connections;
    const seen: Connection[] = [];
    const aside = use(access, (connection) => {
      seen.push(connection);
      connection.aside += 1;
      return Effect.fail(new CallStuck({ ...about, reason: "it hangs" }));
    });
    yield* Effect.flip(aside);
    const end = Deferred.makeUnsafe<void>();
    const running = yield* Effect.forkChild(
      use(access, () => Deferred.await(end)),
      { startImmediately: true },
    );
    yield* Effect.flip(use(access, () => Effect.fail(new CephFailed(BLOCKLISTED))));
    for (const connection of seen) back(connection);
    yield* settled;
    expect(ended).toEqual([]);
    yield* Deferred.succeed(end, undefined);
    yield* Fiber.join(running);
    yield* settled;
    expect(ended).toEqual([1n]);
    yield* use(access, ({ handle }) => Effect.sync(() => expect(handle).toBe(2n)));
  }).pipe(Effect.scoped, Effect.runPromise);
  expect(ended).toEqual([1n, 2n]);
});

test("A connection that nobody uses stays until the calls that were put aside have returned", async () => {
  const { ended, connections } = aWorld();
  await Effect.gen(function* () {
    const { use, back } = yield* connections;
    const seen: Connection[] = [];
    for (let n = 0; n < 2; n++) {
      yield* use(access, (connection) => Effect.sync(() => seen.push(connection) && (connection.aside += 1)));
    }
    yield* Effect.flip(use(access, () => Effect.fail(new CephFailed(BLOCKLISTED))));
    const [one, two] = seen;
    if (one === undefined || two === undefined) throw new Error("two calls were made");
    back(one);
    yield* settled;
    expect(ended).toEqual([]);
    back(two);
    yield* settled;
    expect(ended).toEqual([1n]);
  }).pipe(Effect.scoped, Effect.runPromise);
});

test("The end of the process waits for no call, and shuts no connection down under one", async () => {
  const { ended, connections } = aWorld();
  const end = Deferred.makeUnsafe<void>();
  await Effect.gen(function* () {
    const { use } = yield* connections;
    // as a call in a cell: an interruption waits for its end
    const call = use(access, () => Effect.uninterruptible(Deferred.await(end)));
    yield* Effect.forkDetach(call, { startImmediately: true });
    yield* settled;
  }).pipe(Effect.scoped, Effect.timeout("5 seconds"), Effect.runPromise);
  await Effect.runPromise(settled);
  expect(ended).toEqual([]);
  Deferred.doneUnsafe(end, Effect.void);
  await Effect.runPromise(settled);
  expect(ended).toEqual([1n]);
});

test("A login that ends after its limit is shut down", async () => {
  const { ended, late, connections } = aWorld();
  await Effect.gen(function* () {
    const { use } = yield* connections;
    yield* use(access, () => Effect.void);
    for (const each of late) each(77n);
    yield* settled;
    expect(ended).toEqual([77n]);
  }).pipe(Effect.scoped, Effect.runPromise);
});
