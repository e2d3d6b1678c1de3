/** Calls that hang as one in a cell does (lib/cells/pool.ts 6): whoever interrupts one waits for its end. */
import * as Effect from "effect/Effect";
import * as Latch from "effect/Latch";

export interface Hanging {
  /** Takes effect, and comes back, when the call is ended. */
  readonly around: <A, E, R>(act: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>;
  /** How many have begun. */
  readonly begun: () => number;
  /** Ends the calls that hang; from now on none does. */
  readonly end: () => void;
}

export const hanging = (): Hanging => {
  const ended = Latch.makeUnsafe(false);
  let begun = 0;
  return {
    around: (act) =>
      Effect.uninterruptible(
        Effect.suspend(() => {
          begun += 1;
          return Effect.andThen(ended.await, act);
        }),
      ),
    begun: () => begun,
    end: () => void ended.openUnsafe(),
  };
};
