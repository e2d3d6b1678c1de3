/**
 * Which filesystem a volume has or gets, and how it is mounted.
 *
 * 1. What is found on a device decides; a request for another filesystem is refused, never carried out over it.
 * 2. Options that belong to the driver are in front of the user's, so that the user's win.
 */
import * as Effect from "effect/Effect";
import { UnexpectedContent } from "./errors.ts";
import type { Content } from "./host.ts";

/** Those that the driver can make, check and grow. */
export const FILESYSTEMS: readonly string[] = ["ext4", "xfs", "ext3"];
const DEFAULT_FILESYSTEM = "ext4";

const OWN_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  // a clone and its parent have one UUID, and may be on one node
  xfs: ["nouuid"],
};

export const mountOptions = (type: string, flags: readonly string[], readOnly: boolean): readonly string[] => [
  ...new Set([...(OWN_OPTIONS[type] ?? []), "_netdev", ...flags, ...(readOnly ? ["ro"] : []), "defaults"]),
];

/** Flags that a bind mount can have of its own; the others belong to the filesystem as it was staged. */
const PER_MOUNT = new Set(
  ["atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime"].concat([
    "dev",
    "nodev",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "symfollow",
    "nosymfollow",
    "ro",
    "rw",
  ]),
);

export const bindOptions = (flags: readonly string[], readOnly: boolean): readonly string[] => [
  ...new Set(["bind", "_netdev", ...flags.filter((flag) => PER_MOUNT.has(flag)), ...(readOnly ? ["ro"] : [])]),
];

/** The filesystem that is there, or `blank` with the one to make. "" asks for whichever. */
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
        : refuse(`it holds ${found.type}, and ${requested} is asked for; correct fsType, or empty the volume by hand`);
    case "partitions":
      return refuse(`it holds a partition table (${found.type}), and no filesystem can be mounted from it`);
    case "other":
      return refuse(`it holds ${found.type}, and no filesystem can be mounted from it`);
  }
};
