/** Operations of named stages: joining, leaving callers, deadlines, compensations, the end of the driver. */
import { describe, expect } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as TestClock from "effect/testing/TestClock";
import { Precondition, StillRunning } from "../../../lib/csi/errors.ts";
import { CurrentOperation } from "../../../lib/operations/operation.ts";
import { makeOperations, stage } from "../../../lib/operations/pipeline.ts";
import { request, settle, virtual } from "../../support/in-test-time.ts";

describe("joined requests", () => {
  virtual("A request that equals one that runs joins it: one run and one result for all", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      let runs = 0;
      const body = Effect.delay(
        Effect.sync(() => ++runs),
        "1 second",
      );
      const callers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(operations.run(request(), () => body)));
      yield* settle;
      expect(operations.running()).toHaveLength(1);
      yield* TestClock.adjust("1 second");
      expect(yield* Effect.forEach(callers, Fiber.join)).toEqual([1, 1, 1]);
      expect(operations.running()).toEqual([]);

      const later = yield* Effect.forkChild(operations.run(request(), () => body));
      yield* TestClock.adjust("1 second");
      expect(yield* Fiber.join(later)).toBe(2);
    }),
  );

  virtual("A request that joined a failed operation gets its failure", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const body = Effect.delay(Effect.fail(new Precondition({ subject: "it", problem: "no" })), "1 second");
      const callers = yield* Effect.forEach([1, 2], () =>
        Effect.forkChild(Effect.flip(operations.run(request(), () => body))),
      );
      yield* TestClock.adjust("1 second");
      expect((yield* Effect.forEach(callers, Fiber.join)).map(({ _tag }) => _tag)).toEqual([
        "Precondition",
        "Precondition",
      ]);
    }),
  );

  virtual("Requests that differ in anything but subject and deadline run on their own", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      let runs = 0;
      const body = Effect.delay(
        Effect.sync(() => ++runs),
        "1 second",
      );
      const different = [request(), request({ identity: "another" }), request({ rpc: "DeleteVolume" })];
      const callers = yield* Effect.forEach(different, (each) => Effect.forkChild(operations.run(each, () => body)));
      yield* TestClock.adjust("1 second");
      yield* Effect.forEach(callers, Fiber.join);
      expect(runs).toBe(3);
    }),
  );

  virtual("A request whose body never pauses leaves no trace", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      expect(yield* operations.run(request(), () => Effect.succeed("at once"))).toBe("at once");
      expect(operations.running()).toEqual([]);
      expect(yield* operations.run(request(), () => Effect.succeed("again"))).toBe("again");
    }),
  );
});

describe("callers", () => {
  virtual("A caller that leaves does not end its operation, and its retry joins the operation", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      let runs = 0;
      const act = Effect.delay(
        Effect.sync(() => ++runs),
        "10 seconds",
      );
      const body = stage("act", act);
      const caller = yield* Effect.forkChild(operations.run(request(), () => body));
      yield* TestClock.adjust("3 seconds");
      yield* Fiber.interrupt(caller);
      expect(operations.running().map(({ stage }) => stage)).toEqual(["act"]);
      const retry = yield* Effect.forkChild(operations.run(request(), () => body));
      yield* TestClock.adjust("7 seconds");
      expect(yield* Fiber.join(retry)).toBe(1);
      expect(runs).toBe(1);
    }),
  );

  virtual("A caller learns just before its deadline which stage runs, and the operation goes on", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const body = stage("create image", Effect.delay(Effect.succeed("made"), "10 seconds"));
      const caller = yield* Effect.forkChild(operations.run(request({ deadline: 1000 }), () => body));
      yield* TestClock.adjust(799);
      expect(caller.pollUnsafe()).toBeUndefined();
      yield* TestClock.adjust(1);
      const error = yield* Effect.flip(Fiber.join(caller));
      expect(error).toBeInstanceOf(StillRunning);
      expect(error.message).toBe(
        'CreateVolume of pvc-1 has been running for 0.8 s (stage "create image"). It continues; the automatic retry gets its result',
      );
      const retry = yield* Effect.forkChild(operations.run(request({ deadline: 20_000 }), () => body));
      yield* TestClock.adjust("9200 millis");
      expect(yield* Fiber.join(retry)).toBe("made");
    }),
  );

  const patience: readonly (readonly [deadline: number | undefined, answeredAt: number])[] = [
    [undefined, 149_800],
    [100, 75],
    [0, 0],
    [-5000, 0],
  ];
  for (const [deadline, answeredAt] of patience) {
    virtual(`A caller with deadline ${deadline} gets its answer at ${answeredAt} ms`, () =>
      Effect.gen(function* () {
        const operations = makeOperations();
        const caller = yield* Effect.forkChild(Effect.flip(operations.run(request({ deadline }), () => Effect.never)));
        if (answeredAt > 0) {
          yield* TestClock.adjust(answeredAt - 1);
          expect(caller.pollUnsafe()).toBeUndefined();
        }
        yield* TestClock.adjust(1);
        expect((yield* Fiber.join(caller))._tag).toBe("StillRunning");
        yield* operations.drain(0);
      }),
    );
  }

  virtual("A caller's deadline never shortens the patience of another caller", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const body = Effect.delay(Effect.succeed("done"), "5 seconds");
      const patient = yield* Effect.forkChild(operations.run(request({ deadline: 10_000 }), () => body));
      yield* settle;
      const before = operations.running()[0]?.deadline;
      const hasty = yield* Effect.forkChild(operations.run(request({ deadline: 1000 }), () => body));
      yield* TestClock.adjust("1 second");
      expect((yield* Effect.flip(Fiber.join(hasty)))._tag).toBe("StillRunning");
      expect(operations.running()[0]?.deadline).toBe(before ?? Number.NaN);
      yield* TestClock.adjust("4 seconds");
      expect(yield* Fiber.join(patient)).toBe("done");
    }),
  );
});

describe("the deadline of an operation", () => {
  virtual(
    "The deadline of an operation is set before its body runs, so that the first lock wait is not over at once",
    () =>
      Effect.gen(function* () {
        const operations = makeOperations();
        const body = Effect.map(CurrentOperation, (operation) => operation?.deadline);
        expect(yield* operations.run(request({ deadline: 10_000 }), () => body)).toBe(9800 * 0.95);
      }),
  );
});

describe("stages", () => {
  virtual("Stages name what runs and what failed", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const gate = yield* Deferred.make<void>();
      let after: string | undefined;
      const body = Effect.gen(function* () {
        const operation = yield* CurrentOperation;
        yield* stage("find", Effect.void);
        yield* Effect.ignore(
          stage("lock", stage("create image", Effect.andThen(Deferred.await(gate), Effect.fail("x")))),
        );
        after = operation?.stage;
      });
      const caller = yield* Effect.forkChild(operations.run(request(), () => body));
      yield* settle;
      expect(operations.running()).toMatchObject([
        { rpc: "CreateVolume", subject: "pvc-1", startedAt: 0, stage: "create image" },
      ]);
      yield* Deferred.succeed(gate, undefined);
      yield* Fiber.join(caller);
      expect(after).toBe("create image");
    }),
  );
});

describe("a driver that stops", () => {
  virtual(
    "A driver that stops waits for operations whose callers have left, and interrupts those that outlast the grace",
    () =>
      Effect.gen(function* () {
        const operations = makeOperations();
        const ended: string[] = [];
        const body = (name: string, seconds: number) =>
          Effect.sleep(seconds * 1000).pipe(
            Effect.onExit((exit) => Effect.sync(() => void ended.push(`${name} ${exit._tag}`))),
          );
        for (const [name, seconds] of [
          ["short", 2],
          ["long", 60],
        ] as const) {
          const caller = yield* Effect.forkChild(
            operations.run(request({ identity: name }), () => body(name, seconds)),
          );
          yield* settle;
          yield* Fiber.interrupt(caller);
        }
        const draining = yield* Effect.forkChild(operations.drain(10_000));
        yield* TestClock.adjust(9999);
        expect(ended).toEqual(["short Success"]);
        expect(draining.pollUnsafe()).toBeUndefined();
        yield* TestClock.adjust(1);
        yield* Fiber.join(draining);
        expect(ended).toEqual(["short Success", "long Failure"]);
        expect(operations.running()).toEqual([]);
      }),
  );

  virtual("A driver that stops does not wait when nothing runs", () => makeOperations().drain(10_000));
});
