/**
 * How every mutating RPC runs: as one operation of named stages, that outlives its caller and that retries join.
 *
 * Not here: any particular RPC (services/) and locks (./locks.ts).
 *
 * 1. A request that equals one that runs joins it and gets its result; nothing runs twice.
 * 2. A caller that leaves, by cancel or deadline, leaves its operation running. One that waits to its deadline is
 *    told, just before it, which stage runs.
 * 3. A compensation is registered at the moment its effect exists, runs only when the operation fails, in reverse
 *    order, and never when the failure left the outcome unknown: then the next call for the name decides.
 * 4. Only a stopping driver interrupts an operation, after the grace period; an interrupt compensates nothing, as a
 *    crash would not.
 */
import * as Cause from "effect/Cause";
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { CallSubject } from "../cells/call-subject.ts";
import { StillRunning } from "../csi/errors.ts";
import { traced } from "../telemetry/tracing.ts";
import { CurrentOperation, describeOperation, type Operation } from "./operation.ts";

/** For a caller that gave no deadline; the CSI sidecars' own default is 10 to 150 s. */
const DEFAULT_PATIENCE = 150_000;
/** The answer "it still runs" leaves this long before the deadline, so that it arrives. */
const ANSWER_AHEAD = 200;

export interface Request {
  readonly rpc: string;
  readonly subject: string;
  /** Equal for equal requests, different for different ones; holds no secret (a digest). */
  readonly identity: string;
  /** Milliseconds since the epoch. */
  readonly deadline: number | undefined;
}

export interface OperationsService {
  readonly run: <A, E, R>(request: Request, body: Effect.Effect<A, E, R>) => Effect.Effect<A, E | StillRunning, R>;
  readonly running: () => readonly Operation[];
  /** Waits for the operations that run, then interrupts what is left. */
  readonly drain: (grace: number) => Effect.Effect<void>;
}

export class Operations extends Context.Service<Operations, OperationsService>()("csi-rbd/Operations") {
  static readonly layer = Layer.sync(Operations, () => Operations.of(makeOperations()));
}

interface Running {
  readonly operation: Operation;
  readonly fiber: Fiber.Fiber<unknown, unknown>;
  /** Its end, or the answer that it gave earlier. */
  readonly answer: Deferred.Deferred<unknown, unknown>;
}

export const makeOperations = (): OperationsService => {
  const running = new Map<string, Running>();

  const start = <A, E, R>(key: string, request: Request, now: number, body: Effect.Effect<A, E, R>) =>
    Effect.gen(function* () {
      const answer = Deferred.makeUnsafe<unknown, unknown>();
      const operation: Operation = {
        rpc: request.rpc,
        subject: request.subject,
        startedAt: now,
        deadline: 0,
        stage: "start",
        answer: (value) => Deferred.doneUnsafe(answer, Exit.succeed(value)),
      };
      const fiber = yield* body.pipe(
        Effect.provideService(CurrentOperation, operation),
        Effect.provideService(CallSubject, operation.subject),
        Effect.tapCause((cause) =>
          Deferred.isDoneUnsafe(answer)
            ? Effect.logWarning("failed after its answer; the next call for it finishes or undoes it", cause)
            : Effect.void,
        ),
        Effect.ensuring(Effect.sync(() => running.delete(key))),
        Effect.forkDetach,
      );
      fiber.addObserver((exit) => Deferred.doneUnsafe(answer, exit));
      const entry: Running = { operation, fiber, answer };
      // A body without a single pause is over by now, and must not be entered after it has left.
      if (fiber.pollUnsafe() === undefined) running.set(key, entry);
      return entry;
    });

  const run: OperationsService["run"] = (request, body) =>
    Effect.gen(function* () {
      const key = `${request.rpc} ${request.identity}`;
      const now = yield* Clock.currentTimeMillis;
      const entry = running.get(key) ?? (yield* Effect.uninterruptible(start(key, request, now, body)));
      const { operation, fiber, answer } = entry;
      const patience = request.deadline === undefined ? DEFAULT_PATIENCE : Math.max(0, request.deadline - now);
      const wait = patience - Math.min(ANSWER_AHEAD, patience / 4);
      // Lock waits end a little before the caller does, so that the caller reads who holds the lock.
      operation.deadline = Math.max(operation.deadline, now + wait * 0.95);
      // Who comes after an early answer wants to know the end.
      const awaited = Deferred.isDoneUnsafe(answer) ? Fiber.await(fiber) : Effect.exit(Deferred.await(answer));
      const exit = yield* Effect.timeoutOption(awaited as Effect.Effect<Exit.Exit<never>>, wait);
      if (Option.isSome(exit)) return yield* exit.value;
      return yield* new StillRunning({
        message: `${describeOperation(operation, yield* Clock.currentTimeMillis)}, goes on; a retry waits for its result`,
      });
    });

  const drain = (grace: number) =>
    Effect.gen(function* () {
      const fibers = () => [...running.values()].map(({ fiber }) => fiber);
      yield* Effect.forEach(fibers(), Fiber.await, { concurrency: "unbounded", discard: true }).pipe(
        Effect.timeoutOption(grace),
      );
      yield* Fiber.interruptAll(fibers());
    });

  return { run, running: () => [...running.values()].map(({ operation }) => operation), drain };
};

/**
 * Answers whoever waits for the operation now; it goes on, and later callers wait for its end. The value is what the
 * operation's own result would be to them.
 */
export const answerEarly = (value: unknown): Effect.Effect<void> =>
  Effect.map(CurrentOperation, (operation) => operation?.answer(value));

/** Names what runs: in the operation, in the span, and so in log lines, the lock table and errors. */
export const stage = <A, E, R>(name: string, body: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const operation = fiber.getRef(CurrentOperation);
    if (operation !== undefined) operation.stage = name;
    return traced(name, "internal", body);
  });

/** Whether a failure is definite, so that compensations may run; see lib/ceph/errors.ts `outcomeUnknown`. */
export type Definite<E> = (error: E) => boolean;

/**
 * A stage with its compensation. `undo` runs when a later stage of the operation fails with a definite error; if it
 * fails itself, it says so in the log, the compensations of earlier stages are left out (they would harm: no
 * reservation goes before its image), and the next call for the name finds and heals what is left.
 */
export const undoable = <A, E, R, E2, R2>(
  name: string,
  body: Effect.Effect<A, E, R>,
  undo: (made: A) => Effect.Effect<unknown, E2, R2>,
): Effect.Effect<A, E, R | R2 | Compensations> =>
  Effect.gen(function* () {
    const made = yield* stage(name, body);
    const compensations = yield* Compensations;
    const context = yield* Effect.context<R2>();
    compensations.push({ name, undo: Effect.provide(undo(made), context) });
    return made;
  });

interface Compensation {
  readonly name: string;
  readonly undo: Effect.Effect<unknown, unknown>;
}

export class Compensations extends Context.Service<Compensations, Compensation[]>()("csi-rbd/Compensations") {}

/** Runs stages so that, after a definite failure, what they registered is undone in reverse order. */
export const compensated = <A, E, R>(
  definite: Definite<E>,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, Exclude<R, Compensations>> =>
  Effect.suspend(() => {
    const compensations: Compensation[] = [];
    return body.pipe(
      Effect.provideService(Compensations, compensations),
      Effect.onExit((exit) => {
        const failure = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined;
        return failure !== undefined && definite(failure) ? undoAll(compensations) : Effect.void;
      }),
    );
  });

const undoAll = (compensations: readonly Compensation[]): Effect.Effect<void> =>
  Effect.forEach(
    compensations.toReversed(),
    ({ name, undo }) =>
      undo.pipe(
        Effect.tapCause((cause) =>
          Effect.logWarning(`could not undo "${name}"; the next call for this name will`, cause),
        ),
      ),
    { discard: true },
  ).pipe(Effect.ignore);
