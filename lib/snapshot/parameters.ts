/** The parameters of a VolumeSnapshotClass. */
import * as Result from "effect/Result";
import { InvalidParameter } from "../config/errors.ts";
import { SNAPSHOTS } from "../journal/journal.ts";
import { hasControl } from "../text/printable.ts";

export interface SnapshotParameters {
  /** Absent: the cluster of the source volume. */
  readonly clusterId: string | undefined;
  readonly prefix: string;
}

const MAX_PREFIX_BYTES = 200;

export const readSnapshotParameters = (
  parameters: Readonly<Record<string, string>>,
): Result.Result<SnapshotParameters, InvalidParameter> => {
  for (const field of ["clusterID", "snapshotNamePrefix", "pool"]) {
    const value = parameters[field];
    const refuse = (reason: string) => Result.fail(new InvalidParameter({ field, reason }));
    if (value === "") return refuse("must not be empty");
    if (value !== undefined && hasControl(value)) return refuse("must not hold control characters");
  }
  const prefix = parameters["snapshotNamePrefix"] ?? SNAPSHOTS.defaultImagePrefix;
  if (/[/@]/.test(prefix) || Buffer.byteLength(prefix) > MAX_PREFIX_BYTES) {
    const reason = `must have at most ${MAX_PREFIX_BYTES} bytes, and neither "/" nor "@"`;
    return Result.fail(new InvalidParameter({ field: "snapshotNamePrefix", reason }));
  }
  return Result.succeed({ clusterId: parameters["clusterID"], prefix });
};
