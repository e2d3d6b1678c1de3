/**
 * Which filesystem a device has or gets, and with which options it is mounted.
 *
 * 1. The filesystem that is on a device stays. A request for another one is refused.
 * 2. The driver's own options precede the user's, so that the user's win. No option stands twice.
 * 3. What a filesystem is staged with holds for all its bind mounts, unless one is asked to have it otherwise.
 */
import * as Effect from "effect/Effect";
import { UnexpectedContent } from "./errors.ts";
import type { Content } from "./host.ts";

const DEFAULT_FILESYSTEM = "ext4";
const NO_FILESYSTEM = "Use it as a raw block volume, or empty it by hand";

const ENCRYPTED =
  'it holds crypto_LUKS, but the volume is not said to be encrypted. Set encrypted: "true" in the volumeAttributes of a static PersistentVolume, or use the one that CreateVolume made';

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

/** The type of the filesystem that is there, or, with `blank`, of the one to make. `requested` is "" for any. */
export const chooseFilesystem = (
  device: string,
  found: Content,
  requested: string,
): Effect.Effect<{ readonly type: string; readonly blank: boolean }, UnexpectedContent> => {
  const refuse = (reason: string) => Effect.fail(new UnexpectedContent({ op: "probe", subject: device, reason }));
  switch (found.kind) {
    case "blank":
      return Effect.succeed({ type: requested || DEFAULT_FILESYSTEM, blank: true });
    case "filesystem":
      return requested === "" || requested === found.type
        ? Effect.succeed({ type: found.type, blank: false })
        : refuse(
            `it holds ${found.type}, but the request asks for ${requested}. Correct fsType, or empty the volume by hand`,
          );
    case "partitions":
      return refuse(`it holds a partition table (${found.type}). ${NO_FILESYSTEM}`);
    case "other":
      if (found.type === "crypto_LUKS") return refuse(ENCRYPTED);
      return refuse(`it holds ${found.type}. ${NO_FILESYSTEM}`);
  }
};
