/**
 * The making of an image that is not complete yet, where several drivers may do it at once: who may remove what is half
 * made, and who may call the image complete.
 *
 * Not here: the image itself (lib/images, lib/volume, lib/snapshot).
 *
 * 1. Nobody removes an image that somebody has called complete, and nobody calls an image complete that somebody else is
 *    about to remove: each is one compare-and-set on the journal entry.
 * 2. Whoever goes on with what another call has begun takes it over first. From then on that other one undoes nothing.
 * 3. Whoever undoes what it has made, or frees a name, gives up the making first. Then nobody goes on with it, nor takes it
 *    over, and whoever finds it finishes the undo.
 * 4. What somebody makes who was overtaken goes when it is of no use: the entry is gone, or has another image.
 */
import * as Effect from "effect/Effect";
import * as Ref from "effect/Ref";
import { type CephError, Raced } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import type { JournalCorrupt } from "../csi/errors.ts";
import {
  type Attributes,
  claim,
  type Claim,
  GIVEN_UP,
  giveUp,
  type Kind,
  readAttributes,
  release,
  type Reservation,
  type ReservationRequest,
  storeImageId,
  takeOver,
  uuidObject,
  writeAttributes,
  writeFound,
} from "./journal.ts";

export interface Making {
  /**
   * Comes before what is half made is removed. `Raced` if another driver has completed the image, or has taken it over, or
   * if it is given up; `ObjectNotFound` if the journal has no entry of it.
   */
  readonly takeOver: Effect.Effect<void, CephError, Rados>;
  /** Records the image as complete, by its ID. `Raced` as in `takeOver`. */
  readonly complete: (imageId: string) => Effect.Effect<void, CephError, Rados>;
  /** Fails as `Raced` if another driver has taken it over, or has deleted what it was for. */
  readonly proveOwn: Effect.Effect<void, CephError, Rados>;
  /** Comes before what was made is undone, and the name freed. `Raced` and `ObjectNotFound` as in `takeOver`. */
  readonly giveUp: Effect.Effect<void, CephError, Rados>;
  /**
   * Undoes what this call has made: gives it up, does `body`, and lets others go on if an earlier call has reserved the name. What that
   * one asked of Ceph may still come, so its UUID stays in use. `overtaken` comes before the failure as `Raced`.
   */
  readonly undo: <E, R, E2 = never, R2 = never>(
    body: Effect.Effect<unknown, E, R>,
    overtaken?: Effect.Effect<unknown, E2, R2>,
  ) => Effect.Effect<void, CephError | E | E2, Rados | R | R2>;
}

/** `attributes`: as they were seen, without an image ID. `isNew`: they are of this call, and may not be written yet. */
export const makingOf = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attributes: Pick<Attributes, "maker">,
  isNew = false,
): Effect.Effect<Making> =>
  Effect.map(Ref.make(attributes.maker), (maker) => {
    const giveUpNow = Effect.flatMap(Ref.get(maker), (now) =>
      now === GIVEN_UP
        ? Effect.void
        : Effect.andThen(giveUp(kind, pool, uuid, { maker: now }, isNew), Ref.set(maker, GIVEN_UP)),
    );
    const releaseNow = release(kind, pool, uuid).pipe(
      Effect.flatMap((next) => Ref.set(maker, next)),
      // another driver has finished the undo
      Effect.catchTag(["Raced", "ObjectNotFound"], () => Effect.void),
    );
    return {
      takeOver: Effect.flatMap(Ref.get(maker), (now) =>
        takeOver(kind, pool, uuid, { imageId: undefined, maker: now }),
      ).pipe(Effect.flatMap((next) => Ref.set(maker, next))),
      complete: (imageId) =>
        Effect.flatMap(Ref.get(maker), (now) => storeImageId(kind, pool, uuid, imageId, { maker: now })),
      proveOwn: Effect.gen(function* () {
        const [now, own] = [yield* readAttributes(kind, pool, uuid), yield* Ref.get(maker)];
        if (now === undefined || now.maker !== own) {
          return yield* new Raced({ op: "rados_omap_get", subject: uuidObject(kind, uuid) });
        }
      }),
      giveUp: giveUpNow,
      undo: (body, overtaken) =>
        giveUpNow.pipe(
          Effect.tapErrorTag("Raced", () => overtaken ?? Effect.void),
          // the entry is gone, and with it whoever could go on
          Effect.catchTag("ObjectNotFound", () => Effect.void),
          Effect.andThen(body),
          Effect.andThen(isNew ? Effect.void : releaseNow),
        ),
    };
  });

/** A name that is given to an image to make. */
export interface Begun extends Claim {
  readonly making: Making;
}

/** Gives a name its UUID, or goes on with the one that it has (`earlier`). */
export const begin = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  wanted: ReservationRequest,
  earlier: Reservation | undefined,
): Effect.Effect<Begun, CephError, Rados> =>
  claim(kind, pool, instance, { ...wanted, takesOver: true }, earlier).pipe(
    Effect.bind("making", ({ uuid, attributes }) => makingOf(kind, pool, uuid, attributes, earlier === undefined)),
  );

/** Writes the attributes of what was begun, unless they are there. `isNew`: this call has reserved the name. */
export const describeBegun = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  requestName: string,
  begun: Claim,
  isNew: boolean,
): Effect.Effect<void, CephError | JournalCorrupt, Rados> =>
  isNew ? writeAttributes(kind, pool, begun) : writeFound(kind, pool, instance, requestName, begun);

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
 * Does `own`, which is `proveOwn` or `complete`. Where another driver was faster, or the entry is gone, `discard` removes the image of this
 * ID that this call has made, unless the other one goes on with it.
 */
export const orDiscard = <E extends Error, R>(
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  own: Effect.Effect<void, CephError, Rados>,
  imageId: string,
  discard: Effect.Effect<unknown, E, R>,
): Effect.Effect<void, CephError, R | Rados> =>
  Effect.catchTag(own, ["Raced", "ObjectNotFound"], ({ op, subject }) =>
    Effect.gen(function* () {
      const now = yield* readAttributes(kind, pool, uuid);
      const other = now?.imageId !== undefined && now.imageId !== imageId;
      if (now === undefined || other || (now.imageId === undefined && now.maker === GIVEN_UP)) {
        yield* Effect.catch(discard, (left) => Effect.logWarning(`what was made of ${subject} stays: ${left.message}`));
      }
      return yield* new Raced({ op, subject });
    }),
  );
