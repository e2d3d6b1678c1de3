/**
 * Whether a volume exists: its handle, or the names of a static volume, lead to an image that is there. Changes nothing.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { VolumeNotFound } from "../csi/errors.ts";
import { refusalOfSize } from "../csi/filesystems.ts";
import { locateVolume } from "../journal/locate.ts";
import { locateStatic, type StaticImage } from "../journal/locate-static.ts";

export type ProveExistsError = CephError | ConfigError | VolumeNotFound;

export interface ProvenImage {
  readonly pool: PoolRef;
  readonly imageName: string;
}

export const proveVolumeExists = Effect.fn("volume.proveVolumeExists")(function* (
  volumeId: string,
  credentials: Credentials,
): Effect.fn.Return<ProvenImage, ProveExistsError, ClusterMapping | Clusters | Rados | Rbd> {
  return yield* proveImage(volumeId, yield* locateVolume(volumeId, credentials));
});

/** The volume is in no journal: somebody wrote the names of its image into the volume_context. */
export const proveStaticExists = Effect.fn("volume.proveStaticExists")(function* (
  volumeId: string,
  image: StaticImage,
  credentials: Credentials,
): Effect.fn.Return<ProvenImage, ProveExistsError, ClusterMapping | Clusters | Rados | Rbd> {
  const { pool, imageName } = yield* locateStatic(image, credentials);
  const noPool = ({ message }: { readonly message: string }) =>
    Effect.fail(new VolumeNotFound({ volumeId, reason: message }));
  return yield* Effect.catchTag(proveImage(volumeId, { pool, imageName }), "PoolNotFound", noPool);
});

const proveImage = Effect.fnUntraced(function* (volumeId: string, { pool, imageName }: ProvenImage) {
  if ((yield* (yield* Rbd).imageId(pool, imageName)) !== undefined) return { pool, imageName };
  return yield* new VolumeNotFound({ volumeId, reason: `image ${imageLabel(pool, imageName)} is gone` });
});

/**
 * Why no node makes one of the filesystems on the image; `undefined`: each does, or the image has data. The image is
 * opened only where a filesystem has a smallest size.
 */
export const refusalOfBlankImage = Effect.fn("volume.refusalOfBlankImage")(function* (
  { pool, imageName }: ProvenImage,
  filesystems: readonly string[],
  mkfsOptions: readonly string[] | undefined,
): Effect.fn.Return<string | undefined, CephError, Rbd> {
  const rbd = yield* Rbd;
  for (const type of filesystems) {
    if (refusalOfSize(type, 0n, mkfsOptions) === undefined) continue;
    const refusal = refusalOfSize(type, (yield* rbd.imageHeader(pool, imageName)).sizeBytes, mkfsOptions);
    if (refusal !== undefined && !(yield* rbd.imageHasData(pool, imageName, "any"))) return refusal;
  }
  return undefined;
});
