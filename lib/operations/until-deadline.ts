/**
 * Waiting for something that other people or machines bring about: the one way in which recipes look again and again.
 *
 * 1. Waiting ends a little before the last caller leaves, so that the caller reads why: the error of the last look.
 * 2. A retry that joins the operation moves the deadline, also while a wait runs.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { CurrentOperation, type Operation } from "./operation.ts";

export interface Waiting<E> {
  /** Whether waiting can end this failure. Others end the wait at once. */
  readonly while: (error: E) => boolean;
  /** The first pause between two looks. */
  readonly first: Duration.Input;
  /** What each pause is multiplied by for the next; 1 when absent. */
  readonly factor?: number;
  /** The longest pause; the first when absent. */
  readonly longest?: Duration.Input;
  /** How long to wait at most; until the deadline of the operation when absent. */
  readonly patience?: Duration.Input;
}

/** Repeats `look` until it succeeds. Outside an operation and without patience it looks once. */
export const untilDeadline = <A, E, R>(look: Effect.Effect<A, E, R>, waiting: Waiting<E>): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const operation = yield* CurrentOperation;
    const { factor = 1, first, longest = first, patience } = waiting;
    const limit = patience === undefined ? undefined : (yield* Clock.currentTimeMillis) + Duration.toMillis(patience);
    const until = () => Math.min(operation?.deadline ?? limit ?? 0, limit ?? Number.POSITIVE_INFINITY);
    const again = (pause: number): Effect.Effect<A, E, R> =>
      Effect.catchIf(look, waiting.while, (error) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          until() - now <= pause
            ? Effect.fail(error)
            : Effect.andThen(
                Effect.sleep(pause),
                Effect.suspend(() => again(Math.min(pause * factor, Duration.toMillis(longest)))),
              ),
        ),
      );
    return yield* again(Duration.toMillis(first));
  });

/** Ends when the last caller's deadline is over; a retry that joins moves the deadline while this sleeps. */
export const pastDeadline = (operation: Operation): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (;;) {
      const left = operation.deadline - (yield* Clock.currentTimeMillis);
      if (left <= 0) return;
      yield* Effect.sleep(left);
    }
  });
