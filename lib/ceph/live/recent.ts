/**
 * Keeps the ids and names of pools for a second. Every RPC of the driver asks for them, and they change once in a year.
 *
 * Not here: objects and images, because every driver must see at once what another one writes.
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
import * as Redacted from "effect/Redacted";
import type { CephError } from "../errors.ts";
import type { ClusterAccess } from "../rados.ts";

const KEPT = Duration.seconds(1);
/** Far more than a driver has pools. */
const CAPACITY = 1_000;

/** A question. With another key of the same user it is another one: who asks with a wrong key fails alone. */
class Asked<Name extends string | bigint> implements Equal.Equal {
  readonly #text: string;

  constructor(
    readonly access: ClusterAccess,
    readonly name: Name,
  ) {
    const key = Redacted.value(access.key);
    this.#text = `${access.user} ${key} ${access.monitors.join(",")} ${name}`;
  }

  [Hash.symbol](): number {
    return Hash.string(this.#text);
  }

  [Equal.symbol](other: unknown): boolean {
    return other instanceof Asked && other.#text === this.#text;
  }
}

/** Does `ask`, or repeats the answer to the same question of a moment ago. */
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
