/**
 * ControllerReclaimSpace: frees the zeros that the image of a volume holds while nobody uses it.
 *
 * Not here: a volume that is mounted, whose filesystem knows what is free (lib/node/trim.ts).
 *
 * 1. A volume in use stays as it is, and this is no error: CSI-Addons asks for every volume, in use or not.
 * 2. The volume is locked while it is looked at, and not for the hours that the rest may take: librbd itself keeps a
 *    sparsify and any other change of the image apart, and no write is lost. So a volume that somebody wants meanwhile can
 *    be snapshotted, expanded and deleted.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { type LockHeld, type Precondition, VolumeNotFound } from "../csi/errors.ts";
import { otherWatchers, provePrimary } from "../images/in-use.ts";
import { SparsifyTurns } from "../images/sparsify.ts";
import { locateVolume } from "../journal/locate.ts";
import { locateStatic, type StaticImage } from "../journal/locate-static.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { remark } from "../operations/remark.ts";

export interface ReclaimRequest {
  readonly volumeId: string;
  /** The image of a static volume; `undefined`: the volume is in a journal. */
  readonly fixed: StaticImage | undefined;
  readonly credentials: Credentials;
}

export type ReclaimError = CephError | ConfigError | LockHeld | Precondition | VolumeNotFound;

type Needs = Ceph | ClusterMapping | Clusters;

export const reclaimSpace = Effect.fn("volume.reclaimSpace")(function* (
  request: ReclaimRequest,
): Effect.fn.Return<void, ReclaimError, Needs | Locks | SparsifyTurns> {
  const { volumeId } = request;
  const { inTurn } = yield* SparsifyTurns;
  const locks = yield* Locks;
  const rbd = yield* Rbd;
  const reclaimed = Effect.gen(function* () {
    const image = yield* locks.with([LockKey.volume(volumeId)], freeImage(request));
    if (image !== undefined) yield* stage("sparsify", rbd.imageSparsify(image.pool, image.imageName));
  });
  yield* inTurn(reclaimed).pipe(
    Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
  );
});

/** The image of the volume; `undefined`: somebody uses it. */
const freeImage = Effect.fnUntraced(function* ({ volumeId, fixed, credentials }: ReclaimRequest) {
  const locating = fixed === undefined ? locateVolume(volumeId, credentials) : locateStatic(fixed, credentials);
  const { pool, imageName, cluster } = yield* stage("find", locating);
  const status = yield* stage("look for users", (yield* Rbd).imageStatus(pool, imageName));
  yield* provePrimary(pool, imageName, status);
  const users = otherWatchers(status, { mirrorDaemons: cluster.mirrorDaemonCount });
  if (users.length === 0) return { pool, imageName };
  const subject = imageLabel(pool, imageName);
  yield* remark([`image ${subject} is in use by ${users.join(", ")}: its zeros are freed when nobody uses it`]);
  return undefined;
});
