/**
 * The volume that a snapshot is taken of, alone or as a member of a group: whether it is fit for one, and how many
 * snapshots it may have.
 *
 * Not here: how its point in time is taken and held (./create.ts, lib/group).
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { FEATURE_BITS } from "../ceph/features.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Cluster } from "../config/clusters.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition, VolumeNotFound } from "../csi/errors.ts";
import { locateVolume } from "../journal/locate.ts";

export interface WantedSource {
  readonly sourceVolumeId: string;
  /** As the parameters name it. */
  readonly cluster: Cluster | undefined;
  readonly credentials: Credentials;
}

/** The source volume, fit for a snapshot; the cluster by whose ID the snapshot will go. */
export const findSourceVolume = ({ sourceVolumeId, cluster, credentials }: WantedSource) =>
  Effect.gen(function* () {
    const found = yield* locateVolume(sourceVolumeId, credentials);
    if (cluster !== undefined && !sameCluster(cluster, found.cluster)) {
      const reason = `is ${cluster.clusterId}, but the volume is in cluster ${found.cluster.clusterId}`;
      return yield* new InvalidRequest({ field: "parameters.clusterID", reason });
    }
    if (found.attributes?.encryptKms !== undefined) {
      const message = `volume ${sourceVolumeId} is encrypted, and this driver does not know its keys yet; a snapshot could not be read`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    const status = yield* (yield* Rbd)
      .imageStatus(found.pool, found.imageName)
      .pipe(
        Effect.catchTag("ImageNotFound", ({ message }) =>
          Effect.fail(new VolumeNotFound({ volumeId: sourceVolumeId, reason: message })),
        ),
      );
    if ((status.features & FEATURE_BITS.layering) === 0n) {
      const reason = `image ${imageLabel(found.pool, found.imageName)} lacks the feature layering, without which it can't be cloned`;
      return yield* new InvalidRequest({ field: "source_volume_id", reason });
    }
    return { found, status, clusterId: (cluster ?? found.cluster).clusterId };
  });

export type SourceVolume = Effect.Success<ReturnType<typeof findSourceVolume>>;

export const sameCluster = (one: Cluster, other: Cluster): boolean =>
  one.clusterId === other.clusterId ||
  (one.monitors.join() === other.monitors.join() && one.radosNamespace === other.radosNamespace);
