/**
 * One timer for all the deadlines of a pool. A call costs a comparison, not a timer of its own, because nearly every call
 * ends long before its limit.
 *
 * The time is the monotonic time of Effect's Clock: tests can move it, and a change of the wall clock does not end a call.
 *
 * 1. `ring` runs at each time for which the alarm was set, or soon after. It may run when nothing is due.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Fiber from "effect/Fiber";
import type * as Scope from "effect/Scope";

export interface Alarm {
  /** Milliseconds from an arbitrary origin. */
  readonly now: () => number;
  /** Makes the alarm ring at `at`, besides other times. */
  readonly set: (at: number) => void;
}

/** `ring` gives the time at which it has to run next, if any. */
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
