/** In a burst of CreateSnapshot the answers come before what is done behind them. */
import { expect, test } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Scope from "effect/Scope";
import * as TestClock from "effect/testing/TestClock";
import { AnswersFirst, makeAnswersFirst } from "../../../lib/snapshot/answers-first.ts";

const run = <A>(effect: Effect.Effect<A, unknown>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, TestClock.layer()));

/** A call that answers when it is told to; `done` says what is behind its answer. */
const aCall = (service: ReturnType<typeof makeAnswersFirst>, done: string[], name: string) =>
  Effect.gen(function* () {
    const told = Deferred.makeUnsafe<void, string>();
    const fiber = yield* service
      .unanswered((answered) =>
        Deferred.await(told).pipe(Effect.andThen(answered), Effect.andThen(Effect.sync(() => void done.push(name)))),
      )
      .pipe(Effect.forkChild({ startImmediately: true }));
    return { fiber, answer: Deferred.succeed(told, undefined), fail: Deferred.fail(told, "no") };
  });

const turns = Effect.repeat(Effect.yieldNow, { times: 20 });

test("One alone goes on at once", () =>
  run(
    Effect.gen(function* () {
      const done: string[] = [];
      const one = yield* aCall(makeAnswersFirst(), done, "one");
      yield* one.answer;
      yield* Fiber.join(one.fiber);
      expect(done).toEqual(["one"]);
    }),
  ));

test("One that has answered goes on when all have answered, failed or been interrupted", () =>
  run(
    Effect.gen(function* () {
      const done: string[] = [];
      const service = makeAnswersFirst();
      const [one, two, failing, interrupted] = yield* Effect.forEach(
        ["one", "two", "failing", "interrupted"] as const,
        (name) => aCall(service, done, name),
      );
      if (one === undefined || two === undefined || failing === undefined || interrupted === undefined) return;
      yield* one.answer;
      yield* failing.fail;
      yield* Fiber.interrupt(interrupted.fiber);
      yield* turns;
      expect(done).toEqual([]);
      yield* two.answer;
      yield* Effect.all([Fiber.join(one.fiber), Fiber.join(two.fiber)]);
      expect(done.toSorted()).toEqual(["one", "two"]);
      const next = yield* aCall(service, done, "next");
      yield* next.answer;
      yield* Fiber.join(next.fiber);
      expect(done.at(-1)).toBe("next");
    }),
  ));

test("Nothing waits longer than two seconds for the others", () =>
  run(
    Effect.gen(function* () {
      const done: string[] = [];
      const service = makeAnswersFirst();
      const [one] = yield* Effect.forEach(["one", "two"], (name) => aCall(service, done, name));
      if (one === undefined) return;
      yield* one.answer;
      yield* turns;
      yield* TestClock.adjust("1999 millis");
      expect(done).toEqual([]);
      yield* TestClock.adjust("1 millis");
      yield* Fiber.join(one.fiber);
      expect(done).toEqual(["one"]);
    }),
  ));

test("One that does not answer counts for two seconds from when it came", () =>
  run(
    Effect.gen(function* () {
      const done: string[] = [];
      const service = makeAnswersFirst();
      yield* aCall(service, done, "slow");
      yield* TestClock.adjust("1500 millis");
      const one = yield* aCall(service, done, "one");
      yield* one.answer;
      yield* TestClock.adjust("499 millis");
      expect(done).toEqual([]);
      yield* TestClock.adjust("1 millis");
      yield* Fiber.join(one.fiber);
      const next = yield* aCall(service, done, "next");
      yield* next.answer;
      yield* Fiber.join(next.fiber);
      expect(done).toEqual(["one", "next"]);
    }),
  ));

test("Nothing waits any more when the process stops", () =>
  run(
    Effect.gen(function* () {
      const done: string[] = [];
      const scope = yield* Scope.make();
      const service = makeAnswersFirst();
      yield* AnswersFirst.untilStop.pipe(
        Effect.provideService(AnswersFirst, service),
        Effect.provideService(Scope.Scope, scope),
      );
      yield* aCall(service, done, "slow");
      const one = yield* aCall(service, done, "one");
      yield* one.answer;
      yield* turns;
      expect(done).toEqual([]);
      yield* Scope.close(scope, Exit.void);
      yield* Fiber.join(one.fiber);
      const next = yield* aCall(service, done, "next");
      yield* next.answer;
      yield* Fiber.join(next.fiber);
      expect(done).toEqual(["one", "next"]);
    }),
  ));
