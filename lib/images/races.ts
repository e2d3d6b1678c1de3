/**
 * Reads of an image that another driver may remove at the same time.
 *
 * 1. Absence is a value here, or `Raced`; it never passes for the absence of something that the request names.
 */
import * as Effect from "effect/Effect";
import { type CephError, Raced } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";

/** For a failure that only somebody else's work on the same can explain: the next call looks anew. */
export const asRaced = ({ op, subject }: CephError): Effect.Effect<never, Raced> =>
  Effect.fail(new Raced({ op, subject }));

/** What another driver removes meanwhile. NOT_FOUND would say that the source of a copy is missing. */
export const orRaced = <A, R>(found: Effect.Effect<A, CephError, R>): Effect.Effect<A, CephError, R> =>
  Effect.catchTag(found, ["ImageNotFound", "ObjectNotFound"], asRaced);

/** `undefined` for an image that does not exist. */
export const statusIfThere = (pool: PoolRef, image: string): Effect.Effect<ImageStatus | undefined, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) =>
    rbd.imageStatus(pool, image).pipe(Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined))),
  );
