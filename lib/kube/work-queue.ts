/**
 * A queue of keys in lanes, each with workers of its own: what is to be looked at, once, soon, or after a failure.
 *
 * Not here: what the work is, and where keys come from.
 *
 * 1. A key is never worked on twice at once, in whichever lanes it is. One that is added meanwhile is worked on once more.
 * 2. A key that fails comes again after `base` x 2^failures, at most `max`; a success forgets the failures.
 * 3. Keys in one lane never wait for those in another.
 */
import * as Cause from "effect/Cause";
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Queue from "effect/Queue";
import type * as Scope from "effect/Scope";

export interface WorkQueueOptions<L extends string, R> {
  /** Workers per lane. */
  readonly lanes: Readonly<Record<L, number>>;
  /** Asked when a key is ready. */
  readonly laneOf: (key: string) => L;
  /** A failure, and a defect as well, brings the key back. */
  readonly work: (key: string) => Effect.Effect<void, { readonly message: string }, R>;
  readonly base: Duration.Duration;
  readonly max: Duration.Duration;
}

/** Moments are milliseconds since the epoch. */
export interface WorkQueueState {
  /** Keys that wait for a worker. */
  readonly waiting: number;
  /** Since when the first of them has waited. */
  readonly oldest: number | undefined;
  readonly adds: number;
  readonly retries: number;
  /** When the work that runs began. */
  readonly running: readonly number[];
}

export interface WorkQueue {
  readonly add: (key: string) => void;
  /** How often the key has failed since its last success. */
  readonly failures: (key: string) => number;
  readonly state: () => WorkQueueState;
}

/** Starts the workers; they are interrupted when the scope closes. */
export const workQueue = <L extends string, R>(
  options: WorkQueueOptions<L, R>,
): Effect.Effect<WorkQueue, never, R | Scope.Scope> =>
  Effect.gen(function* () {
    const context = yield* Effect.context<R | Scope.Scope>();
    const clock = yield* Clock.Clock;
    const lanes = new Map<string, Queue.Queue<string>>();
    /** Keys in a lane, and those that a worker has. */
    const ready = new Map<string, number>();
    const running = new Map<string, number>();
    const again = new Set<string>();
    const failures = new Map<string, number>();
    const counts = { adds: 0, retries: 0 };

    const enter = (key: string) => {
      const lane = lanes.get(options.laneOf(key));
      if (lane === undefined || ready.has(key)) return;
      ready.set(key, clock.currentTimeMillisUnsafe());
      Queue.offerUnsafe(lane, key);
    };
    const add = (key: string) => {
      counts.adds += 1;
      if (running.has(key)) again.add(key);
      else enter(key);
    };

    const later = (key: string, cause: Cause.Cause<{ readonly message: string }>) => {
      const failed = failures.get(key) ?? 0;
      failures.set(key, failed + 1);
      counts.retries += 1;
      const wait = Duration.min(Duration.times(options.base, 2 ** Math.min(failed, 30)), options.max);
      const said = Cause.hasDies(cause) ? Effect.logError(`the work on ${key} broke`, cause) : Effect.void;
      return Effect.andThen(
        said,
        Effect.forkScoped(
          Effect.delay(
            Effect.sync(() => add(key)),
            wait,
          ),
        ),
      );
    };

    const one = (key: string) =>
      Effect.gen(function* () {
        ready.delete(key);
        running.set(key, yield* Clock.currentTimeMillis);
        const exit = yield* Effect.exit(options.work(key));
        running.delete(key);
        if (exit._tag === "Success") failures.delete(key);
        else yield* later(key, exit.cause);
        if (again.delete(key)) enter(key);
      });

    for (const [name, workers] of Object.entries<number>(options.lanes)) {
      const lane = yield* Queue.unbounded<string>();
      lanes.set(name, lane);
      const worker = Queue.take(lane).pipe(Effect.flatMap(one), Effect.forever, Effect.provideContext(context));
      for (let n = 0; n < workers; n++) yield* Effect.forkScoped(worker);
    }
    return {
      add,
      failures: (key) => failures.get(key) ?? 0,
      state: () => ({
        waiting: ready.size,
        oldest: ready.values().next().value,
        ...counts,
        running: [...running.values()],
      }),
    };
  });
