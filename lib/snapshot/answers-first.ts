/**
 * In a burst of CreateSnapshot the answers come first: what one does behind its answer waits while others have not
 * answered.
 *
 * Not here: what is done before the answer and behind it (./create.ts).
 *
 * A burst lacks CPU. Nobody waits for the work behind an answer yet, and with this order or without it all snapshots of a
 * burst are ready at the same time.
 *
 * 1. Nothing waits longer than two seconds: a snapshot becomes ready however many others are asked for.
 * 2. A call holds up others for two seconds at most, and none if it fails, is interrupted, or the process stops.
 */
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Latch from "effect/Latch";
import * as Layer from "effect/Layer";

const LONGEST = Duration.seconds(2);

export interface AnswersFirstService {
  /** From now on nothing waits. */
  readonly stop: Effect.Effect<void>;
  /** Does `body` as one that has not answered, until `answered`, which waits for the other ones. */
  readonly unanswered: <A, E, R>(
    body: (answered: Effect.Effect<void>) => Effect.Effect<A, E, R>,
  ) => Effect.Effect<A, E, R>;
}

export const makeAnswersFirst = (): AnswersFirstService => {
  let before = 0;
  let stopped = false;
  const none = Latch.makeUnsafe(true);
  const enter = () => {
    before += 1;
    if (!stopped) none.closeUnsafe();
    let left = false;
    return () => {
      if (left) return;
      left = true;
      before -= 1;
      if (before === 0) none.openUnsafe();
    };
  };
  const entered = Effect.gen(function* () {
    const leave = Effect.sync(enter());
    const late = yield* Effect.forkChild(Effect.andThen(Effect.sleep(LONGEST), leave), { startImmediately: true });
    return { leave, late };
  });
  return {
    unanswered: (body) =>
      Effect.acquireUseRelease(
        entered,
        ({ leave }) => body(Effect.andThen(leave, Effect.asVoid(Effect.timeoutOption(none.await, LONGEST)))),
        ({ leave, late }) => Effect.andThen(leave, Fiber.interrupt(late)),
      ),
    stop: Effect.sync(() => {
      stopped = true;
      none.openUnsafe();
    }),
  };
};

export class AnswersFirst extends Context.Service<AnswersFirst, AnswersFirstService>()("csi-rbd/AnswersFirst") {
  static readonly layer = Layer.sync(AnswersFirst, makeAnswersFirst);
  /** Nothing waits any more once the scope closes. */
  static readonly untilStop = Effect.flatMap(AnswersFirst, ({ stop }) => Effect.addFinalizer(() => stop));
}
