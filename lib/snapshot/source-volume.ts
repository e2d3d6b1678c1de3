/**
 * The volume that a snapshot is taken of, alone or as a member of a group: whether it is fit for one, and how many
 * snapshots it may have.
 *
 * Not here: how its point in time is taken and held (./create.ts, lib/group).
 */
import * as Effect from "effect/Effect";
import { Ceph, imageSubject } from "../ceph/ceph.ts";
import type { Cluster } from "../config/clusters.ts";
import { FEATURE_BITS } from "../ceph/features.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition, TooMany, VolumeNotFound } from "../operations/outcomes.ts";
import { Flatten } from "../images/flatten.ts";
import { resolveVolume } from "../journal/locate.ts";
import type { VolumeOptions } from "../config/settings.ts";

export interface WantedSource {
  readonly sourceVolumeId: string;
  /** As the parameters name it. */
  readonly cluster: Cluster | undefined;
  readonly credentials: Credentials;
}

/** The source volume, fit for a snapshot; the cluster by whose ID the snapshot will go. */
export const findSource = ({ sourceVolumeId, cluster, credentials }: WantedSource) =>
  Effect.gen(function* () {
    const found = yield* resolveVolume(sourceVolumeId, credentials);
    if (cluster !== undefined && !sameCluster(cluster, found.cluster)) {
      const reason = `is ${cluster.clusterId}, but the volume is in cluster ${found.cluster.clusterId}`;
      return yield* new InvalidRequest({ field: "parameters.clusterID", reason });
    }
    if (found.attributes?.encryptKms !== undefined) {
      const message = `volume ${sourceVolumeId} is encrypted, and this driver does not know its keys yet; a snapshot could not be read`;
      return yield* new Precondition({ message });
    }
    const status = yield* (yield* Ceph)
      .imageStatus(found.pool, found.imageName)
      .pipe(
        Effect.catchTag("ImageNotFound", ({ message }) =>
          Effect.fail(new VolumeNotFound({ volumeId: sourceVolumeId, reason: message })),
        ),
      );
    if ((status.features & FEATURE_BITS.layering) === 0n) {
      const reason = `image ${imageSubject(found.pool, found.imageName)} lacks the feature layering, without which it can't be cloned`;
      return yield* new InvalidRequest({ field: "source_volume_id", reason });
    }
    return { found, status, clusterId: (cluster ?? found.cluster).clusterId };
  });

export type Source = Effect.Success<ReturnType<typeof findSource>>;

export const sameCluster = (one: Cluster, other: Cluster): boolean =>
  one.clusterId === other.clusterId ||
  (one.monitors.join() === other.monitors.join() && one.radosNamespace === other.radosNamespace);

/**
 * An image takes only so many snapshots. Those that are only there for clones go when the clones are flattened: images
 * that hold a point in time of this very image, the oldest first, as many as there are too many. No volume is.
 */
export const limitSnapshots = (
  { maxSnapshots, minSnapshots }: VolumeOptions,
  { found: { pool, imageName }, status: { snapshotCount } }: Pick<Source, "found" | "status">,
) =>
  Effect.gen(function* () {
    if (snapshotCount <= minSnapshots) return;
    const flatten = yield* Flatten;
    const kept = (yield* (yield* Ceph).snapshots(pool, imageName)).filter(({ kind }) => kind === "trash");
    let tooMany = snapshotCount - minSnapshots;
    for (const { originalName } of kept) {
      if (tooMany === 0 || originalName === undefined) continue;
      tooMany -= yield* flatten.request(pool, originalName).pipe(
        Effect.as(1),
        // Deleted, and kept itself by a volume that was made of it; or in another pool.
        Effect.catchTag("ImageNotFound", () => Effect.succeed(0)),
      );
    }
    if (snapshotCount <= maxSnapshots) return;
    return yield* new TooMany({
      message: `image ${imageSubject(pool, imageName)} has ${snapshotCount} snapshots, at most ${maxSnapshots} are allowed; ${kept.length} of them are kept by clones, which are being flattened: retry later, or delete snapshots`,
    });
  });
