/**
 * The turns in which the volumes of a node are healed: a few at once, each by itself.
 *
 * Not here: what healing is (./heal.ts), and which volumes need it (./healing.ts).
 *
 * 1. A volume is healed once at a time, however often it is asked for.
 * 2. One that takes long gives up its turn, so it holds no other one up. It goes on, and the log names it then, and every few
 *    minutes until it ends.
 */
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import type * as Scope from "effect/Scope";
import * as Semaphore from "effect/Semaphore";

const AT_ONCE = 4;
/** Much longer than an attach takes on a node that works. */
const LONG = "15 seconds";
const SAID_AGAIN = "5 minutes";

export interface HealingTurns {
  /** Begins to heal a volume, unless it is being healed. `sayLong`: it takes long. The end of the scope interrupts it. */
  readonly begin: <R>(
    volumeId: string,
    heal: Effect.Effect<void, never, R>,
    sayLong: Effect.Effect<void>,
  ) => Effect.Effect<void, never, R | Scope.Scope>;
  /** Ends when those have ended that are being healed now. */
  readonly ended: Effect.Effect<void>;
}

export const makeHealingTurns = (): HealingTurns => {
  const turns = Semaphore.makeUnsafe(AT_ONCE);
  const running = new Map<string, Fiber.Fiber<void>>();

  const inTurn = <R>(heal: Effect.Effect<void, never, R>, sayLong: Effect.Effect<void>) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        yield* restore(turns.take(1));
        let has = true;
        const leave = Effect.suspend(() => {
          if (!has) return Effect.void;
          has = false;
          return turns.release(1);
        });
        const long = Effect.andThen(leave, Effect.forever(Effect.andThen(sayLong, Effect.sleep(SAID_AGAIN))));
        const watch = yield* Effect.forkDetach(Effect.delay(long, LONG), { startImmediately: true });
        yield* Effect.ensuring(restore(heal), Effect.andThen(Fiber.interrupt(watch), leave));
      }),
    );

  return {
    begin: Effect.fnUntraced(function* (volumeId, heal, sayLong) {
      if (running.has(volumeId)) return;
      const fiber = yield* Effect.forkScoped(inTurn(heal, sayLong));
      running.set(volumeId, fiber);
      fiber.addObserver(() => void running.delete(volumeId));
    }),
    ended: Effect.suspend(() => Effect.asVoid(Fiber.awaitAll([...running.values()]))),
  };
};
