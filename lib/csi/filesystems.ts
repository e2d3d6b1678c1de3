/**
 * The filesystems that a node of this release makes, mounts, checks and grows. The node refuses a request for any other
 * one, and so does the controller, by this one table: a volume that no node would stage is not created. For readers, a node
 * mounts what its kernel mounts. Pure.
 *
 * Not here: the tools and their arguments (lib/host/block.ts), and mount options (./mount-flags.ts, lib/host/filesystem.ts).
 *
 * 1. A refusal is a clause that follows the name of the field, as in `InvalidRequest`.
 */
import { MIB } from "./size.ts";

/**
 * By the names that a request's `fs_type` has. A request without one gets the first. Whether a node's kernel has btrfs is
 * not known here: a node that lacks it refuses to stage the volume (lib/host/btrfs.ts).
 */
export const FILESYSTEMS: readonly string[] = ["ext4", "xfs", "ext3", "btrfs"];

/** Why no node makes such a filesystem; `undefined`: nodes do. "" is for the one that is there, or the default. */
export const refusalOfType = (type: string): string | undefined => {
  if (type === "" || FILESYSTEMS.includes(type)) return undefined;
  return `must be one of ${FILESYSTEMS.join(", ")}, and not ${JSON.stringify(type)}`;
};

/** What mount(8) and blkid may call a filesystem, as squashfs and iso9660. */
const NAME = /^[a-z][a-z0-9_]*$/;

/** How a PersistentVolume says that its filesystem is for readers. */
export const FOR_READERS = "access mode ReadOnlyMany, or ro in mountOptions";

/** As `refusalOfType`, of a filesystem that may be there already. Readers get any that the node's kernel mounts. */
export const refusalOfMount = (type: string, readOnly: boolean): string | undefined => {
  const refusal = refusalOfType(type);
  if (refusal === undefined || !NAME.test(type)) return refusal;
  return readOnly ? undefined : `${refusal}, which a node mounts for readers only (${FOR_READERS})`;
};

/** The filesystem in which this release encrypts files. */
export const FILE_ENCRYPTION = "ext4";

interface SmallestSize {
  readonly mebibytes: bigint;
  /** The option of its mkfs that makes a smaller one. */
  readonly lifted: RegExp;
}

const SMALLEST: Readonly<Record<string, SmallestSize>> = {
  // Since 5.19.
  xfs: { mebibytes: 300n, lifted: /^--unsupported$/ },
  // Two copies of the metadata take most of it: with other profiles, or with data and metadata mixed, it is less.
  btrfs: { mebibytes: 109n, lifted: /^(-m|-M|--metadata|--mixed)/ },
};

/**
 * Why no node makes such a filesystem on a blank volume; `undefined`: the size is no reason. A volume that has a content
 * source is not blank: its filesystem may be older than the limit, and is only mounted.
 */
export const refusalOfSize = (
  type: string,
  sizeBytes: bigint,
  mkfsOptions: readonly string[] | undefined,
): string | undefined => {
  const smallest = Object.hasOwn(SMALLEST, type) ? SMALLEST[type] : undefined;
  if (smallest === undefined || mkfsOptions?.some((word) => smallest.lifted.test(word)) === true) return undefined;
  const { mebibytes } = smallest;
  if (sizeBytes >= mebibytes * MIB) return undefined;
  return `asks for ${type} on ${sizeBytes} bytes, and mkfs.${type} makes none below ${mebibytes} MiB (${mebibytes * MIB} bytes). Ask for more, or use ext4`;
};
