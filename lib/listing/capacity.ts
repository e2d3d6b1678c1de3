/**
 * GetCapacity: how much can still be written to the pools that a StorageClass leads to.
 *
 * Not here: which pools a StorageClass allows where (lib/volume/topology.ts).
 *
 * 1. The pool that counts is the one where data goes, the data pool if there is one, in bytes of clients: copies, parts
 *    (erasure coding) and the pool's quota are taken into account.
 * 2. Pools of one cluster may share its disks: where several could take the volume, the one with the most space counts,
 *    not the sum.
 * 3. A class that this driver cannot make volumes of has no capacity, or is an error; it never has that of another class.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { CephError } from "../ceph/errors.ts";
import { type ClusterAccess, Rados } from "../ceph/rados.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError, InvalidParameter } from "../config/errors.ts";
import type { ParameterMap } from "../config/parameter-kinds.ts";
import { parseParameters } from "../config/parameters.ts";
import type { Precondition, Unplaceable } from "../csi/errors.ts";
import { GIB, MAX_SIZE, MIB } from "../csi/size.ts";
import { clusterAccess } from "../journal/locate.ts";
import { candidatePools, type Segments } from "../volume/topology.ts";
import { allClusters, type ClusterWithSecret, clusterWithSecret } from "./cluster-credentials.ts";

export interface Capacity {
  readonly availableBytes: bigint;
  /** The largest volume that can be filled. RBD makes larger ones, but has no space for their data. */
  readonly maximumBytes: bigint;
  readonly minimumBytes: bigint;
}

export type CapacityError = CephError | ConfigError | InvalidParameter | Precondition | Unplaceable;

/** `segments`: from where the volume has to be reached; absent: from anywhere. */
export const capacity = Effect.fn("listing.capacity")(function* (
  parameters: ParameterMap,
  segments: Segments | undefined,
): Effect.fn.Return<Capacity, CapacityError, Rados | Clusters | ClusterSecrets> {
  const clusterId = parameters["clusterID"];
  if (clusterId === undefined) return capacityOf(yield* spaceOfAllClusters());
  if (parameters["pool"] === undefined && !parameters["topologyConstrainedPools"]) {
    return capacityOf(yield* spaceOfCluster(yield* clusterWithSecret(clusterId, undefined)));
  }
  return capacityOf(yield* spaceOfClass(parameters, segments));
});

export const capacityOf = (availableBytes: bigint): Capacity => {
  const unit = availableBytes < GIB ? MIB : GIB;
  const whole = availableBytes - (availableBytes % unit);
  return { availableBytes, maximumBytes: whole < MAX_SIZE ? whole : MAX_SIZE, minimumBytes: MIB };
};

const largest = (sizes: readonly bigint[]): bigint => sizes.reduce((a, b) => (b > a ? b : a), 0n);

const spaceOfAllClusters = Effect.fnUntraced(function* (): Effect.fn.Return<
  bigint,
  CapacityError,
  Rados | Clusters | ClusterSecrets
> {
  const sizes = yield* Effect.forEach(yield* allClusters(undefined), ({ clusterId }) =>
    Effect.flatMap(clusterWithSecret(clusterId, undefined), spaceOfCluster),
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0n);
});

const spaceOfCluster = Effect.fnUntraced(function* ({
  cluster,
  secret,
}: ClusterWithSecret): Effect.fn.Return<bigint, CephError, Rados> {
  const access = clusterAccess(cluster, secret.credentials);
  const names = secret.pools ?? (yield* (yield* Rados).pools(access)).map(({ name }) => name);
  return largest(yield* Effect.forEach(names, (name) => spaceOfPool(access, name, undefined)));
});

const spaceOfClass = Effect.fnUntraced(function* (
  parameters: ParameterMap,
  segments: Segments | undefined,
): Effect.fn.Return<bigint, CapacityError, Rados | Clusters | ClusterSecrets> {
  const { clusterId, pool, dataPool, topologyConstrainedPools } = yield* Effect.fromResult(parseParameters(parameters));
  const reached = yield* clusterWithSecret(clusterId, undefined);
  const access = clusterAccess(reached.cluster, reached.secret.credentials);
  if (topologyConstrainedPools !== undefined && segments !== undefined) {
    const choice = candidatePools(topologyConstrainedPools, { preferred: [], requisite: [segments] });
    // No pool is there: that is no space, and nothing is wrong with the class.
    if (Result.isFailure(choice) && choice.failure._tag === "Unplaceable") return 0n;
    const { candidates } = yield* Effect.fromResult(choice);
    return largest(yield* Effect.forEach(candidates, (each) => spaceOfPool(access, each.pool, each.dataPool)));
  }
  return yield* pool === undefined ? spaceOfCluster(reached) : spaceOfPool(access, pool, dataPool);
});

/**
 * The space for volumes in `pool` whose data is in `dataPool`: without space for headers there is none for data. What is not
 * known yet counts as none: Kubernetes asks again.
 */
const spaceOfPool = Effect.fnUntraced(function* (
  access: ClusterAccess,
  pool: string,
  dataPool: string | undefined,
): Effect.fn.Return<bigint, CephError, Rados> {
  const rados = yield* Rados;
  const { availableBytes = 0n } = yield* rados.poolSpace(access, pool);
  if (dataPool === undefined || dataPool === pool || availableBytes === 0n) return availableBytes;
  return (yield* rados.poolSpace(access, dataPool)).availableBytes ?? 0n;
});
