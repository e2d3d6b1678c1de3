/** The parameters of a VolumeGroupSnapshotClass. Those that other drivers and sidecars read are ignored. */
import * as Result from "effect/Result";
import { InvalidParameter } from "../config/errors.ts";
import { readNamePrefix } from "../config/name-prefix.ts";
import { GROUPS } from "../journal/journal.ts";
import { readSnapshotParameters, type SnapshotParameters } from "../snapshot/parameters.ts";

/** `snapshotPrefix` begins the names of the members' images. */
export interface GroupParameters extends SnapshotParameters {
  /** The pool of the group's journal entry. Absent: that of the source volume whose ID comes first. */
  readonly pool: string | undefined;
  /** The first part of the RBD group's name: ceph-csi has had both parameters for it. */
  readonly groupPrefix: string;
}

/** The first that is given counts. */
const PREFIX_FIELDS = ["volumeGroupNamePrefix", "volumeNamePrefix"] as const;

export const readGroupParameters = (
  parameters: Readonly<Record<string, string>>,
): Result.Result<GroupParameters, InvalidParameter> =>
  Result.gen(function* () {
    const snapshot = yield* readSnapshotParameters(parameters);
    const field = PREFIX_FIELDS.find((each) => parameters[each]) ?? PREFIX_FIELDS[0];
    const groupPrefix = yield* Result.mapError(
      readNamePrefix(parameters[field] || GROUPS.defaultImagePrefix),
      (reason) => new InvalidParameter({ field, reason }),
    );
    return { ...snapshot, pool: parameters["pool"], groupPrefix };
  });
