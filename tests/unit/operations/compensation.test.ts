/** Undoing what a failed operation has done: when, in which order, and what is said of the rest. */
import { describe, expect } from "bun:test";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as TestClock from "effect/testing/TestClock";
import { Raced, TimedOut } from "../../../lib/ceph/errors.ts";
import { Precondition } from "../../../lib/csi/errors.ts";
import { compensated, step } from "../../../lib/operations/compensation.ts";
import { makeOperations } from "../../../lib/operations/pipeline.ts";
import { request, settle, virtual } from "../../support/in-test-time.ts";

describe("compensations", () => {
  /** Three stages, each with an undo that is told in `trace`; then `end`. */
  const recipe = (trace: string[], end: Effect.Effect<string, Precondition | TimedOut | Raced>, broken?: string) =>
    compensated(
      Effect.gen(function* () {
        for (const name of ["reserve", "create", "commit"]) {
          yield* step(
            name,
            Effect.sync(() => void trace.push(name)),
            {
              undo: () =>
                name === broken
                  ? Effect.fail(new Precondition({ subject: "it", problem: `cannot undo ${name}` }))
                  : Effect.sync(() => void trace.push(`undo ${name}`)),
            },
          );
        }
        return yield* end;
      }),
    );
  const MADE = ["reserve", "create", "commit"];

  virtual("Compensations run in reverse order after a definite error, which the caller gets", () =>
    Effect.gen(function* () {
      const trace: string[] = [];
      const error = yield* Effect.flip(
        recipe(trace, Effect.fail(new Precondition({ subject: "it", problem: "full" }))),
      );
      expect(error.message).toBe("it full");
      expect(trace).toEqual([...MADE, "undo commit", "undo create", "undo reserve"]);
    }),
  );

  const without: readonly (readonly [string, Effect.Effect<string, Precondition | TimedOut | Raced>])[] = [
    ["success", Effect.succeed("ok")],
    [
      "an error that says that another driver works on the same",
      Effect.fail(new Raced({ op: "write", subject: "rbd/a" })),
    ],
    ["an error that leaves the outcome unknown", Effect.fail(new TimedOut({ op: "rbd_open", subject: "rbd/a" }))],
    ["a defect", Effect.die(new Error("bug"))],
    ["an interrupt", Effect.interrupt],
  ];
  for (const [what, end] of without) {
    virtual(`Compensations do not run after ${what}`, () =>
      Effect.gen(function* () {
        const trace: string[] = [];
        yield* Effect.exit(recipe(trace, end));
        expect(trace).toEqual(MADE);
      }),
    );
  }

  virtual("A stage that itself failed has no compensation", () =>
    Effect.gen(function* () {
      const trace: string[] = [];
      const body = compensated(
        step("reserve", Effect.fail(new Precondition({ subject: "it", problem: "taken" })), {
          undo: () => Effect.sync(() => trace.push("undo")),
        }),
      );
      expect((yield* Effect.flip(body)).message).toBe("it taken");
      expect(trace).toEqual([]);
    }),
  );

  virtual(
    "Compensations stop at one that fails: earlier stages stay, the log says so, the error is the first one",
    (log) =>
      Effect.gen(function* () {
        const trace: string[] = [];
        const error = yield* Effect.flip(
          recipe(trace, Effect.fail(new Precondition({ subject: "it", problem: "full" })), "create"),
        );
        expect(error.message).toBe("it full");
        expect(trace).toEqual([...MADE, "undo commit"]);
        expect(log.filter((line) => line.startsWith('could not undo "create"'))).toHaveLength(1);
      }),
  );

  virtual("Compensations of an operation that is interrupted from outside do not run", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const trace: string[] = [];
      const caller = yield* Effect.forkChild(operations.run(request(), () => recipe(trace, Effect.never)));
      yield* settle;
      yield* operations.drain(0);
      const exit = yield* Fiber.await(caller);
      expect(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)).toBe(true);
      expect(trace).toEqual(MADE);
    }),
  );

  virtual("Compensations run although the caller has left", () =>
    Effect.gen(function* () {
      const operations = makeOperations();
      const trace: string[] = [];
      const late = Effect.delay(Effect.fail(new Precondition({ subject: "it", problem: "full" })), "2 seconds");
      const caller = yield* Effect.forkChild(operations.run(request(), () => recipe(trace, late)));
      yield* TestClock.adjust("1 second");
      yield* Fiber.interrupt(caller);
      yield* TestClock.adjust("1 second");
      expect(trace).toEqual([...MADE, "undo commit", "undo create", "undo reserve"]);
    }),
  );

  virtual("The compensation of a step that undoes from its start runs also when the step itself failed", () =>
    Effect.gen(function* () {
      const trace: string[] = [];
      const body = compensated(
        step("record", Effect.fail(new Precondition({ subject: "it", problem: "taken" })), {
          when: "started",
          undo: Effect.sync(() => trace.push("undo")),
        }),
      );
      yield* Effect.flip(body);
      expect(trace).toEqual(["undo"]);
    }),
  );

  const stays = (broken: boolean, error: Precondition | TimedOut) =>
    compensated(
      Effect.andThen(
        step("record", Effect.void, {
          leaves: "a record",
          undo: () => (broken ? Effect.fail(new Precondition({ subject: "it", problem: "is busy" })) : Effect.void),
        }),
        Effect.fail(error),
      ),
      (what, { message }) => new Precondition({ subject: what.join(), problem: `stays after: ${message}` }),
    );
  const full = new Precondition({ subject: "it", problem: "is full" });
  const late = new TimedOut({ op: "rbd_open", subject: "rbd/a" });

  virtual("Compensations that leave nothing behind do not change the error", () =>
    Effect.gen(function* () {
      expect(yield* Effect.flip(stays(false, full))).toBe(full);
    }),
  );

  for (const [why, broken, error] of [
    ["because undoing failed", true, full],
    ["because the outcome is unknown", false, late],
  ] as const) {
    virtual(`Compensations that leave something behind ${why} say so in the error`, () =>
      Effect.gen(function* () {
        const { message } = yield* Effect.flip(stays(broken, error));
        expect(message).toBe(`a record stays after: ${error.message}`);
      }),
    );
  }
});
