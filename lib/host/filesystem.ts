/**
 * Which filesystem a device has or gets, and with which options it is mounted.
 *
 * 1. The filesystem that is on a device stays. A request for another one is refused.
 * 2. The driver's own options precede the user's, so that the user's win.
 */
import * as Effect from "effect/Effect";
import { UnexpectedContent } from "./errors.ts";
import type { Content } from "./host.ts";

const DEFAULT_FILESYSTEM = "ext4";
const NO_FILESYSTEM = "Use it as a raw block volume, or empty it by hand";

const OWN_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  // A clone has the UUID of its parent, and xfs refuses to mount a UUID twice on one node.
  xfs: ["nouuid"],
};

export const mountOptions = (type: string, flags: readonly string[], readOnly: boolean): readonly string[] => [
  ...new Set([...(OWN_OPTIONS[type] ?? []), "_netdev", ...flags, ...(readOnly ? ["ro"] : []), "defaults"]),
];

/** Flags that each bind mount has for itself. The others belong to the filesystem as it was staged. */
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
      return refuse(`it holds ${found.type}. ${NO_FILESYSTEM}`);
  }
};
