/** The second look at images that were removed: when, at how many at once, and for how long. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import { PoolNotFound } from "../../../lib/ceph/errors.ts";
import { makeSecondLook } from "../../../lib/images/second-look.ts";

const pool = { access: { monitors: ["m"], user: "u", key: Redacted.make("k") }, pool: "rbd", namespace: "" };
const images = (...ids: readonly string[]) => ids.map((id) => ({ pool, id }));

/** Runs `act` with a clock of its own; gives what was asked, in order. */
const asked = (
  act: (remove: (...ids: readonly string[]) => Effect.Effect<void>) => Effect.Effect<void>,
  answer: (ids: readonly string[]) => Effect.Effect<readonly string[], PoolNotFound>,
) =>
  Effect.gen(function* () {
    const calls: (readonly string[])[] = [];
    const remember = yield* makeSecondLook((_, ids) =>
      Effect.andThen(
        Effect.sync(() => calls.push(ids)),
        answer(ids),
      ),
    );
    yield* act((...ids) => remember(images(...ids)));
    return calls;
  }).pipe(Effect.scoped, Effect.provide([TestClock.layer(), Logger.layer([])]), Effect.runPromise);

const none = () => Effect.succeed([]);

test("An image is looked at a minute after its removal, and once more if it is gone", async () => {
  const calls = await asked(
    Effect.fnUntraced(function* (remove) {
      yield* remove("a", "b");
      yield* TestClock.adjust("59 seconds");
      yield* remove("c");
      yield* TestClock.adjust("10 minutes");
    }),
    none,
  );
  expect(calls).toEqual([["a", "b"], ["a", "b", "c"], ["c"]]);
});

test("A header that is back after a look that found none is looked at until it is gone twice", async () => {
  const answers = [[], ["parent"], [], []];
  const calls = await asked(
    Effect.fnUntraced(function* (remove) {
      yield* remove("parent");
      yield* TestClock.adjust("10 minutes");
    }),
    () => Effect.succeed(answers.shift() ?? []),
  );
  expect(calls).toEqual(Array.from({ length: 4 }, () => ["parent"]));
});

test("An image that is still there is looked at again, for half an hour", async () => {
  const calls = await asked(
    Effect.fnUntraced(function* (remove) {
      yield* remove("clone", "parent");
      yield* TestClock.adjust("2 hours");
    }),
    () => Effect.succeed(["parent"]),
  );
  expect(calls.slice(0, 2)).toEqual([
    ["clone", "parent"],
    ["clone", "parent"],
  ]);
  expect(calls.slice(2)).toEqual(Array.from({ length: 28 }, () => ["parent"]));
});

for (const [what, failing] of [
  ["that fails", Effect.fail(new PoolNotFound({ op: "rados_ioctx_create", subject: "rbd" }))],
  ["with a defect", Effect.die(new Error("a defect"))],
] as const) {
  test(`A look ${what} is made again, and ends with its images`, async () => {
    const calls = await asked(
      Effect.fnUntraced(function* (remove) {
        yield* remove("a");
        yield* TestClock.adjust("1 day");
        yield* remove("b");
        yield* TestClock.adjust("1 minute");
      }),
      () => failing,
    );
    expect(calls).toEqual([...Array.from({ length: 30 }, () => ["a"]), ["b"]]);
  });
}

test("Many images are looked at 256 at a time, and of too many the oldest are forgotten", async () => {
  const ids = Array.from({ length: 5000 }, (_, i) => `${i}`);
  const calls = await asked(
    Effect.fnUntraced(function* (remove) {
      yield* remove(...ids);
      yield* TestClock.adjust("5 minutes");
    }),
    none,
  );
  expect(calls.map(({ length }) => length)).toEqual(Array(32).fill(256));
  expect(calls.flat()).toEqual([...ids.slice(-4096), ...ids.slice(-4096)]);
});
