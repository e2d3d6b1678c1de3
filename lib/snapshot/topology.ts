/**
 * From where a snapshot can be used. A snapshot is in its source's pool, and so are the volumes that are restored from
 * it, so it can be used from where that pool can be reached. Which parts of the cluster reach a pool is said by
 * `topologyConstrainedPools`, of a VolumeSnapshotClass as of a StorageClass. Pure.
 *
 * Not here: which pools a volume may be in (lib/volume/topology.ts).
 *
 * 1. Without `topologyConstrainedPools` every pool can be reached from everywhere: any requirement is met, and nothing
 *    is said.
 * 2. Where the request says from where the snapshot has to be usable, the answer is one or several of its own topologies.
 */
import * as Result from "effect/Result";
import type { ConstrainedPool } from "../config/constrained-pools.ts";
import { topologyPrefix } from "../csi/topology-prefix.ts";
import { Unplaceable } from "../csi/errors.ts";
import { fits, plain, type Requirement, type Segments } from "../volume/topology.ts";

/** Where the snapshots of a class can be, and from where they have to be usable. */
export interface SnapshotTopology {
  /** Absent: the class ties no pool to a part of the cluster. */
  readonly pools: readonly ConstrainedPool[] | undefined;
  /** Absent: the request does not say. */
  readonly requirement: Requirement | undefined;
  /** Part of the keys of segments. */
  readonly driverName: string;
}

/** The topologies from which a snapshot in this pool can be used; empty: from everywhere. */
export const usableFrom = (
  pool: string,
  { pools, requirement, driverName }: SnapshotTopology,
): Result.Result<readonly Segments[], Unplaceable> => {
  const asked = [...(requirement?.preferred ?? []), ...(requirement?.requisite ?? [])];
  if (pools === undefined || asked.length === 0) return Result.succeed(poolTopology(pool, pools, driverName));
  const places = pools.filter(({ poolName }) => poolName === pool);
  const found = asked.filter((segments) => places.some((place) => fits(place, plain(segments))));
  if (found.length > 0) return Result.succeed(distinct(found));
  return Result.fail(
    new Unplaceable({
      subject: `pool ${pool}`,
      problem: `holds the volume and so the snapshot, and can't be reached from accessibility_requirements ${JSON.stringify(asked)}`,
      remedy: "Ask for a place that reaches the pool, or correct topologyConstrainedPools of the snapshot class",
    }),
  );
};

/** From where the class says that the pool can be reached; empty: from everywhere, or the class does not say. */
export const poolTopology = (
  pool: string,
  pools: readonly ConstrainedPool[] | undefined,
  driverName: string,
): readonly Segments[] =>
  (pools ?? []).filter(({ poolName }) => poolName === pool).map((place) => segmentsOf(place, driverName));

const segmentsOf = ({ domainSegments }: ConstrainedPool, driverName: string): Segments =>
  Object.fromEntries(
    domainSegments.map(({ domainLabel, value }) => [`${topologyPrefix(driverName)}/${domainLabel}`, value]),
  );

/** Preferences are requisites, too; the order of keys means nothing. */
const distinct = (all: readonly Segments[]): readonly Segments[] => {
  const keyOf = (segments: Segments) =>
    JSON.stringify(Object.entries(segments).toSorted(([one], [other]) => (one < other ? -1 : 1)));
  return [...new Map(all.map((segments) => [keyOf(segments), segments] as const)).values()];
};
