/** The parameters of a VolumeGroupSnapshotClass. Those of other readers pass. */
import * as Result from "effect/Result";
import { InvalidParameter } from "../config/errors.ts";
import { GROUPS } from "../journal/journal.ts";
import { readSnapshotParameters } from "../snapshot/parameters.ts";
import { hasControl } from "../text/printable.ts";

export interface GroupParameters {
  /** Absent: the cluster of the source volumes. */
  readonly clusterId: string | undefined;
  /** Of the group's journal entry. Absent: the pool of the source volume whose ID comes first. */
  readonly pool: string | undefined;
  /** First part of the RBD group's name. */
  readonly groupPrefix: string;
  /** First part of the members' image names. */
  readonly snapshotPrefix: string;
}

const MAX_PREFIX_BYTES = 200;

export const readGroupParameters = (
  parameters: Readonly<Record<string, string>>,
): Result.Result<GroupParameters, InvalidParameter> =>
  Result.gen(function* () {
    const { clusterId, prefix: snapshotPrefix } = yield* readSnapshotParameters(parameters);
    const field = "volumeNamePrefix";
    const groupPrefix = parameters[field] || GROUPS.defaultImagePrefix;
    if (hasControl(groupPrefix) || /[/@]/.test(groupPrefix) || Buffer.byteLength(groupPrefix) > MAX_PREFIX_BYTES) {
      const reason = `must have at most ${MAX_PREFIX_BYTES} bytes, and neither "/" nor "@" nor control characters`;
      return yield* Result.fail(new InvalidParameter({ field, reason }));
    }
    return { clusterId, pool: parameters["pool"], groupPrefix, snapshotPrefix };
  });
