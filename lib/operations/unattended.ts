/**
 * A turn of work in the background that nobody waits for: what it fails with is said, and whatever loop it is a turn of
 * goes on.
 *
 * 1. A defect does not end the loop either; the log has its cause. An interruption does.
 */
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";

/** `say` is told why the turn failed. */
export const unattended = <E extends { readonly message: string }, R>(
  turn: Effect.Effect<unknown, E, R>,
  say: (reason: string) => Effect.Effect<void>,
): Effect.Effect<void, never, R> =>
  Effect.catchCause(Effect.asVoid(turn), (cause) => {
    if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt;
    const error = Option.getOrUndefined(Cause.findErrorOption(cause));
    if (error !== undefined) return say(error.message);
    return Effect.andThen(
      Effect.logError("work in the background broke", cause),
      say("a defect; the log has its cause"),
    );
  });
