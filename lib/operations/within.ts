/**
 * A limit for waiting for work that cannot be cut off at once. A call in a cell is such work: an interruption waits for its
 * end (lib/cells/pool.ts 6), so a limit that interrupts and waits is none while Ceph hangs.
 *
 * Not here: limits of what ends as soon as it is interrupted, such as a request to Kubernetes: `Effect.timeout` does for it.
 *
 * 1. Whoever waits goes on at the limit, or when it is interrupted itself, whatever the work does.
 * 2. The work is interrupted then: the call that it makes comes to its end, counted by its cell as before, and none follows.
 *    What that call changes it may change late: `onLate` is told, so that what must not overtake it can wait for it.
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";

export interface Limit<B, E, R> {
  readonly limit: Duration.Input;
  /** In place of the work's own answer. */
  readonly orElse: () => Effect.Effect<B, E, R>;
  /** Gets the fiber of work that was given up and has not ended. */
  readonly onLate?: (work: Fiber.Fiber<unknown, unknown>) => void;
}

/**
 * Work that fails no call: `say` is told why it has not come about. `wait` waits for it within the limit that it is given.
 */
export const orSay = <E extends { readonly message: string }, R>(
  limit: string & Duration.Input,
  say: (why: string) => Effect.Effect<void>,
  wait: (limit: Limit<void, never, never>) => Effect.Effect<unknown, E, R>,
): Effect.Effect<void, never, R> =>
  wait({ limit, orElse: () => say(`no answer in ${limit}`) }).pipe(
    Effect.catch(({ message }) => say(message)),
    Effect.asVoid,
  );

export const within = <A, E, R, B, E2, R2>(
  work: Effect.Effect<A, E, R>,
  { limit, orElse, onLate }: Limit<B, E2, R2>,
): Effect.Effect<A | B, E | E2, R | R2> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkDetach(work, { startImmediately: true });
      const giveUp = Effect.sync(() => {
        fiber.interruptUnsafe();
        if (fiber.pollUnsafe() === undefined) onLate?.(fiber);
      });
      const waited = Effect.timeoutOption(Fiber.await(fiber), limit);
      const exit = yield* Effect.onInterrupt(restore(waited), () => giveUp);
      if (Option.isSome(exit)) return yield* exit.value;
      yield* giveUp;
      return yield* restore(orElse());
    }),
  );
