/** The ids and names of pools that are kept for a second. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import * as TestClock from "effect/testing/TestClock";
import { AccessDenied } from "../../../lib/ceph/errors.ts";
import { keptForAMoment } from "../../../lib/ceph/live/recent.ts";
import type { ClusterAccess } from "../../../lib/ceph/rados.ts";

const RIGHT = "right";
const as = (key: string): ClusterAccess => ({ monitors: ["10.0.0.1"], user: "admin", key: Redacted.make(key) });

/** A cluster that takes a second to answer. */
const asking = Effect.gen(function* () {
  const asked: string[] = [];
  const lookUp = yield* keptForAMoment((access: ClusterAccess, name: string) =>
    Effect.gen(function* () {
      const key = Redacted.value(access.key);
      asked.push(`${key} ${name}`);
      yield* Effect.sleep("1 seconds");
      if (key !== RIGHT) return yield* new AccessDenied({ op: "rados_connect", subject: "10.0.0.1", user: "admin" });
      return 7n;
    }),
  );
  return { asked, lookUp };
});
const inTime = <A, E>(effect: Effect.Effect<A, E>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, TestClock.layer()));

test("Whoever asks with a wrong key fails alone, also at the same moment", () =>
  inTime(
    Effect.gen(function* () {
      const { asked, lookUp } = yield* asking;
      const each = ["wrong", RIGHT, "wrong", RIGHT].map((key) => Effect.result(lookUp(as(key), "rbd")));
      const four = yield* Effect.forkChild(Effect.all(each, { concurrency: "unbounded" }), { startImmediately: true });
      yield* TestClock.adjust("1 seconds");
      const answers = yield* Fiber.join(four);
      const denied = { _tag: "AccessDenied" };
      expect(answers.map(Result.merge)).toMatchObject([denied, 7n, denied, 7n]);
      expect(asked).toEqual(["wrong rbd", `${RIGHT} rbd`]);
    }),
  ));
