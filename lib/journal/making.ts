/**
 * The making of an image that is not complete yet, where several drivers may do it at once: who may remove what is half
 * made, and who may call the image complete.
 *
 * Not here: the image itself (lib/images, lib/volume, lib/snapshot).
 *
 * 1. Nobody removes an image that somebody has called complete, and nobody calls an image complete that somebody else is
 *    about to remove: each is one compare-and-set on the journal entry.
 * 2. Whoever goes on with what another call has begun takes it over first. From then on that other one undoes nothing.
 * 3. Whoever undoes what it has made, or frees a name, gives up the making first. Then nobody goes on with it, and whoever finds it
 *    finishes the undo.
 * 4. What somebody makes who was overtaken goes when it is of no use: the entry is gone, or has another image.
 */
import * as Effect from "effect/Effect";
import * as Ref from "effect/Ref";
import { type CephError, Raced } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { type Attributes, GIVEN_UP, giveUp, type Kind, readAttributes, storeImageId, takeOver } from "./journal.ts";

export interface Making {
  /**
   * Comes before what is half made is removed. `Raced` if another driver has completed the image, or has taken it over;
   * `ObjectNotFound` if the journal has no entry of it.
   */
  readonly takeOver: Effect.Effect<void, CephError, Rados>;
  /** Records the image as complete, by its ID. `Raced` if another driver has taken it over. */
  readonly complete: (imageId: string) => Effect.Effect<void, CephError, Rados>;
  /** Comes before what was made is undone, and the name freed. `Raced` and `ObjectNotFound` as in `takeOver`. */
  readonly giveUp: Effect.Effect<void, CephError, Rados>;
}

/** `attributes`: as they were seen, without an image ID. `isNew`: they are of this call, and may not be written yet. */
export const makingOf = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attributes: Pick<Attributes, "maker">,
  isNew = false,
): Effect.Effect<Making> =>
  Effect.map(Ref.make(attributes.maker), (maker) => ({
    takeOver: Effect.flatMap(Ref.get(maker), (now) =>
      takeOver(kind, pool, uuid, { imageId: undefined, maker: now }),
    ).pipe(Effect.flatMap((next) => Ref.set(maker, next))),
    complete: (imageId) =>
      Effect.flatMap(Ref.get(maker), (now) => storeImageId(kind, pool, uuid, imageId, { maker: now })),
    giveUp: Effect.flatMap(Ref.get(maker), (now) =>
      now === GIVEN_UP
        ? Effect.void
        : Effect.andThen(giveUp(kind, pool, uuid, { maker: now }, isNew), Ref.set(maker, GIVEN_UP)),
    ),
  }));

/**
 * Takes over what an earlier call has begun -> the attributes as they are then. `Raced` if another driver was faster. What has no attributes
 * yet is taken over by whoever writes them (`ReservationRequest.takesOver`).
 */
export const takenOver = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attributes: Attributes,
): Effect.Effect<Attributes, CephError, Rados> =>
  attributes.requestName === undefined
    ? Effect.succeed(attributes)
    : takeOver(kind, pool, uuid, attributes).pipe(
        Effect.map((maker) => ({ ...attributes, imageId: undefined, maker })),
        Effect.catchTag("ObjectNotFound", ({ op, subject }) => Effect.fail(new Raced({ op, subject }))),
      );

/**
 * `complete`. Where another driver was faster, or the entry is gone, `discard` removes the image that this call has made, unless
 * the other one goes on with it.
 */
export const completeOrDiscard = <E extends Error, R>(
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  making: Pick<Making, "complete">,
  imageId: string,
  discard: Effect.Effect<unknown, E, R>,
): Effect.Effect<void, CephError, R | Rados> =>
  Effect.catchTag(making.complete(imageId), ["Raced", "ObjectNotFound"], ({ op, subject }) =>
    Effect.gen(function* () {
      const now = yield* readAttributes(kind, pool, uuid);
      if (now === undefined || (now.imageId !== undefined && now.imageId !== imageId)) {
        yield* Effect.catch(discard, (left) => Effect.logWarning(`what was made of ${subject} stays: ${left.message}`));
      }
      return yield* new Raced({ op, subject });
    }),
  );
