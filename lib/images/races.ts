/**
 * Reads of an image that another driver may remove at the same time.
 *
 * 1. Absence is a value here, or `Raced`. It never passes for the absence of something that the request names.
 */
import * as Effect from "effect/Effect";
import { type CephError, Raced } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageHeader, type ImageStatus, Rbd } from "../ceph/rbd.ts";

/** Turns a failure that only another driver's work can explain into `Raced`: the next call looks anew. */
export const asRaced = ({ op, subject }: CephError): Effect.Effect<never, Raced> =>
  Effect.fail(new Raced({ op, subject }));

/** Reads the absence of something that another driver removes as `Raced`: NOT_FOUND would say that a source is missing. */
export const orRaced = <A, R>(read: Effect.Effect<A, CephError, R>): Effect.Effect<A, CephError, R> =>
  Effect.catchTag(read, ["ImageNotFound", "ObjectNotFound"], asRaced);

/** Reads the absence of the image as `undefined`. */
const ifThere = <A, R>(read: Effect.Effect<A, CephError, R>): Effect.Effect<A | undefined, CephError, R> =>
  Effect.catchTag(read, "ImageNotFound", () => Effect.succeed(undefined));

/** The status of an image, with these keys of its metadata; `undefined` if the image does not exist. */
export const statusIfThere = (
  pool: PoolRef,
  image: string,
  metadata: readonly string[] = [],
): Effect.Effect<ImageStatus | undefined, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) => ifThere(rbd.imageStatus(pool, image, metadata)));

/** What the header of an image says, with these keys of its metadata; `undefined` if the image does not exist. */
export const headerIfThere = (
  pool: PoolRef,
  image: string,
  metadata: readonly string[] = [],
): Effect.Effect<ImageHeader | undefined, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) => ifThere(rbd.imageHeader(pool, image, metadata)));
