/**
 * Reserves the name of a volume, and undoes that and the image that was made for it.
 *
 * 1. No reservation goes before its image is proven gone.
 * 2. An image stays once the journal says that another driver has finished the volume.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict } from "../csi/errors.ts";
import type { Purge } from "../images/purge.ts";
import { discardImage } from "../images/removal.ts";
import * as journal from "../journal/journal.ts";
import { step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";
import { type EarlierAttempt, imagePoolOf } from "./earlier-attempt.ts";

const { VOLUMES } = journal;

/** A name that is given to this volume: what its image is called, and where it is. */
export interface ReservedVolume extends journal.Claim {
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
  const reserve = journal.claim(VOLUMES, pool, instanceId, { requestName, prefix, owner, encryption }, earlier);
  const undo = Effect.fnUntraced(function* ({ imageName, ...made }: journal.Reservation & { imageName: string }) {
    if ((yield* (yield* Rbd).imageId(pool, imageName)) !== undefined) {
      return yield* new Conflict({ subject: `image ${imageLabel(pool, imageName)}`, problem: "is still there" });
    }
    yield* journal.unreserve(VOLUMES, pool, instanceId, { ...made, requestName });
  });
  const reserved = yield* earlier === undefined ? step("reserve", reserve, { undo }) : stage("reserve", reserve);
  const imagePool = (yield* imagePoolOf(pool, reserved.imagePoolId)) ?? pool;
  return { ...reserved, imagePool } satisfies ReservedVolume;
});

/** Writes the attributes of the reservation, unless they are there. */
export const describeReserved = ({ pool }: CreateVolumeSpec, reserved: ReservedVolume) =>
  stage("reserve", journal.writeAttributes(VOLUMES, pool, reserved));

/** Removes the image of this call. It stays once the journal says that another driver has finished the volume. */
export const discardNew = Effect.fnUntraced(function* (
  { pool, requestName }: CreateVolumeSpec,
  { imagePool, imageName, uuid }: ReservedVolume,
): Effect.fn.Return<void, CephError | Conflict, Rados | Rbd | Purge> {
  const now = yield* journal.readAttributes(VOLUMES, pool, uuid);
  if (now?.imageId !== undefined) {
    return yield* new Conflict({
      subject: `volume ${requestName}`,
      problem: "was finished by another driver meanwhile",
    });
  }
  const id = yield* (yield* Rbd).imageId(imagePool, imageName);
  if (id !== undefined) yield* discardImage({ pool: imagePool, name: imageName, id, marked: false });
});
