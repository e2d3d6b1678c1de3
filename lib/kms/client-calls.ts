/**
 * What the calls to all key stores share: their limit, and the fields of what a client library throws.
 *
 * Not here: what a failure means (each store's own files).
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { KmsUnreachable } from "./errors.ts";

export const lateReason = (limit: Duration.Duration): string => `no answer within ${Duration.toSeconds(limit)} s`;

/** Fails once the limit is over, and cancels the call. `store`: as messages name it. */
export const within =
  (limit: Duration.Duration, store: string) =>
  <A, E, R>(call: Effect.Effect<A, E, R>): Effect.Effect<A, E | KmsUnreachable, R> =>
    Effect.timeoutOrElse(call, {
      duration: limit,
      orElse: () => Effect.fail(new KmsUnreachable({ store, reason: lateReason(limit) })),
    });

/** Those of an error with its name and message, which are not its own; of anything else none. */
export const fieldsOf = (error: unknown): object =>
  error instanceof Error ? Object.assign({}, error, { name: error.name, message: error.message }) : {};
