/** Whether a volume exists: its handle leads to an image that is there. Changes nothing. */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { VolumeNotFound } from "../csi/errors.ts";
import { locateVolume } from "../journal/locate.ts";

export type ProveExistsError = CephError | ConfigError | VolumeNotFound;

export const proveVolumeExists = Effect.fn("volume.proveVolumeExists")(function* (
  volumeId: string,
  credentials: Credentials,
): Effect.fn.Return<void, ProveExistsError, ClusterMapping | Clusters | Rados | Rbd> {
  const { pool, imageName } = yield* locateVolume(volumeId, credentials);
  if ((yield* (yield* Rbd).imageId(pool, imageName)) !== undefined) return;
  return yield* new VolumeNotFound({ volumeId, reason: `image ${imageLabel(pool, imageName)} is gone` });
});
