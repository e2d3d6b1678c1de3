/** The parameters of a VolumeSnapshotClass. Those that other drivers and sidecars read are ignored. */
import * as Result from "effect/Result";
import { type ConstrainedPool, readConstrainedPools } from "../config/constrained-pools.ts";
import { InvalidParameter } from "../config/errors.ts";
import { readNamePrefix } from "../config/name-prefix.ts";
import { SNAPSHOTS } from "../journal/journal.ts";
import { hasControl } from "../text/printable.ts";

export interface SnapshotParameters {
  /** Absent: the cluster of the source volume. */
  readonly clusterId: string | undefined;
  /** The first part of the image's name. */
  readonly snapshotPrefix: string;
  /** Absent: every pool can be reached from everywhere. */
  readonly constrainedPools: readonly ConstrainedPool[] | undefined;
}

export const readSnapshotParameters = (
  parameters: Readonly<Record<string, string>>,
): Result.Result<SnapshotParameters, InvalidParameter> => {
  const refuse = (field: string, reason: string) => Result.fail(new InvalidParameter({ field, reason }));
  for (const field of ["clusterID", "pool"]) {
    const value = parameters[field];
    if (value === "") return refuse(field, "must not be empty");
    if (value !== undefined && hasControl(value)) return refuse(field, "must not hold control characters");
  }
  const field = "snapshotNamePrefix";
  const prefix = readNamePrefix(parameters[field] ?? SNAPSHOTS.defaultImagePrefix);
  if (Result.isFailure(prefix)) return refuse(field, prefix.failure);
  const pools = parameters["topologyConstrainedPools"];
  const constrainedPools = pools ? readConstrainedPools(pools) : Result.succeed(undefined);
  return Result.map(constrainedPools, (constrained) => ({
    clusterId: parameters["clusterID"],
    snapshotPrefix: prefix.success,
    constrainedPools: constrained,
  }));
};
