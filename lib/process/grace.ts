/**
 * The one grace budget of a process: all that happens between the signal and the exit shares three moments, so that no
 * part gets a time of its own on top.
 *
 * Not here: who waits until then (lib/grpc/server.ts, ./compose.ts) and the exit itself (./launch.ts).
 *
 * 1. The moments are fixed once: at the signal, or without one when the scope closes.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";

/** Milliseconds since the epoch. */
export interface StopMoments {
  /** Until then running calls and operations may go on; what is left then is interrupted. */
  readonly drainBy: number;
  /** Until then connections may take their last answers. */
  readonly closeBy: number;
  /** Then the process ends, whatever still hangs. */
  readonly exitBy: number;
}

export interface Grace {
  readonly begin: Effect.Effect<StopMoments>;
}

/** Kept for interrupting what did not end and for closing connections and threads; at most a quarter of the budget. */
const RESERVE = 2_000;

export const makeGrace = (period: Duration.Duration): Grace => {
  let moments: StopMoments | undefined;
  const fixed = (now: number): StopMoments => {
    const whole = Duration.toMillis(period);
    const reserve = Math.min(RESERVE, whole / 4);
    const exitBy = now + whole;
    return { drainBy: exitBy - reserve, closeBy: exitBy - reserve / 2, exitBy };
  };
  return { begin: Effect.map(Clock.currentTimeMillis, (now) => (moments ??= fixed(now))) };
};
