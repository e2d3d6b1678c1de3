/**
 * Keeps answers that seldom change: the ids and names of pools for a second, because every RPC of the driver asks for them.
 *
 * Not here: objects and images, because every driver must see at once what another one writes; but for whether an omap is
 * split (./split-omaps.ts).
 *
 * 1. The id or name of a pool is kept for a second. librados itself answers from a copy of the map that is about as old.
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
/** Far more than a driver has pools, or journals. */
const CAPACITY = 1_000;

interface About {
  readonly access: ClusterAccess;
  /** Tells it from others of its kind to that cluster. */
  readonly name: string | bigint;
}

/** A question. With another key of the same user it is another one: who asks with a wrong key fails alone. */
class Asked<Question extends About> implements Equal.Equal {
  readonly #text: string;

  constructor(readonly question: Question) {
    const { access, name } = question;
    this.#text = `${access.user} ${Redacted.value(access.key)} ${access.monitors.join(",")} ${name}`;
  }

  [Hash.symbol](): number {
    return Hash.string(this.#text);
  }

  [Equal.symbol](other: unknown): boolean {
    return other instanceof Asked && other.#text === this.#text;
  }
}

/** Does `ask`, or repeats the answer to the same question for as long as it is good. */
export const keptWhileGood = <Question extends About, A>(
  ask: (question: Question) => Effect.Effect<A, CephError>,
  goodFor: (answer: A) => Duration.Duration,
): Effect.Effect<typeof ask> =>
  Effect.map(
    Cache.makeWith(({ question }: Asked<Question>) => ask(question), {
      capacity: CAPACITY,
      timeToLive: (exit) => (Exit.isSuccess(exit) ? goodFor(exit.value) : Duration.zero),
    }),
    (cache) => (question) => Cache.get(cache, new Asked(question)),
  );

/** Does `ask`, or repeats the answer to the same question of a moment ago. */
export const keptForAMoment = <Name extends string | bigint, A>(
  ask: (access: ClusterAccess, name: Name) => Effect.Effect<A, CephError>,
): Effect.Effect<typeof ask> =>
  Effect.map(
    keptWhileGood(
      ({ access, name }: { readonly access: ClusterAccess; readonly name: Name }) => ask(access, name),
      () => KEPT,
    ),
    (answerTo) => (access, name) => answerTo({ access, name }),
  );
