/** When a driver looks whether an omap is split, and how long it believes the answer. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import { Unreachable } from "../../../lib/ceph/errors.ts";
import { makePartsToRead } from "../../../lib/ceph/live/split-omaps.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";

const access = { monitors: ["10.0.0.1"], user: "admin", key: Redacted.make("k") };
const pool = (name: string): PoolRef => ({ access, pool: name, namespace: "" });
const PARTS = ["names.0", "names.1"];

/** Looks into a cluster with these objects, and counts. */
const looking = Effect.fnUntraced(function* (objects: Set<string>) {
  const asked: string[] = [];
  const state = { isDown: false };
  const partsToRead = yield* makePartsToRead((ref, wanted) => {
    asked.push(ref.pool);
    if (state.isDown) return Effect.fail(new Unreachable({ op: "connect", subject: "10.0.0.1", reason: "down" }));
    return Effect.succeed(wanted.map(({ object }) => (objects.has(object) ? new Map<string, string>() : undefined)));
  });
  return { asked, partsToRead, state };
});
const inTime = <A, E>(effect: Effect.Effect<A, E>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, TestClock.layer()));

test("That no part is there is believed for a minute, for each pool by itself", () =>
  inTime(
    Effect.gen(function* () {
      const objects = new Set<string>();
      const { asked, partsToRead } = yield* looking(objects);
      expect(yield* partsToRead(pool("a"), PARTS)).toEqual([]);
      objects.add("names.1");
      expect(yield* partsToRead(pool("b"), PARTS)).toEqual(PARTS);
      yield* TestClock.adjust("59 seconds");
      expect(yield* partsToRead(pool("a"), PARTS)).toEqual([]);
      expect(asked).toEqual(["a", "b"]);
      yield* TestClock.adjust("1 seconds");
      expect(yield* partsToRead(pool("a"), PARTS)).toEqual(PARTS);
      expect(asked).toEqual(["a", "b", "a"]);
    }),
  ));

test("That a part is there is believed for ever", () =>
  inTime(
    Effect.gen(function* () {
      const { asked, partsToRead } = yield* looking(new Set(["names.0"]));
      for (let day = 0; day < 3; day++) {
        expect(yield* partsToRead(pool("a"), PARTS)).toEqual(PARTS);
        yield* TestClock.adjust("1 days");
      }
      expect(asked).toEqual(["a"]);
    }),
  ));

test("A look that fails is no answer: it fails the read, and is made again", () =>
  inTime(
    Effect.gen(function* () {
      const { asked, partsToRead, state } = yield* looking(new Set(["names.0"]));
      state.isDown = true;
      expect((yield* Effect.flip(partsToRead(pool("a"), PARTS)))._tag).toBe("Unreachable");
      state.isDown = false;
      expect(yield* partsToRead(pool("a"), PARTS)).toEqual(PARTS);
      expect(asked).toEqual(["a", "a"]);
    }),
  ));

test("An omap that is never split is not looked at", () =>
  inTime(
    Effect.gen(function* () {
      const { asked, partsToRead } = yield* looking(new Set());
      expect(yield* partsToRead(pool("a"), [])).toEqual([]);
      expect(asked).toEqual([]);
    }),
  ));
