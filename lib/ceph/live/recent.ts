/**
 * Answers that hold for a moment: what a cluster's map says of its pools is asked by every call of the driver, and
 * changes once in a year.
 *
 * Not a cache of objects or images: what one driver writes, another must see at once.
 *
 * 1. An answer is kept for a second. librados itself answers from a copy of the map that is about as old.
 * 2. Only answers are kept: a failure, "no such pool" among them, is asked for again each time.
 */
import * as Cache from "effect/Cache";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Equal from "effect/Equal";
import * as Exit from "effect/Exit";
import * as Hash from "effect/Hash";
import type { CephError } from "../errors.ts";
import type { ClusterAccess } from "../rados.ts";

const KEPT = Duration.seconds(1);
/** Far more than a driver has pools. */
const CAPACITY = 1_000;

/** A question, which is the same for every key of a user: whoever has a wrong one learns that by the next call. */
class Asked<Name extends string | bigint> implements Equal.Equal {
  readonly #text: string;

  constructor(
    readonly access: ClusterAccess,
    readonly name: Name,
  ) {
    this.#text = `${access.user} ${access.monitors.join(",")} ${name}`;
  }

  [Hash.symbol](): number {
    return Hash.string(this.#text);
  }

  [Equal.symbol](other: unknown): boolean {
    return other instanceof Asked && other.#text === this.#text;
  }
}

/** `ask`, or the answer that it gave for the same just before. */
export const keptForAMoment = <Name extends string | bigint, A>(
  ask: (access: ClusterAccess, name: Name) => Effect.Effect<A, CephError>,
): Effect.Effect<typeof ask> =>
  Effect.map(
    Cache.makeWith(({ access, name }: Asked<Name>) => ask(access, name), {
      capacity: CAPACITY,
      timeToLive: (exit) => (Exit.isSuccess(exit) ? KEPT : Duration.zero),
    }),
    (cache) => (access, name) => Cache.get(cache, new Asked(access, name)),
  );
