/**
 * An earlier CreateVolume of the same name, as far as it came: what the journal and the pool hold of it, made whole or
 * taken away, so that creation goes on from a known state.
 *
 * 1. A name has at most one volume ID, whatever crashes: creation is finished with the UUID that the journal holds, and
 *    only a volume that was complete and is gone, or one that was given up, makes room for a new UUID. Whoever gave it up may
 *    still be undoing it, so nothing is made under that UUID any more.
 * 2. No reservation goes before its image is proven gone.
 * 3. What was not complete is taken over before anything of it changes: whoever began it undoes nothing from then on.
 * 4. A copy is complete only if its image is the one that was recorded, or has data of its own.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import { encryptionIn } from "../config/encryption.ts";
import { DriverSettings } from "../config/settings.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { JournalCorrupt, NotReadyYet, Precondition } from "../csi/errors.ts";
import type { Purge } from "../images/purge.ts";
import { headerIfThere, orRaced } from "../images/races.ts";
import { LIMIT_KEYS } from "../qos/image-limits.ts";
import { removeTemp, tempImage } from "../images/intermediate.ts";
import { clearUnfinished, finishRemoval } from "../images/removal.ts";
import { newHandle } from "../csi/new-handle.ts";
import { removeKey } from "../images/key-removal.ts";
import type { Kms } from "../kms/kms.ts";
import * as journal from "../journal/journal.ts";
import { locateVolume } from "../journal/locate.ts";
import { takenOver } from "../journal/making.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";
import { removeVolumeImages } from "./delete.ts";

const { VOLUMES } = journal;

/** `reservation` without `image`: creation is to be finished. Neither: the name is free. */
export interface EarlierAttempt {
  readonly reservation: journal.Reservation | undefined;
  readonly image: ImageHeader | undefined;
}

const NOTHING: EarlierAttempt = { reservation: undefined, image: undefined };

export type EarlierAttemptError = CephError | ConfigError | JournalCorrupt | NotReadyYet | Precondition;
type Needs = Ceph | Clusters | ClusterMapping | DriverSettings | Kms | Purge;

export const recoverEarlierAttempt = Effect.fn("volume.recoverEarlierAttempt")(function* (
  spec: CreateVolumeSpec,
  poolId: bigint,
): Effect.fn.Return<EarlierAttempt, EarlierAttemptError, Needs> {
  const { pool, requestName, source } = spec;
  const { instanceId } = yield* DriverSettings;
  const found = yield* journal.lookUp(VOLUMES, pool, instanceId, requestName);
  if (found === undefined) return NOTHING;
  const { uuid } = found;
  const { imageId } = found.attributes;
  const imagePool = yield* imagePoolOf(pool, found.imagePoolId);
  const reservation =
    imageId === undefined ? yield* goOnWith(spec, { pool: imagePool, id: found.imagePoolId ?? poolId }, found) : found;
  if (reservation === undefined) {
    yield* journal.unreserve(VOLUMES, pool, instanceId, { ...found, requestName });
    return NOTHING;
  }
  const { attributes } = reservation;
  if (imagePool !== undefined) {
    const imageName = journal.imageNameOf(VOLUMES, uuid, attributes);
    // Without an image ID in the journal, making it may have been cut off anywhere; copies are made again.
    if (imageId === undefined && source !== undefined) return { reservation, image: undefined };
    if (imageId === undefined) yield* (yield* Rbd).imageMend(imagePool, imageName);
    const image = yield* headerIfThere(imagePool, imageName, imageId === undefined ? LIMIT_KEYS : []);
    if (image !== undefined) {
      const other = imageId !== undefined && imageId !== image.id && source !== undefined;
      if (!other || !(yield* isHalfMade(imagePool, imageName))) return { reservation, image };
      const maker = yield* orRaced(journal.takeOver(VOLUMES, pool, uuid, attributes));
      return {
        reservation: { ...reservation, attributes: { ...attributes, imageId: undefined, maker } },
        image: undefined,
      };
    }
    if (imageId === undefined) {
      // The undo of an earlier attempt may have been cut off in turn.
      yield* finishRemoval(imagePool, imageName, imageId);
      return { reservation, image };
    }
    yield* finishDeletion(spec, { pool: imagePool, id: found.imagePoolId ?? poolId }, reservation, imageId);
  }
  yield* journal.unreserve(VOLUMES, pool, instanceId, { ...reservation, requestName });
  return NOTHING;
});

/** A person may have put the image into the trash, and want it back: then it stays, and its key with it. */
const finishDeletion = Effect.fnUntraced(function* (
  { parameters, secrets }: CreateVolumeSpec,
  { pool, id }: { readonly pool: PoolRef; readonly id: bigint },
  { uuid, attributes }: journal.Reservation,
  imageId: string,
): Effect.fn.Return<void, EarlierAttemptError, Needs> {
  const trashed = encryptionIn(attributes) && (yield* (yield* Rbd).trashGet(pool, imageId));
  const name = journal.imageNameOf(VOLUMES, uuid, attributes);
  yield* removeVolumeImages(pool, name, imageId, 0, { onlyMarked: true });
  if (trashed !== undefined && trashed.byDriver === undefined) return;
  const handle = newHandle({ clusterId: parameters.clusterId, poolId: id, uuid });
  if (Result.isSuccess(handle)) yield* removeKey({ pool, attributes, handle: handle.success }, secrets);
});

/**
 * Takes over what another call has begun; `undefined`: it is given up, and nothing of it is left. Without its pool the image
 * is gone.
 */
const goOnWith = Effect.fnUntraced(function* (
  spec: CreateVolumeSpec,
  home: { readonly pool: PoolRef | undefined; readonly id: bigint },
  { uuid, attributes, ...reservation }: journal.Reservation,
): Effect.fn.Return<journal.Reservation | undefined, EarlierAttemptError, Needs> {
  const { pool, secrets, parameters } = spec;
  if (attributes.maker !== journal.GIVEN_UP && home.pool !== undefined) {
    return { ...reservation, uuid, attributes: yield* takenOver(VOLUMES, pool, uuid, attributes) };
  }
  yield* journal.giveUp(VOLUMES, pool, uuid, attributes, true);
  if (home.pool === undefined) return undefined;
  yield* finishUndo(spec, home.pool, journal.imageNameOf(VOLUMES, uuid, attributes));
  const handle = newHandle({ clusterId: parameters.clusterId, poolId: home.id, uuid });
  if (Result.isSuccess(handle)) yield* removeKey({ pool: home.pool, attributes, handle: handle.success }, secrets);
  return undefined;
});

/** Removes what a call has made that then gave it up; the snapshot of the source goes last. */
const finishUndo = Effect.fnUntraced(function* (
  { source, credentials, cluster }: CreateVolumeSpec,
  pool: PoolRef,
  image: string,
): Effect.fn.Return<void, EarlierAttemptError, Needs> {
  yield* clearUnfinished(pool, image, Effect.void, [], cluster.mirrorDaemonCount);
  yield* removeTemp(pool, image, cluster.mirrorDaemonCount);
  if (source?.kind !== "volume") return;
  const rbd = yield* Rbd;
  yield* locateVolume(source.id, credentials).pipe(
    Effect.flatMap((from) => rbd.snapshotRemove(from.pool, from.imageName, tempImage(image))),
    Effect.catchTag(["VolumeNotFound", "ImageNotFound"], () => Effect.void),
  );
});

/**
 * Whether an image that another image's ID was recorded for is what a driver left that was making a copy again. One that
 * holds data, or is mirrored, is the volume itself, which was failed over, migrated, or restored from a backup.
 */
const isHalfMade = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
): Effect.fn.Return<boolean, CephError, Rbd> {
  const rbd = yield* Rbd;
  const { mirror } = yield* orRaced(rbd.imageStatus(pool, imageName));
  return mirror === "disabled" && !(yield* orRaced(rbd.imageHasData(pool, imageName, "own")));
});

/** The image's own pool, where an old journal entry names one; `undefined` when that pool is gone. */
export const imagePoolOf = (
  pool: PoolRef,
  id: bigint | undefined,
): Effect.Effect<PoolRef | undefined, CephError, Rados> =>
  id === undefined
    ? Effect.succeed(pool)
    : Effect.flatMap(Rados, (rados) => rados.poolName(pool.access, id)).pipe(
        Effect.map((name) => ({ ...pool, pool: name })),
        Effect.catchTag("PoolNotFound", () => Effect.succeed(undefined)),
      );
