/**
 * The image of a static volume: no journal knows it; its volume_context names cluster, pool and image.
 *
 * Not here: how the context is read (lib/node/volume-context.ts), and whether the image exists.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { PoolRef } from "../ceph/rados.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { clusterAccess } from "./locate.ts";

export interface StaticImage {
  readonly clusterId: string;
  readonly pool: string;
  readonly imageName: string;
}

export interface LocatedStatic {
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly imageName: string;
}

export const locateStatic = Effect.fnUntraced(function* (
  { clusterId, pool: poolName, imageName }: StaticImage,
  credentials: Credentials,
): Effect.fn.Return<LocatedStatic, ConfigError, Clusters | ClusterMapping> {
  const cluster = yield* staticCluster(clusterId);
  const access = clusterAccess(cluster, credentials);
  return { cluster, pool: { access, pool: poolName, namespace: cluster.radosNamespace }, imageName };
});

/** The cluster of a static volume. After a failover it is the first configured one that stands in for it. */
const staticCluster = Effect.fnUntraced(function* (
  clusterId: string,
): Effect.fn.Return<Cluster, ConfigError, Clusters | ClusterMapping> {
  const clusters = yield* Clusters;
  const own = yield* Effect.result(clusters.get(clusterId));
  if (Result.isSuccess(own)) return own.success;
  if (own.failure._tag !== "ConfigMissing") return yield* own.failure;
  for (const other of yield* (yield* ClusterMapping).mappedClusters(clusterId)) {
    const found = yield* Effect.result(clusters.get(other));
    if (Result.isSuccess(found)) return found.success;
    if (found.failure._tag !== "ConfigMissing") return yield* found.failure;
  }
  return yield* own.failure;
});
