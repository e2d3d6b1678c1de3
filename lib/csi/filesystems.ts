/**
 * The filesystems that a node of this release makes, mounts, checks and grows. The node refuses a request for any other
 * one, and so does the controller, by this one table: a volume that no node would stage is not created. Pure.
 *
 * Not here: the tools and their arguments (lib/host/block.ts), and mount options (./mount-flags.ts, lib/host/filesystem.ts).
 *
 * 1. A refusal is a clause that follows the name of the field, as in `InvalidRequest`.
 */
import { MIB } from "./size.ts";

/** By the names that a request's `fs_type` has. A request without one gets the first. */
export const FILESYSTEMS: readonly string[] = ["ext4", "xfs", "ext3"];

/** Why no node mounts such a filesystem; `undefined`: each does. "" is for the one that is there, or the default. */
export const refusalOfType = (type: string): string | undefined => {
  if (type === "" || FILESYSTEMS.includes(type)) return undefined;
  return `must be one of ${FILESYSTEMS.join(", ")}, and not ${JSON.stringify(type)}`;
};

/** The filesystem in which this release encrypts files. */
export const FILE_ENCRYPTION = "ext4";

/** mkfs.xfs of 5.19 and later makes no smaller one, unless it is called with this option. */
const SMALLEST_XFS_BYTES = 300n * MIB;
const SMALLER_XFS = "--unsupported";

/**
 * Why no node makes such a filesystem on a blank volume; `undefined`: the size is no reason. A volume that has a content
 * source is not blank: its filesystem may be older than the limit, and is only mounted.
 */
export const refusalOfSize = (
  type: string,
  sizeBytes: bigint,
  mkfsOptions: readonly string[] | undefined,
): string | undefined => {
  if (type !== "xfs" || sizeBytes >= SMALLEST_XFS_BYTES || mkfsOptions?.includes(SMALLER_XFS) === true)
    return undefined;
  return `asks for xfs on ${sizeBytes} bytes, and mkfs.xfs makes none below 300 MiB (${SMALLEST_XFS_BYTES} bytes). Ask for more, or use ext4`;
};
