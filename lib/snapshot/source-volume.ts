/**
 * The volume that a snapshot is taken of, alone or as a member of a group, and whether a snapshot of it can be taken.
 *
 * Not here: how its point in time is taken and held (./create.ts, lib/group), and how many snapshots it may have
 * (lib/images/snapshot-limit.ts).
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import { sameMonitors } from "../ceph/same-monitors.ts";
import type { Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { type Encryption, encryptionIn } from "../config/encryption.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, type Precondition, VolumeNotFound } from "../csi/errors.ts";
import { type LocatedVolume, locateVolume } from "../journal/locate.ts";

export interface SourceVolumeSpec {
  readonly sourceVolumeId: string;
  /** The cluster that the snapshot class names; absent: that of the volume. */
  readonly cluster: Cluster | undefined;
  readonly credentials: Credentials;
  /** Those of the request, in which a key store may have its own. */
  readonly secrets: Readonly<Record<string, string>>;
}

/** Where a source volume is; its image need not be there any more. */
export interface LocatedSource {
  readonly volume: LocatedVolume;
  /** Part of the snapshot's ID: two entries of config.json may lead to one cluster. */
  readonly clusterId: string;
}

export interface SourceVolume extends LocatedSource {
  readonly image: ImageHeader;
  /** `undefined`: it is plain. */
  readonly encryption: Encryption | undefined;
}

export type SourceVolumeError = CephError | ConfigError | InvalidRequest | Precondition | VolumeNotFound;

type SourceToLocate = Pick<SourceVolumeSpec, "cluster" | "credentials" | "sourceVolumeId">;

export const locateSource = Effect.fn("snapshot.locateSource")(function* ({
  sourceVolumeId,
  cluster,
  credentials,
}: SourceToLocate): Effect.fn.Return<
  LocatedSource,
  CephError | ConfigError | InvalidRequest | VolumeNotFound,
  Ceph | Clusters | ClusterMapping
> {
  const volume = yield* locateVolume(sourceVolumeId, credentials);
  if (cluster !== undefined && !sameCluster(cluster, volume.cluster)) {
    const reason = `is ${cluster.clusterId}, but the volume is in cluster ${volume.cluster.clusterId}`;
    return yield* new InvalidRequest({ field: "parameters.clusterID", reason });
  }
  return { volume, clusterId: (cluster ?? volume.cluster).clusterId };
});

/** The volume with its image, of which a snapshot can be taken. */
export const readSource = Effect.fn("snapshot.readSource")(function* ({
  volume,
  clusterId,
}: LocatedSource): Effect.fn.Return<SourceVolume, SourceVolumeError, Ceph> {
  const encryption = encryptionIn(volume.attributes);
  const gone = ({ message }: CephError) => new VolumeNotFound({ volumeId: volume.handle, reason: message });
  const image = yield* (yield* Rbd)
    .imageHeader(volume.pool, volume.imageName)
    .pipe(Effect.catchTag("ImageNotFound", (error) => Effect.fail(gone(error))));
  if ((image.features & FEATURE_BITS.layering) === 0n) {
    const label = imageLabel(volume.pool, volume.imageName);
    const reason = `names a volume whose image ${label} cannot be cloned, because it lacks the feature layering`;
    return yield* new InvalidRequest({ field: "source_volume_id", reason });
  }
  return { volume, image, clusterId, encryption };
});

/** The source volume, of which a snapshot can be taken. */
export const findSourceVolume = (
  source: SourceToLocate,
): Effect.Effect<SourceVolume, SourceVolumeError, Ceph | Clusters | ClusterMapping> =>
  Effect.flatMap(locateSource(source), readSource);

/** Whether two entries of config.json lead to the same images. */
export const sameCluster = (one: Cluster, other: Cluster): boolean =>
  one.clusterId === other.clusterId ||
  (sameMonitors(one.monitors, other.monitors) && one.radosNamespace === other.radosNamespace);
