/**
 * Runs every mutating RPC as one operation of named stages, which outlives its caller and which retries join.
 *
 * Not here: any particular RPC (services/), locks (./locks.ts) and compensations (./compensation.ts).
 *
 * 1. A request that equals one that runs joins it and gets its result; nothing runs twice.
 * 2. A caller that leaves, by cancel or deadline, leaves its operation running. One that waits to its deadline is
 *    told, just before it, which stage runs.
 * 3. Only a stopping driver interrupts an operation, after the grace period; an interrupt compensates nothing, as a
 *    crash would not.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import type * as Tracer from "effect/Tracer";
import { CallSubject } from "../cells/call-subject.ts";
import { Caller } from "../cells/caller.ts";
import { StillRunning } from "../csi/errors.ts";
import { CallInfo } from "../grpc/call.ts";
import { observedStage } from "../telemetry/stage.ts";
import { childSpan, linkSpan } from "../telemetry/tracing.ts";
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

/** The value is what the result of the operation would be to those who wait now. */
export type AnswerEarly<A> = (value: A) => Effect.Effect<void>;

export interface OperationsService {
  /**
   * Runs `body` as the operation of the request, or joins the one that runs. `body` may answer early: those who wait now
   * get that value, the operation goes on, and later callers wait for its end.
   */
  readonly run: <A, E, R>(
    request: Request,
    body: (answerEarly: AnswerEarly<A>) => Effect.Effect<A, E, R>,
  ) => Effect.Effect<A, E | StillRunning, R>;
  readonly running: () => readonly Operation[];
  /** Waits for the operations that run, then interrupts what is left. */
  readonly drain: (grace: number) => Effect.Effect<void>;
}

export class Operations extends Context.Service<Operations, OperationsService>()("csi-rbd/Operations") {
  static readonly layer = Layer.sync(Operations, () => Operations.of(makeOperations()));
}

/** Milliseconds by which an operation that has answered stands back for those that have not. */
const AFTER_ANSWER = 2_000;

interface Running {
  readonly operation: Operation;
  readonly fiber: Fiber.Fiber<unknown, unknown>;
  /** Its end, or the answer that it gave earlier. */
  readonly answer: Deferred.Deferred<unknown, unknown>;
  readonly span: () => Tracer.Span | undefined;
}

export const makeOperations = (): OperationsService => {
  const running = new Map<string, Running>();
  let started = 0;

  const start = <A, E, R>(
    key: string,
    request: Request,
    now: number,
    body: (answerEarly: AnswerEarly<A>) => Effect.Effect<A, E, R>,
  ) =>
    Effect.gen(function* () {
      const answer = Deferred.makeUnsafe<unknown, unknown>();
      // Of a clock that nobody sets: with one that goes back, those that wait would wait for all that begin then.
      const begun = Number((yield* Clock.monotonicTimeNanos) / 1_000_000n);
      const operation: Operation = {
        rpc: request.rpc,
        subject: request.subject,
        startedAt: now,
        deadline: 0,
        stage: "start",
      };
      const caller: Caller = { kind: request.rpc, turn: begun + (started++ % 1000) / 1000 };
      const answerEarly: AnswerEarly<A> = (value) =>
        Effect.sync(() => {
          caller.turn += AFTER_ANSWER;
          Deferred.doneUnsafe(answer, Exit.succeed(value));
        });
      let span: Tracer.Span | undefined;
      const about = {
        name: `operation ${request.rpc}`,
        attributes: { subject: request.subject },
        started: (made: Tracer.Span) => void (span = made),
      };
      const fiber = yield* childSpan("internal", about, body(answerEarly)).pipe(
        Effect.provideService(CurrentOperation, operation),
        Effect.provideService(CallSubject, operation.subject),
        Effect.provideService(Caller, caller),
        Effect.tapCause((cause) =>
          Deferred.isDoneUnsafe(answer)
            ? Effect.logWarning("failed after its answer; the next call for it finishes or undoes it", cause)
            : Effect.void,
        ),
        Effect.ensuring(Effect.sync(() => running.delete(key))),
        Effect.forkDetach,
      );
      fiber.addObserver((exit) => Deferred.doneUnsafe(answer, exit));
      const entry: Running = { operation, fiber, answer, span: () => span };
      // A body without a single pause is over by now, and must not be entered after it has left.
      if (fiber.pollUnsafe() === undefined) running.set(key, entry);
      return entry;
    });

  const run: OperationsService["run"] = (request, body) =>
    Effect.gen(function* () {
      const key = `${request.rpc} ${request.identity}`;
      const now = yield* Clock.currentTimeMillis;
      const joined = running.get(key);
      if (joined !== undefined) yield* linkSpan(joined.span());
      const entry = joined ?? (yield* Effect.uninterruptible(start(key, request, now, body)));
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
        operation: describeOperation(operation, yield* Clock.currentTimeMillis),
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

/** Names what runs: in the operation, in the span, and so in log lines, the lock table and errors. */
export const stage = <A, E, R>(name: string, body: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const operation = fiber.getRef(CurrentOperation);
    if (operation !== undefined) operation.stage = name;
    return observedStage(fiber, operation?.rpc ?? fiber.getRef(CallInfo).method, name, body);
  });
