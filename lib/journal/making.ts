/**
 * The making of an image that is not complete yet, where several drivers may do it at once: who may remove what is half
 * made, and who may call the image complete.
 *
 * Not here: the image itself (lib/images, lib/volume, lib/snapshot).
 *
 * 1. Nobody removes an image that somebody has called complete, and nobody calls an image complete that somebody else is
 *    about to remove: each is one compare-and-set on the journal entry.
 */
import * as Effect from "effect/Effect";
import * as Ref from "effect/Ref";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { type Attributes, type Kind, storeImageId, takeOver } from "./journal.ts";

export interface Making {
  /**
   * Comes before what is half made is removed. `Raced` if another driver has completed the image, or has taken it over;
   * `ObjectNotFound` if the journal has no entry of it.
   */
  readonly takeOver: Effect.Effect<void, CephError, Rados>;
  /** Records the image as complete, by its ID. `Raced` if another driver has taken it over. */
  readonly complete: (imageId: string) => Effect.Effect<void, CephError, Rados>;
}

/** `attributes`: as they were seen, without an image ID. */
export const makingOf = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attributes: Pick<Attributes, "maker">,
): Effect.Effect<Making> =>
  Effect.map(Ref.make(attributes.maker), (maker) => ({
    takeOver: Effect.flatMap(Ref.get(maker), (now) =>
      takeOver(kind, pool, uuid, { imageId: undefined, maker: now }),
    ).pipe(Effect.flatMap((next) => Ref.set(maker, next))),
    complete: (imageId) =>
      Effect.flatMap(Ref.get(maker), (now) => storeImageId(kind, pool, uuid, imageId, { maker: now })),
  }));
