/**
 * Which pools a volume may be in, when a StorageClass ties pools to parts of a cluster (`topologyConstrainedPools`) and
 * the request says from where the volume has to be reached. Pure.
 *
 * 1. Candidates come in the request's order of preference; the first is taken for a new volume.
 * 2. A pool fits a topology if all of its segments are in it; segments that the pool does not name don't matter.
 */
import * as Result from "effect/Result";
import { type ConstrainedPool, readConstrainedPools } from "../config/constrained-pools.ts";
import { InvalidParameter } from "../config/errors.ts";
import type { VolumeParameters } from "../config/parameters.ts";
import { Unplaceable } from "../csi/errors.ts";

/** Segment keys are `topology.<driver>/<label>`; values are the nodes'. */
export type Segments = Readonly<Record<string, string>>;

export interface Requirement {
  readonly preferred: readonly Segments[];
  readonly requisite: readonly Segments[];
}

export interface Candidate {
  readonly pool: string;
  readonly dataPool: string | undefined;
  /** From where a volume there can be reached: the request's own topology. */
  readonly segments: Segments;
}

/** Labels as the pools name them: what follows the driver's part. */
export const plain = (segments: Segments): ReadonlyMap<string, string> =>
  new Map(Object.entries(segments).map(([key, value]) => [key.slice(key.indexOf("/") + 1), value]));

export const fits = ({ domainSegments }: ConstrainedPool, segments: ReadonlyMap<string, string>): boolean =>
  domainSegments.every(({ domainLabel, value }) => segments.get(domainLabel) === value);

export interface Choice {
  readonly candidates: readonly Candidate[];
  /** Pools that can't be reached from where the request asks for. */
  readonly others: readonly string[];
}

export const candidatePools = (
  text: string,
  { preferred, requisite }: Requirement,
): Result.Result<Choice, InvalidParameter | Unplaceable> =>
  Result.flatMap(readConstrainedPools(text), (all) => {
    const found = new Map<string, Candidate>();
    for (const segments of [...preferred, ...requisite]) {
      const labels = plain(segments);
      for (const pool of all) {
        if (!fits(pool, labels) || found.has(pool.poolName)) continue;
        found.set(pool.poolName, { pool: pool.poolName, dataPool: pool.dataPool, segments });
      }
    }
    if (found.size === 0) {
      const asked = JSON.stringify([...preferred, ...requisite]);
      return Result.fail(
        new Unplaceable({
          subject: `accessibility_requirements ${asked}`,
          problem: `can be served from no pool of topologyConstrainedPools`,
          remedy: `Correct topologyConstrainedPools, or the labels of the nodes`,
        }),
      );
    }
    const names = new Set(all.map(({ poolName }) => poolName));
    return Result.succeed({
      candidates: [...found.values()],
      others: [...names].filter((poolName) => !found.has(poolName)),
    });
  });

export interface PoolChoice {
  readonly pool: string;
  readonly dataPool: string | undefined;
  /** Absent: the volume can be reached from everywhere. */
  readonly segments: Segments | undefined;
}

/** The pool of the class; where the class ties pools to parts of the cluster, those that the request can be served from. */
export const poolsFor = (
  { pool, dataPool, topologyConstrainedPools }: VolumeParameters,
  topology: Requirement | undefined,
): Result.Result<
  { readonly candidates: readonly PoolChoice[]; readonly others: readonly string[] },
  InvalidParameter | Unplaceable
> => {
  if (topologyConstrainedPools !== undefined && topology !== undefined) {
    return candidatePools(topologyConstrainedPools, topology);
  }
  if (pool !== undefined) return Result.succeed({ candidates: [{ pool, dataPool, segments: undefined }], others: [] });
  const reason = "is missing: topologyConstrainedPools has effect only with accessibility_requirements";
  return Result.fail(new InvalidParameter({ field: "pool", reason }));
};
