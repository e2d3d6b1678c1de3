/**
 * GetCapacity: how much can still be written to the pools that a StorageClass leads to.
 *
 * 1. What counts is where data goes: the data pool where there is one, in bytes of clients, so that copies and parts
 *    (erasure coding) are taken into account, and the pool's quota.
 * 2. Pools of one cluster may share its disks: where several could take the volume, the roomiest counts, not the sum.
 * 3. A class that this driver can't make volumes of has no capacity, or is an error; never somebody else's.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type ClusterAccess, Rados } from "../ceph/rados.ts";
import { Clusters } from "../config/clusters.ts";
import type { ParameterMap } from "../config/parameter-kinds.ts";
import { parseParameters } from "../config/parameters.ts";
import { GIB, MAX_SIZE, MIB } from "../csi/size.ts";
import { clusterAccess } from "../journal/locate.ts";
import { candidatePools, type Segments } from "../volume/topology.ts";
import { allClusters, type Reach, reachOf } from "./cluster-credentials.ts";

export interface Capacity {
  readonly availableBytes: bigint;
  /** The largest volume that can be filled. RBD makes larger ones, and has no room for what is in them. */
  readonly maximumBytes: bigint;
  readonly minimumBytes: bigint;
}

export const capacityOf = (availableBytes: bigint): Capacity => {
  const unit = availableBytes < GIB ? MIB : GIB;
  const whole = availableBytes - (availableBytes % unit);
  return { availableBytes, maximumBytes: whole < MAX_SIZE ? whole : MAX_SIZE, minimumBytes: MIB };
};

const largest = (sizes: readonly bigint[]): bigint => sizes.reduce((a, b) => (b > a ? b : a), 0n);

/** For volumes in `pool` whose data is in `dataPool`. Without room for an image's header there is none for data. */
const spaceOf = (access: ClusterAccess, pool: string, dataPool: string | undefined) =>
  Effect.gen(function* () {
    const rados = yield* Rados;
    const own = (yield* rados.poolSpace(access, pool)).availableBytes;
    if (dataPool === undefined || dataPool === pool || own === 0n) return own;
    return (yield* rados.poolSpace(access, dataPool)).availableBytes;
  });

const roomiestOf = ({ cluster, secret }: Reach) =>
  Effect.gen(function* () {
    const access = clusterAccess(cluster, secret.credentials);
    const names = secret.pools ?? (yield* (yield* Rados).pools(access)).map(({ name }) => name);
    return largest(yield* Effect.forEach(names, (name) => spaceOf(access, name, undefined)));
  });

/** `segments`: from where the volume has to be reached; absent, from anywhere. */
export const capacity = (parameters: ParameterMap, segments: Segments | undefined) =>
  Effect.gen(function* () {
    if (parameters["clusterID"] === undefined) {
      const clusters = yield* allClusters(undefined);
      const each = yield* Effect.forEach(clusters, ({ clusterId }) =>
        Effect.flatMap(reachOf(clusterId, undefined), roomiestOf),
      );
      return capacityOf(each.reduce((sum, bytes) => sum + bytes, 0n));
    }
    if (parameters["pool"] === undefined && !parameters["topologyConstrainedPools"]) {
      return capacityOf(yield* roomiestOf(yield* reachOf(parameters["clusterID"], undefined)));
    }
    const { clusterId, pool, dataPool, topologyConstrainedPools } = yield* Effect.fromResult(
      parseParameters(parameters),
    );
    yield* (yield* Clusters).get(clusterId);
    const { cluster, secret } = yield* reachOf(clusterId, undefined);
    const access = clusterAccess(cluster, secret.credentials);
    if (topologyConstrainedPools !== undefined && segments !== undefined) {
      const candidates = candidatePools(topologyConstrainedPools, { preferred: [], requisite: [segments] });
      // No pool is there: no room, and nothing wrong with the class.
      if (Result.isFailure(candidates) && candidates.failure._tag === "Unplaceable") return capacityOf(0n);
      const found = (yield* Effect.fromResult(candidates)).candidates;
      const sizes = yield* Effect.forEach(found, (each) => spaceOf(access, each.pool, each.dataPool));
      return capacityOf(largest(sizes));
    }
    if (pool !== undefined) return capacityOf(yield* spaceOf(access, pool, dataPool));
    return capacityOf(yield* roomiestOf({ cluster, secret }));
  });
