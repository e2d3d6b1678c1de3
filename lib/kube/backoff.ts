/**
 * Growing waits between attempts on one connection: doubled up to a limit, with jitter, and short again after a while in
 * which none was needed.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Random from "effect/Random";

const FIRST_MS = 500;
const LONGEST_MS = 10_000;
/** So long without a wait means that things are well again. */
const QUIET_MS = 60_000;

/** An Effect that waits, longer each time it is run. */
export const makeBackoff = (): Effect.Effect<void> => {
  let next = FIRST_MS;
  let waitedAt = 0;
  return Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis;
    if (now - waitedAt > QUIET_MS) next = FIRST_MS;
    waitedAt = now;
    const wait = next * (0.5 + (yield* Random.next));
    next = Math.min(next * 2, LONGEST_MS);
    yield* Effect.sleep(wait);
  });
};
