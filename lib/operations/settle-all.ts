/** Does one thing for each of several items, side by side. */
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import { DriverSettings } from "../config/settings.ts";
import { type DomainError, outcomeOf } from "./outcomes.ts";

/**
 * Lets all come to their end, also when one fails, because a call that is cut off goes on in its cell, and nobody knows
 * what it does. Of several failures it fails with one after which nothing must be undone, if there is such a one.
 */
export const settleAll = <A, B, E extends DomainError, R>(
  items: readonly A[],
  use: (item: A, i: number) => Effect.Effect<B, E, R>,
): Effect.Effect<readonly B[], E, R | DriverSettings> =>
  Effect.gen(function* () {
    const { atOnce: concurrency } = yield* DriverSettings;
    const exits = yield* Effect.forEach(items, (item, i) => Effect.exit(use(item, i)), { concurrency });
    const worst = exits.find(isUnknown) ?? exits.find(Exit.isFailure);
    if (worst !== undefined) yield* worst;
    return yield* Effect.all(exits);
  });

const isUnknown = <B, E extends DomainError>(exit: Exit.Exit<B, E>): boolean =>
  Exit.isFailure(exit) &&
  Option.match(Cause.findErrorOption(exit.cause), {
    onNone: () => true,
    onSome: (error) => outcomeOf(error) !== "none",
  });
