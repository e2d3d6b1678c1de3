/**
 * From a CSI handle to the volume behind it: its cluster, pool, journal entry and image name.
 *
 * Not here: whether the image exists. A resolved volume is where to look, not a proof that something is there.
 *
 * 1. A handle that no driver can have written, and one whose pool is gone, names no volume: `VolumeNotFound`.
 *    Whatever leaves it open (no access, no answer, cluster not configured) is that error and never this one.
 * 2. After a failover the mapped places are tried in the file's order, only if the first place proves empty or closed.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Ceph, type ClusterAccess, type PoolRef } from "./ceph/ceph.ts";
import type { CephError } from "./ceph/errors.ts";
import { type Cluster, Clusters } from "./config/clusters.ts";
import type { ConfigError } from "./config/errors.ts";
import { ClusterMapping, type Place } from "./config/mapping.ts";
import type { Credentials } from "./config/secrets.ts";
import { VolumeNotFound } from "./errors.ts";
import { type Attributes, DEFAULT_PREFIX, readAttributes } from "./journal.ts";
import { parseVolumeId } from "./volume-id.ts";

export interface Volume {
  /** The handle as the caller wrote it, also when a mapping led elsewhere. */
  readonly volumeId: string;
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly poolId: bigint;
  readonly uuid: string;
  readonly imageName: string;
  /** `undefined`: the journal knows nothing of it; the image may exist all the same. */
  readonly attributes: Attributes | undefined;
}

export const clusterAccess = (cluster: Cluster, credentials: Credentials): ClusterAccess => ({
  monitors: cluster.monitors,
  user: credentials.user,
  key: credentials.key,
});

export const resolveVolume = (
  volumeId: string,
  credentials: Credentials,
): Effect.Effect<Volume, VolumeNotFound | CephError | ConfigError, Ceph | Clusters | ClusterMapping> =>
  Effect.gen(function* () {
    const parsed = parseVolumeId(volumeId);
    if (Result.isFailure(parsed)) {
      return yield* new VolumeNotFound({
        volumeId,
        reason: `it is no volume ID of this driver (${parsed.failure.reason})`,
      });
    }
    const { uuid, ...home } = parsed.success;
    const look = (place: Place) => lookAt(volumeId, uuid, place, credentials);
    const first = yield* Effect.result(look(home));
    if (Result.isSuccess(first) && first.success.attributes !== undefined) return first.success;
    if (Result.isFailure(first) && !mayBeElsewhere(first.failure)) return yield* first.failure;
    for (const place of yield* (yield* ClusterMapping).mapped(home.clusterId, home.poolId)) {
      const there = yield* Effect.result(look(place));
      if (Result.isSuccess(there) && there.success.attributes !== undefined) return there.success;
      if (Result.isFailure(there) && !mayBeElsewhere(there.failure)) return yield* there.failure;
    }
    return yield* Effect.fromResult(first);
  });

const mayBeElsewhere = (error: { readonly _tag: string }): boolean =>
  error._tag === "VolumeNotFound" || error._tag === "AccessDenied";

const lookAt = (volumeId: string, uuid: string, place: Place, credentials: Credentials) =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const cluster = yield* (yield* Clusters).get(place.clusterId);
    const access = clusterAccess(cluster, credentials);
    const poolName = yield* ceph
      .poolName(access, place.poolId)
      .pipe(
        Effect.catchTag("PoolNotFound", () =>
          Effect.fail(
            new VolumeNotFound({ volumeId, reason: `cluster ${place.clusterId} has no pool with id ${place.poolId}` }),
          ),
        ),
      );
    const pool: PoolRef = { access, pool: poolName, namespace: cluster.radosNamespace };
    const attributes = yield* readAttributes(pool, uuid);
    const imageName = attributes?.imageName ?? DEFAULT_PREFIX + uuid;
    const volume: Volume = { volumeId, cluster, pool, poolId: place.poolId, uuid, imageName, attributes };
    return volume;
  });
