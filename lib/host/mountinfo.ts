/**
 * The kernel's list of mounts, /proc/self/mountinfo, as data, and the questions that the driver asks of it.
 *
 * Not here: the read of the file (./paths.ts). All functions are pure.
 * Every decision about mounts comes from this list and never from stat, which fails on a broken filesystem and may hang
 * on a dead one.
 *
 * 1. Later lines are mounted over earlier ones: the last entry at a path is the visible one.
 * 2. A line that cannot be read is an error and is never skipped, because "not mounted" must be proven.
 * 3. A name proves nothing: whoever owns a pod may have a folder called `rbd0` mounted from it. Only on the filesystem of /dev
 *    is that a device.
 */

export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  readonly major: number;
  readonly minor: number;
  /** Path inside the mounted filesystem that is seen at the mount point; `/` for all of it. */
  readonly root: string;
  readonly point: string;
  /** Options of this mount alone: `ro`, `noatime`, … */
  readonly options: readonly string[];
  readonly fsType: string;
  readonly source: string;
  /** Options of the filesystem, the same for all its mounts: `rw`, `nouuid`, … */
  readonly superOptions: readonly string[];
  /** It is of the tmpfs that is at /dev, as on a host without devtmpfs. */
  readonly ofDev?: true;
}

export type MountTable = readonly MountEntry[];

/** Undoes the kernel's escapes: it writes space, tab, newline, backslash and `#` as three octal digits. */
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

/** Throws if a line is not one of mountinfo. */
export const parseMountInfo = (text: string): MountTable => {
  const entries = text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseLine);
  const dev = entries.findLast(({ point }) => point === "/dev");
  if (dev?.fsType !== "tmpfs") return entries;
  return entries.map((entry) =>
    entry.major === dev.major && entry.minor === dev.minor ? { ...entry, ofDev: true as const } : entry,
  );
};

const parseLine = (line: string): MountEntry => {
  const fields = line.split(" ");
  // Any number of optional fields, then a lone "-".
  const dash = fields.indexOf("-", 6);
  const [id, parent, device, root, point, options] = fields;
  const [fsType, source, superOptions] = dash < 0 ? [] : fields.slice(dash + 1);
  const [, major, minor] = /^(\d+):(\d+)$/.exec(device ?? "") ?? [];
  if (major === undefined || minor === undefined || point === undefined || fsType === undefined) {
    throw new Error(`/proc/self/mountinfo has a line of an unknown form: ${line.slice(0, 200)}`);
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

/**
 * The text of mountinfo with LUKS layers under their own names. Of a btrfs the kernel shows the name of its device that it was
 * told last, and udev tells it `/dev/dm-3`. `nameOf` gives device-mapper's name of `dm-3`.
 */
export const withLayerNames = (text: string, nameOf: (device: string) => string | undefined): string =>
  text.replace(/ - btrfs \/dev\/(dm-\d+) /g, (shown, device: string) => {
    const name = nameOf(device);
    return name === undefined ? shown : ` - btrfs /dev/mapper/${name} `;
  });

/** The mounts exactly at a path, the visible one last. The path is absolute and has no symlinks. */
export const mountsAt = (table: MountTable, path: string): MountTable => table.filter((entry) => entry.point === path);

/** A block device as the mount table names it. */
export interface BlockDevice {
  readonly path: string;
  /** Another path of its node: `/dev/dm-3` of one in /dev/mapper, which may be a symlink to it or a node itself. */
  readonly kernelPath?: string;
  readonly major: number;
  readonly minor: number;
}

const pathsOf = ({ path, kernelPath }: BlockDevice): readonly string[] =>
  kernelPath === undefined ? [path] : [path, kernelPath];

/**
 * Whether this is a mount of the filesystem on the device. A btrfs has a number of its own and not that of its device; there
 * the source is what the kernel has opened. Kernels before 5.0 may name a copy of it instead: ./btrfs.ts refuses them.
 */
export const isFilesystemOf = (entry: MountEntry, device: BlockDevice): boolean =>
  entry.fsType === "btrfs"
    ? pathsOf(device).includes(entry.source)
    : entry.major === device.major && entry.minor === device.minor;

const hasDeviceNodes = ({ fsType, ofDev }: MountEntry): boolean => fsType === "devtmpfs" || ofDev === true;

/** Whether the device's node itself is bound here. The node is on the filesystem of /dev. */
export const isNodeOf = (entry: MountEntry, device: BlockDevice): boolean =>
  hasDeviceNodes(entry) && pathsOf(device).some((path) => entry.root === path.slice("/dev".length));

export const mountsOf = (table: MountTable, device: BlockDevice): MountTable =>
  table.filter((entry) => isFilesystemOf(entry, device) || isNodeOf(entry, device));

/** Whether the mount, or the filesystem below it, takes no writes. */
export const isReadOnly = (entry: MountEntry): boolean =>
  entry.options.includes("ro") || entry.superOptions.includes("ro");

/** Whether the kernel has shut the filesystem down after errors, as far as the mount table shows it. */
export const isShutDown = (entry: MountEntry): boolean =>
  entry.superOptions.some((option) => option === "shutdown" || option === "emergency_ro");

const RBD_SOURCE = /^\/dev\/(rbd\d+|nbd\d+|mapper\/luks-rbd-.+)(p\d+)?$/;
const RBD_NODE = /^\/(rbd\d+|nbd\d+|mapper\/luks-rbd-.+|dm-\d+)(\/\/deleted)?$/;

/** Whether the mount is of an image: mapped by krbd or rbd-nbd, or through LUKS as ceph-csi names such a device. */
export const isRbdMount = (entry: MountEntry): boolean =>
  RBD_SOURCE.test(entry.source) || (hasDeviceNodes(entry) && RBD_NODE.test(entry.root));
