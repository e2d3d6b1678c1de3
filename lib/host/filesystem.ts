/**
 * Which filesystem a device has or gets, and with which options it is mounted.
 *
 * 1. The filesystem that is on a device stays. A request for another one is refused, unless the kernel's ext4 serves both.
 * 2. The driver's own options precede the user's, so that the user's win. No option stands twice.
 * 3. What a filesystem is staged with holds for all its bind mounts, unless one is asked to have it otherwise.
 */
import * as Effect from "effect/Effect";
import { UnexpectedContent } from "./errors.ts";
import type { Content } from "./host.ts";

const DEFAULT_FILESYSTEM = "ext4";
export const AS_BLOCK = "Use it as a raw block volume (volumeMode: Block)";

const ENCRYPTED =
  'it holds crypto_LUKS, but the volume is not said to be encrypted. Make a static PersistentVolume anew, with encrypted: "true" in volumeAttributes, which cannot be changed, or use the one that CreateVolume made';

/** How a filesystem is to be mounted. */
export interface MountWish {
  /** The user's options, without `ro` and `rw`. */
  readonly flags: readonly string[];
  readonly readOnly: boolean;
}

const OWN_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  // A clone has the UUID of its parent, and xfs refuses to mount a UUID twice on one node.
  xfs: ["nouuid"],
};

export const mountOptions = (type: string, { flags, readOnly }: MountWish): readonly string[] => [
  ...new Set([...(OWN_OPTIONS[type] ?? []), "_netdev", ...flags, ...(readOnly ? ["ro"] : [])]),
];

/** Filesystems that not each node has: its kernel or the image of the driver may lack them. */
const NOT_EVERYWHERE: readonly string[] = ["btrfs"];

export const isEverywhere = (type: string): boolean => !NOT_EVERYWHERE.includes(type);

/** What mounts a filesystem without its journal, by the names that it has for that; the first is the driver's. */
const WITHOUT_JOURNAL: Readonly<Record<string, readonly string[]>> = {
  ext3: ["noload", "norecovery"],
  ext4: ["noload", "norecovery"],
  xfs: ["norecovery"],
  // The first since kernel 5.9; of the others, newer kernels lack one or the other.
  btrfs: ["rescue=nologreplay", "rescue=all", "nologreplay", "norecovery"],
};

/** The options with which the filesystem is mounted without its journal; `undefined`: there are none, or these are such. */
export const withoutJournal = (type: string, options: readonly string[]): readonly string[] | undefined => {
  const [own, ...others] = WITHOUT_JOURNAL[type] ?? [];
  if (own === undefined || [own, ...others].some((name) => options.includes(name))) return undefined;
  return [...options, own];
};

/**
 * The options that each mount has for itself, in families of which a mount has one. The other options belong to the
 * filesystem as it was staged.
 */
const PER_MOUNT: readonly (readonly string[])[] = [
  ["ro", "rw"],
  ["noexec", "exec"],
  ["nosuid", "suid"],
  ["nodev", "dev"],
  ["nosymfollow", "symfollow"],
  ["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"],
  ["diratime", "nodiratime"],
];
const familyOf = (option: string) => PER_MOUNT.find((family) => family.includes(option));

/**
 * The options of a bind mount of a filesystem that is mounted with the options `staged`. The kernel takes from a bind
 * mount that changes any of its options all those that it is not told again, so all are told.
 */
export const bindOptions = ({ flags, readOnly }: MountWish, staged: readonly string[]): readonly string[] => {
  const told = [...(readOnly ? ["ro"] : []), ...flags.filter((flag) => familyOf(flag) !== undefined)];
  const kept = staged.filter((option) => {
    const family = familyOf(option);
    return option !== "rw" && family !== undefined && !told.some((each) => family.includes(each));
  });
  return [...new Set(["bind", "_netdev", ...kept, ...told])];
};

/** Options that forbid something in a mount. The mount table shows them if they are in force. */
const FORBIDDING = new Set(["noexec", "nosuid", "nodev", "nosymfollow"]);

/**
 * The options among those asked for that forbid something, and that a mount with the options `shown` does not have. Of two
 * that contradict each other, mount(8) takes the last.
 */
export const notInForce = (asked: readonly string[], shown: readonly string[]): readonly string[] => {
  const lastWord = (option: string) => asked.findLast((each) => familyOf(option)?.includes(each));
  return asked.filter((option) => FORBIDDING.has(option) && lastWord(option) === option && !shown.includes(option));
};

/** The generations of one filesystem. The kernel's ext4 mounts all of them, and grows all of them while they are mounted. */
const EXT: readonly string[] = ["ext2", "ext3", "ext4"];
/** What a request may ask for, besides EXT. */
const OTHERS: readonly string[] = ["xfs", "btrfs"];

/** Whether a filesystem of the type `there` is what a request for `requested` gets; "" is for any. */
export const serves = (there: string, requested: string): boolean =>
  requested === "" || requested === there || (EXT.includes(there) && EXT.includes(requested));

/** As which type the kernel mounts what is there: its ext3 takes no ext2 and no ext4, and its ext2 does not grow. */
const mountedAs = (there: string, requested: string): string =>
  there === "ext2" || (there === "ext3" && requested === "ext4") ? "ext4" : there;

/** Whether writers get such a filesystem, and not readers only: it is checked and grown. */
export const isWritten = (type: string): boolean => EXT.includes(type) || OTHERS.includes(type);

/** Why a filesystem is not what a request gets. The one who asks is wrong, and never what is there. */
const otherThanRequested = (there: string, requested: string): string => {
  const holds = `it holds ${there}, but the request asks for ${requested}`;
  const right = there === "ext2" ? "ext4" : there;
  if (!isWritten(there)) {
    return `${holds}, and a node mounts ${there} for readers only, with a PersistentVolume of fsType ${there}. Or: ${AS_BLOCK}`;
  }
  return `${holds}. The image is right as it is: make a PersistentVolume with fsType ${right} for it, because the fsType of one cannot be changed. If it is a copy, make it again with a StorageClass that has ${right}`;
};

export interface ChosenFilesystem {
  /** What is there, or, with `blank`, is to be made. */
  readonly type: string;
  readonly mountType: string;
  readonly blank: boolean;
}

/** The filesystem that is there, or the one to make. `requested` is "" for any. */
export const chooseFilesystem = (
  device: string,
  found: Content,
  requested: string,
): Effect.Effect<ChosenFilesystem, UnexpectedContent> => {
  const refuse = (reason: string) => Effect.fail(new UnexpectedContent({ op: "probe", subject: device, reason }));
  switch (found.kind) {
    case "blank": {
      const type = requested || DEFAULT_FILESYSTEM;
      return Effect.succeed({ type, mountType: type, blank: true });
    }
    case "filesystem": {
      const { type } = found;
      if (!serves(type, requested)) return refuse(otherThanRequested(type, requested));
      return Effect.succeed({ type, mountType: mountedAs(type, requested), blank: false });
    }
    case "partitions":
      return refuse(`it holds a partition table (${found.type}). ${AS_BLOCK}`);
    case "other":
      if (found.type === "crypto_LUKS") return refuse(ENCRYPTED);
      return refuse(`it holds ${found.type}. ${AS_BLOCK}, or look at it with "wipefs --no-act DEVICE"`);
  }
};
