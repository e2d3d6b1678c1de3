/**
 * ControllerModifyVolume: changes the limits of I/O that an image keeps; and what of them grows with the image.
 *
 * Not here: which parameters there are (lib/qos), and how a node holds pods to them (lib/node).
 *
 * 1. Nothing is changed but what the request names.
 * 2. librbd's limits fit the size of the image after each change of either.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { type LockHeld, Precondition, VolumeNotFound } from "../csi/errors.ts";
import { locateVolume } from "../journal/locate.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { KEPT_KEYS, librbdLimits, metadataFor, type Unreadable } from "../qos/image-limits.ts";
import type { Asked } from "../qos/parameters.ts";

export interface ModifyRequest {
  readonly volumeId: string;
  readonly credentials: Credentials;
  readonly asked: Asked;
}

export type ModifyVolumeError = CephError | ConfigError | LockHeld | Precondition | VolumeNotFound;

type Needs = ClusterMapping | Clusters | Rados | Rbd;

export const modifyVolume = Effect.fn("volume.modifyVolume")(function* (
  request: ModifyRequest,
): Effect.fn.Return<void, ModifyVolumeError, Needs | Locks> {
  const { volumeId } = request;
  const modified = modifyLocated(request).pipe(
    Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
  );
  yield* (yield* Locks).with([LockKey.volume(volumeId)], modified);
});

const modifyLocated = Effect.fnUntraced(function* ({
  volumeId,
  credentials,
  asked,
}: ModifyRequest): Effect.fn.Return<void, CephError | ConfigError | Precondition | VolumeNotFound, Needs> {
  const rbd = yield* Rbd;
  const { pool, imageName } = yield* stage("find", locateVolume(volumeId, credentials));
  const [image] = yield* stage("read limits", rbd.imageBriefs(pool, [imageName], KEPT_KEYS));
  if (image === undefined) {
    return yield* new VolumeNotFound({ volumeId, reason: `image ${imageLabel(pool, imageName)} does not exist` });
  }
  const metadata = yield* Effect.fromResult(metadataFor(asked, image.metadata, image.sizeBytes)).pipe(
    Effect.mapError((what) => unreadable(pool, imageName, what)),
  );
  if (Object.keys(metadata).length === 0) return;
  yield* stage("set limits", rbd.imageMetaSet(pool, imageName, metadata));
});

/**
 * Computes librbd's limits anew for a size, of what an image has of KEPT_KEYS. What cannot be read of these holds up no
 * growth.
 */
export const growLimits = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  { sizeBytes, metadata }: { readonly sizeBytes: bigint; readonly metadata: ReadonlyMap<string, string> },
): Effect.fn.Return<void, CephError, Rbd> {
  const rbd = yield* Rbd;
  const limits = librbdLimits(metadata, sizeBytes);
  if (Result.isFailure(limits)) {
    const { message } = unreadable(pool, imageName, limits.failure);
    return yield* Effect.logWarning(`the limits of I/O do not grow with the volume: ${message}`);
  }
  if (Object.keys(limits.success).length > 0) {
    yield* stage("set limits", rbd.imageMetaSet(pool, imageName, limits.success));
  }
});

const unreadable = (pool: PoolRef, imageName: string, { key, text }: Unreadable): Precondition =>
  new Precondition({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `has ${JSON.stringify(text.slice(0, 60))} as its metadata ${key}, which is no number`,
    remedy: `Set the parameter that it belongs to, or remove it with "rbd image-meta remove"`,
  });
