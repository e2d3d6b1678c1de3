/**
 * Reserves the name of a volume, and undoes that and the image that was made for it.
 *
 * 1. No reservation goes before its image is proven gone.
 * 2. An image, and the name, stay once another driver has finished the volume, or has taken over the making of it.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict } from "../csi/errors.ts";
import { markFor, type Purge } from "../images/purge.ts";
import { discardImage } from "../images/removal.ts";
import * as journal from "../journal/journal.ts";
import { begin, type Begun, describeBegun } from "../journal/making.ts";
import { step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";
import { type EarlierAttempt, imagePoolOf } from "./earlier-attempt.ts";

const { VOLUMES } = journal;

/** A name that is given to this volume: what its image is called, and where it is. */
export interface ReservedVolume extends Begun {
  /** The journal's own pool but for entries of older drivers. */
  readonly imagePool: PoolRef;
}

/**
 * Gives the name its UUID, or goes on with the one that it has; a new name goes again if what follows fails and left no
 * image. Its attributes are written later (`describeReserved`).
 */
export const reserveName = Effect.fnUntraced(function* (
  { pool, requestName, parameters, owner }: CreateVolumeSpec,
  { reservation: earlier, image }: EarlierAttempt,
) {
  const { instanceId } = yield* DriverSettings;
  const { encryption } = parameters;
  // An image without attributes was found by the name that follows from its UUID.
  const prefix = image === undefined ? parameters.volumeNamePrefix : VOLUMES.defaultImagePrefix;
  const wanted = { requestName, prefix, owner, encryption };
  const reserve = begin(VOLUMES, pool, instanceId, wanted, earlier);
  const undo = Effect.fnUntraced(function* ({ imageName, making, ...made }: Begun) {
    yield* making.giveUp;
    if ((yield* (yield* Rbd).imageId(pool, imageName)) !== undefined) {
      return yield* new Conflict({ subject: `image ${imageLabel(pool, imageName)}`, problem: "is still there" });
    }
    yield* journal.unreserve(VOLUMES, pool, instanceId, { ...made, requestName });
  });
  const reserved = yield* earlier === undefined ? step("reserve", reserve, { undo }) : stage("reserve", reserve);
  const imagePool = (yield* imagePoolOf(pool, reserved.imagePoolId)) ?? pool;
  return { ...reserved, imagePool } satisfies ReservedVolume;
});

/** Writes the attributes of the reservation, unless they are there. `isNew`: this call has reserved the name. */
export const describeReserved = Effect.fnUntraced(function* (
  { pool, requestName }: CreateVolumeSpec,
  reserved: ReservedVolume,
  isNew: boolean,
) {
  const { instanceId } = yield* DriverSettings;
  yield* stage("reserve", describeBegun(VOLUMES, pool, instanceId, requestName, reserved, isNew));
});

/**
 * Removes the image of this call, and then its `traces`. All stays if another driver has finished the volume, or works on it;
 * then comes `overtaken`.
 */
export const discardNew = <E = never, R = never, E2 = never, R2 = never>(
  { imagePool, imageName, making }: ReservedVolume,
  traces: Effect.Effect<unknown, E, R> = Effect.void,
  overtaken?: Effect.Effect<unknown, E2, R2>,
): Effect.Effect<void, CephError | E | E2, Rados | Rbd | Purge | R | R2> =>
  making.undo(Effect.andThen(discardMade({ imagePool, imageName }), traces), overtaken);

/** Removes the image of that name, if it is the one of this ID; absent: any. It may not be whole, so its size is not asked for. */
export const discardMade = Effect.fnUntraced(function* (
  { imagePool, imageName }: Pick<ReservedVolume, "imagePool" | "imageName">,
  only?: string,
): Effect.fn.Return<void, CephError, Rbd | Purge> {
  const id = yield* (yield* Rbd).imageId(imagePool, imageName);
  if (id === undefined || (only !== undefined && only !== id)) return;
  yield* discardImage({ pool: imagePool, name: imageName, id, mark: markFor(imageName) });
});
