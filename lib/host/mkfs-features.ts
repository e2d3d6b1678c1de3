/**
 * Features that a newer mkfs turns on unasked, and that an older kernel does not mount, or older tools do not check: mkfs is
 * told to leave them out.
 *
 * Loaded in host cells: no Effect. Pure. Not here: the call of mkfs (./block.ts).
 *
 * 1. A feature that the user's mkfsOptions name is theirs, on or off.
 * 2. mkfs gets no word that it does not know.
 * 3. What the kernel here can mount is left as mkfs has it: without bigtime, times end in 2038. Left out always is what
 *    ceph-csi does without: its tools may be older than those that made the filesystem.
 *
 * Source: the kernel that brought each feature is that of its commit; the options are those of mkfs.xfs 6.1, 6.13 and 7.2,
 * of mkfs.btrfs 6.2, 6.14 and 7.1, and of mkfs.ext4 1.47 with the mke2fs.conf that e2fsprogs has since 1.47.
 */
import { isOlderKernel as isOlder } from "./kernel-version.ts";

interface Feature {
  readonly name: string;
  /** The option of mkfs in whose list it is. Repeated with other names in its list, the option is taken together. */
  readonly option: string;
  /** The kernel that brought it; absent: it is always left out. */
  readonly since?: string;
  /** The version of its tool that turns it on, for a tool that tells its version alone. */
  readonly tool?: string;
}

interface Tool {
  readonly features: readonly Feature[];
  /** How it is told to leave a feature out. */
  readonly off: (name: string) => string;
  /** What makes it say what it knows, and how that is read. */
  readonly list: readonly string[];
  readonly knows: (said: string, feature: Feature) => boolean;
  /** Other words for an option or a feature. */
  readonly aliases?: Readonly<Record<string, string>>;
}

const TOOLS: Readonly<Record<string, Tool>> = {
  ext4: {
    features: [
      { name: "orphan_file", option: "-O", tool: "1.47" },
      { name: "metadata_csum_seed", option: "-O", tool: "1.47" },
    ],
    off: (name) => `^${name}`,
    list: ["-V"],
    knows: (said, { tool = "" }) => {
      // "mke2fs 1.47.0 (5-Feb-2023)"
      const version = /^mke2fs (\d+\.\d+)/m.exec(said)?.[1];
      return version !== undefined && !isOlder(version, tool);
    },
  },
  xfs: {
    features: [
      // As in ceph-csi: the kernel of another node that mounts it may be older still.
      { name: "reflink", option: "-m" },
      { name: "rmapbt", option: "-m", since: "4.8" },
      { name: "inobtcount", option: "-m", since: "5.10" },
      { name: "bigtime", option: "-m", since: "5.10" },
      { name: "nrext64", option: "-i", since: "5.19" },
      { name: "exchange", option: "-i", since: "6.10" },
      { name: "parent", option: "-n", since: "6.10" },
    ],
    off: (name) => `${name}=0`,
    list: [],
    knows: (said, { name }) => new RegExp(String.raw`\b${name}=0\|1`).test(said),
  },
  btrfs: {
    features: [{ name: "block-group-tree", option: "-O", since: "6.1" }],
    off: (name) => `^${name}`,
    list: ["-O", "list-all"],
    knows: (said, { name }) => new RegExp(`^${name} `, "m").test(said),
    aliases: { "--features": "-O", bgt: "block-group-tree" },
  },
};

/** The arguments with which mkfs of this type lists what it knows; `undefined`: that is not needed. */
export const listingOf = (type: string): readonly string[] | undefined =>
  Object.hasOwn(TOOLS, type) ? TOOLS[type]?.list : undefined;

/** The value that a word is of an option, which is the word before it or its own beginning: `-m a=1`, `-ma=1`. */
const valueIn = (words: readonly string[], at: number, option: string): string | undefined => {
  const word = words[at] ?? "";
  if (words[at - 1] === option) return word;
  const start = option.startsWith("--") ? `${option}=` : option;
  return word.startsWith(start) ? word.slice(start.length) : undefined;
};

/** The features that the words set, on or off: `bigtime=1`, `bigtime`, `^block-group-tree`. */
const namedBy = (words: readonly string[], option: string, aliases: Readonly<Record<string, string>>): Set<string> => {
  const names = [option, ...Object.keys(aliases).filter((alias) => aliases[alias] === option)];
  const values = words.flatMap((_, at) => names.map((name) => valueIn(words, at, name) ?? ""));
  const features = values.flatMap((value) => value.split(",")).map((part) => part.replace(/^\^|=.*$/g, ""));
  return new Set(features.map((name) => aliases[name] ?? name));
};

/**
 * The arguments that leave such features out. `given`: the user's, or the driver's own; `list`: what mkfs says
 * that it knows; `kernel`: as `uname -r` has it.
 */
export const leftOut = (type: string, given: readonly string[], list: string, kernel: string): readonly string[] => {
  const tool = Object.hasOwn(TOOLS, type) ? TOOLS[type] : undefined;
  if (tool === undefined) return [];
  const { features, off, knows, aliases = {} } = tool;
  return [...new Set(features.map(({ option }) => option))].flatMap((option) => {
    const named = namedBy(given, option, aliases);
    const out = features.filter(
      (feature) =>
        feature.option === option &&
        !named.has(feature.name) &&
        knows(list, feature) &&
        (feature.since === undefined || isOlder(kernel, feature.since)),
    );
    return out.length === 0 ? [] : [option, out.map(({ name }) => off(name)).join(",")];
  });
};
