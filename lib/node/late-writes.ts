/**
 * Writes of a node about its volumes that hold up no call for long: one that does not come to its end is given up, and may
 * take effect late (lib/operations/within.ts).
 *
 * Not here: what is written (./client-record.ts, ./published-node-record.ts).
 *
 * 1. No write about a volume is begun while an earlier one may still take effect: otherwise the record that an unstage removes
 *    would go after the next stage has written it. A write that waits for that, and may not wait for long, is given up, too.
 */
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import { type Limit, within } from "../operations/within.ts";

export interface LateWrites {
  /** Does the write within its limit. */
  readonly write: <A, E, R, B, E2, R2>(
    volumeId: string,
    work: Effect.Effect<A, E, R>,
    limit: Omit<Limit<B, E2, R2>, "onLate">,
  ) => Effect.Effect<A | B, E | E2, R | R2>;
  /** Ends when no write about the volume can take effect late any more. */
  readonly settled: (volumeId: string) => Effect.Effect<void>;
}

export const makeLateWrites = (): LateWrites => {
  const late = new Map<string, Set<Fiber.Fiber<unknown, unknown>>>();
  const settled = (volumeId: string) =>
    Effect.suspend(() => {
      const its = late.get(volumeId);
      return its === undefined ? Effect.void : Effect.asVoid(Fiber.awaitAll(its));
    });
  return {
    settled,
    write: (volumeId, work, limit) =>
      within(Effect.andThen(settled(volumeId), work), {
        ...limit,
        onLate: (fiber) => {
          const its = late.get(volumeId) ?? new Set();
          late.set(volumeId, its.add(fiber));
          fiber.addObserver(() => {
            its.delete(fiber);
            if (its.size === 0 && late.get(volumeId) === its) late.delete(volumeId);
          });
        },
      }),
  };
};
