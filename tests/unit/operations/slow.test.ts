/** Slow operations in the log, in virtual time. */
import { expect, test } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Logger from "effect/Logger";
import * as TestClock from "effect/testing/TestClock";
import { makeOperations, stage } from "../../../lib/operations/pipeline.ts";
import { logSlowOperations } from "../../../lib/operations/slow.ts";

test("An interval of 0 logs nothing", async () => {
  const lines: unknown[] = [];
  await Effect.gen(function* () {
    const operations = makeOperations();
    yield* Effect.forkChild(logSlowOperations(operations, 0));
    const request = { rpc: "CreateVolume", subject: "pvc-1", identity: "1", deadline: undefined };
    const call = yield* Effect.forkChild(operations.run(request, () => stage("clone", Effect.sleep("2 minutes"))));
    yield* TestClock.adjust("3 minutes");
    yield* Fiber.join(call);
  }).pipe(
    Effect.provide([TestClock.layer(), Logger.layer([Logger.make<unknown, void>((line) => void lines.push(line))])]),
    Effect.runPromise,
  );
  expect(lines).toEqual([]);
});

test("The log names an operation once per interval for as long as it runs past the interval", async () => {
  const lines: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void lines.push([message].flat().join(" ")));
  await Effect.gen(function* () {
    const operations = makeOperations();
    yield* Effect.forkChild(logSlowOperations(operations, "30 seconds"));
    const end = Deferred.makeUnsafe<void>();
    const request = { rpc: "CreateVolume", subject: "pvc-1", identity: "1", deadline: undefined };
    const call = yield* Effect.forkChild(operations.run(request, () => stage("clone", Deferred.await(end))));
    yield* TestClock.adjust("29 seconds");
    expect(lines).toEqual([]);
    yield* TestClock.adjust("31 seconds");
    yield* Deferred.succeed(end, undefined);
    yield* Fiber.join(call);
    yield* TestClock.adjust("2 minutes");
  }).pipe(Effect.provide([TestClock.layer(), Logger.layer([recorder])]), Effect.runPromise);
  expect(lines).toEqual([
    'slow: CreateVolume of pvc-1 has been running for 30.0 s (stage "clone")',
    'slow: CreateVolume of pvc-1 has been running for 60.0 s (stage "clone")',
  ]);
});
