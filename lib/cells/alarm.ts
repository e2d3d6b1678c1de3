/**
 * One timer for all the deadlines of a pool. A call costs a comparison, not a timer of its own: nearly every call ends
 * long before its limit.
 *
 * Time is Effect's Clock, so that tests move it. It is the monotonic one: a wall clock that is set must not end a call.
 *
 * 1. `ring` runs at each time that the alarm was set for, or soon after. It may run with nothing due.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Fiber from "effect/Fiber";
import type * as Scope from "effect/Scope";

export interface Alarm {
  /** Milliseconds, from an origin that means nothing. */
  readonly now: () => number;
  /** Rings at `at`, too. */
  readonly set: (at: number) => void;
}

/** `ring` answers when it has to run next, if it knows. */
export const makeAlarm = (ring: (now: number) => number | undefined): Effect.Effect<Alarm, never, Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock;
    const runFork = Effect.runForkWith(yield* Effect.context());
    let asleep: { readonly until: number; readonly fiber: Fiber.Fiber<void> } | undefined;

    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6;
    const wake = () => {
      asleep = undefined;
      const next = ring(now());
      if (next !== undefined) set(next);
    };
    const set = (at: number): void => {
      if (asleep !== undefined && asleep.until <= at) return;
      asleep?.fiber.interruptUnsafe();
      const pause = Duration.millis(Math.max(1, Math.ceil(at - now())));
      asleep = { until: at, fiber: runFork(Effect.andThen(clock.sleep(pause), Effect.sync(wake))) };
    };
    yield* Effect.addFinalizer(() => Effect.sync(() => asleep?.fiber.interruptUnsafe()));
    return { now, set };
  });
