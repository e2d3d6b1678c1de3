/**
 * Answers that hold for a moment: what a cluster's map says of its pools is asked by every call of the driver, and
 * changes once in a year.
 *
 * Not a cache of objects or images: what one driver writes, another must see at once.
 *
 * 1. An answer is kept for a second at most. librados itself answers from a copy of the map that lags about as much.
 * 2. Only answers are kept: a failure, "no such pool" among them, is asked for again each time.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";

const KEPT_MS = 1_000;
/** Far more than a driver has pools. */
const MAX_KEPT = 1_000;

/** -> a function that gives `ask`'s answer, or the one that it gave for the same key just before. */
export const keptForAMoment = <A>() => {
  const kept = new Map<string, { readonly answer: A; readonly until: number }>();
  return <E, R>(key: string, ask: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.flatMap(Clock.currentTimeMillis, (asked) => {
      const found = kept.get(key);
      if (found !== undefined && found.until > asked) return Effect.succeed(found.answer);
      return Effect.tap(ask, (answer) =>
        Effect.sync(() => {
          if (kept.size >= MAX_KEPT) kept.clear();
          // from when it was asked: what a slow answer says may be old by the time it is here
          kept.set(key, { answer, until: asked + KEPT_MS });
        }),
      );
    });
};
