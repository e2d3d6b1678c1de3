/** The parameters of a VolumeSnapshotClass. Those that other drivers and sidecars read are ignored. */
import * as Result from "effect/Result";
import { InvalidParameter } from "../config/errors.ts";
import { readNamePrefix } from "../config/name-prefix.ts";
import { SNAPSHOTS } from "../journal/journal.ts";
import { hasControl } from "../text/printable.ts";

export interface SnapshotParameters {
  /** Absent: the cluster of the source volume. */
  readonly clusterId: string | undefined;
  /** The first part of the image's name. */
  readonly snapshotPrefix: string;
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
  return Result.succeed({ clusterId: parameters["clusterID"], snapshotPrefix: prefix.success });
};
