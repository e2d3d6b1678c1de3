/** Does several things side by side, and waits for all of them. */
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
    const worst = worstOf(exits);
    if (worst !== undefined) yield* worst;
    return yield* Effect.all(exits);
  });

/** Does two things side by side, as `settleAll` does. */
export const settleBoth = <A, B, E extends DomainError, E2 extends DomainError, R, R2>(
  one: Effect.Effect<A, E, R>,
  other: Effect.Effect<B, E2, R2>,
): Effect.Effect<readonly [A, B], E | E2, R | R2> =>
  Effect.gen(function* () {
    const exits = yield* Effect.all([Effect.exit(one), Effect.exit(other)], { concurrency: 2 });
    const worst = worstOf<A | B, E | E2>(exits);
    if (worst !== undefined) yield* worst;
    return yield* Effect.all(exits);
  });

const worstOf = <B, E extends DomainError>(exits: readonly Exit.Exit<B, E>[]) =>
  exits.find(isUnknown) ?? exits.find(Exit.isFailure);

const isUnknown = <B, E extends DomainError>(exit: Exit.Exit<B, E>): boolean =>
  Exit.isFailure(exit) &&
  Option.match(Cause.findErrorOption(exit.cause), {
    onNone: () => true,
    onSome: (error) => outcomeOf(error) !== "none",
  });
