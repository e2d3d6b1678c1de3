/**
 * The kernel's own list of mounts, /proc/self/mountinfo, as data, and the questions that the driver asks of it.
 *
 * Pure: reading the file is ./paths.ts. Every decision about mounts comes from here and never from stat, which fails
 * on a broken filesystem and may hang on a dead one.
 *
 * 1. Later lines are mounted over earlier ones: the last entry at a path is the one that is seen there.
 * 2. A line that can't be read is an error, never skipped: "not mounted" has to be proven.
 */

export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  readonly major: number;
  readonly minor: number;
  /** Path inside the mounted filesystem that is seen at the mount point; `/` for all of it. */
  readonly root: string;
  readonly point: string;
  /** Of this mount alone: `ro`, `noatime`, … */
  readonly options: readonly string[];
  readonly fsType: string;
  readonly source: string;
  /** Of the filesystem, whatever the mount: `rw`, `nouuid`, … */
  readonly superOptions: readonly string[];
}

export type MountTable = readonly MountEntry[];

/** The kernel writes space, tab, newline, backslash and `#` as three octal digits. */
const unescape = (text: string): string => {
  if (!text.includes("\\")) return text;
  const bytes: number[] = [];
  const raw = Buffer.from(text, "utf8");
  for (let at = 0; at < raw.length; at++) {
    const octal = raw[at] === 0x5c ? /^[0-7]{3}/.exec(raw.subarray(at + 1, at + 4).toString("latin1")) : null;
    if (octal === null) {
      bytes.push(raw[at]!);
    } else {
      bytes.push(Number.parseInt(octal[0], 8) & 0xff);
      at += 3;
    }
  }
  return Buffer.from(bytes).toString("utf8");
};

/** Throws on a line that is no mountinfo line. */
export const parseMountInfo = (text: string): MountTable =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseLine);

const parseLine = (line: string): MountEntry => {
  const fields = line.split(" ");
  // any number of optional fields, then a lone "-"
  const dash = fields.indexOf("-", 6);
  const [id, parent, device, root, point, options] = fields;
  const [fsType, source, superOptions] = dash < 0 ? [] : fields.slice(dash + 1);
  const [, major, minor] = /^(\d+):(\d+)$/.exec(device ?? "") ?? [];
  if (major === undefined || minor === undefined || point === undefined || fsType === undefined) {
    throw new Error(`a line of /proc/self/mountinfo can't be read: ${line.slice(0, 200)}`);
  }
  return {
    id: Number(id),
    parent: Number(parent),
    major: Number(major),
    minor: Number(minor),
    root: unescape(root ?? ""),
    point: unescape(point),
    options: (options ?? "").split(","),
    fsType,
    source: unescape(source ?? ""),
    superOptions: (superOptions ?? "").split(","),
  };
};

/** What is mounted exactly at a path, the visible one last. The path is absolute and free of symlinks. */
export const mountsAt = (table: MountTable, path: string): MountTable => table.filter((entry) => entry.point === path);

/** A block device as mounts name it. */
export interface DeviceNumber {
  readonly path: string;
  readonly major: number;
  readonly minor: number;
}

/** A filesystem on the device is mounted here. */
export const isFilesystemOf = (entry: MountEntry, device: DeviceNumber): boolean =>
  entry.major === device.major && entry.minor === device.minor;

/** The device's node itself is bound here: a raw block volume. The node lives on whatever filesystem /dev is. */
export const isNodeOf = (entry: MountEntry, device: DeviceNumber): boolean =>
  !isFilesystemOf(entry, device) && entry.root === device.path.slice("/dev".length);

export const mountsOf = (table: MountTable, device: DeviceNumber): MountTable =>
  table.filter((entry) => isFilesystemOf(entry, device) || isNodeOf(entry, device));

/** Whether the mount, or the filesystem under it, takes no writes. */
export const isReadOnly = (entry: MountEntry): boolean =>
  entry.options.includes("ro") || entry.superOptions.includes("ro");

/** Whether the filesystem has given up after errors, as far as the kernel says so. */
export const isShutDown = (entry: MountEntry): boolean =>
  entry.superOptions.some((option) => option === "shutdown" || option === "emergency_ro");

const RBD_SOURCE = /^\/dev\/(rbd\d+|nbd\d+|mapper\/luks-rbd-.+)(p\d+)?$/;
const RBD_NODE = /^\/(rbd\d+|nbd\d+|mapper\/luks-rbd-.+|dm-\d+)(\/\/deleted)?$/;

/** Whether the mount is of a kind that this driver, or the one before it, makes for a volume. */
export const isVolumeMount = (entry: MountEntry): boolean => RBD_SOURCE.test(entry.source) || RBD_NODE.test(entry.root);
