/**
 * What of btrfs is unlike other filesystems: a node may lack it, its size, and a copy beside its source.
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. A btrfs is known to the kernel by its UUID, which a copy has, too. Kernels before 5.0 may mount the source when asked for
 *    the copy, so they mount none. Later ones refuse the second of the two, and from 6.7 on they mount both.
 * 2. A filesystem only grows.
 *
 * Source: the kernel's fs/btrfs/volumes.c, device_list_add and find_fsid_by_device ("temp-fsid"), and fs/btrfs/ioctl.c,
 * btrfs_ioctl_resize; seen on kernels 6.1 and 6.18.
 */
import { readFileSync } from "node:fs";
import { release } from "node:os";
import { Errno } from "../cells/cell.ts";
import { hasProgram, must, outputOf, run } from "./child.ts";
import { type FilesystemLack, LEAST_RESIZED_BTRFS } from "./host.ts";
import { isOlderKernel } from "./kernel-version.ts";

// ------------------------------------------------------------------------------------------------ what a node lacks

/** The first kernel that tells a btrfs and a copy of it apart by their devices. */
const OLDEST_KERNEL = "5.0";
/** The first kernel that mounts a copy beside its source. */
const BOTH_MOUNTED = "6.7";
const PROGRAMS = ["mkfs.btrfs", "btrfs"];
const MODPROBE_LIMIT = 30_000;
const OTHERS = "use ext4 or xfs";

const isKnown = (filesystems: string): boolean => /^\s*(?:nodev\s+)?btrfs$/m.test(filesystems);

/** Why the kernel has no btrfs; `undefined`: it has. */
const missing = (): string | undefined => {
  const inKernel = () => isKnown(readFileSync("/proc/filesystems", "utf8"));
  if (inKernel()) return undefined;
  let words: string;
  try {
    words = outputOf(run(["modprobe", "btrfs"], { limit: MODPROBE_LIMIT }));
  } catch (error) {
    words = error instanceof Error ? error.message : String(error);
  }
  return inKernel() ? undefined : words;
};

/** What this machine lacks for a filesystem that not each machine has; `undefined`: nothing. */
export const filesystemLack = (type: string): FilesystemLack | undefined => {
  if (type !== "btrfs") return undefined;
  const kernel = release();
  if (isOlderKernel(kernel, OLDEST_KERNEL)) {
    return {
      problem: `has kernel ${kernel}, which may mount a copy of a btrfs in place of it`,
      remedy: `Install kernel ${OLDEST_KERNEL} or later on the node, run the pod on another one, or ${OTHERS}`,
    };
  }
  const words = missing();
  if (words !== undefined) {
    return {
      problem: `has kernel ${kernel} without btrfs: /proc/filesystems does not name it, and "modprobe btrfs" failed: ${words}`,
      remedy: `Install the kernel's module btrfs on the node, run the pod on another one, or ${OTHERS}`,
    };
  }
  const absent = PROGRAMS.filter((name) => !hasProgram(name));
  if (absent.length === 0) return undefined;
  return {
    problem: `has no ${absent.join(" and no ")} where the driver runs`,
    remedy: `Install the package btrfs-progs in the driver's image, or ${OTHERS}`,
  };
};

// ------------------------------------------------------------------------------------------ a copy beside its source

/** Why the kernel did not mount a btrfs; `undefined`: nothing is known of why. `words` are those of mount(8). */
export const refusalOfCopy = (words: string): string | undefined => {
  if (!/File exists/.test(words)) return undefined;
  const kernel = release();
  const since = isOlderKernel(kernel, BOTH_MOUNTED)
    ? `, and kernel ${kernel} mounts no copy of a btrfs beside it (${BOTH_MOUNTED} and later do)`
    : "";
  return `this node has another btrfs with the same UUID${since}: the volume is a copy of one that is staged here, or that one is a copy of it. Run the pod on another node, or end the pods of the other volume. If there is no such volume here, run "btrfs device scan --forget" on the node`;
};

// ---------------------------------------------------------------------------------------------------------- its size

/** A btrfs ends at one of its sectors. */
const SECTOR = 4096n;

interface Extent {
  /** The number of the device in the filesystem. */
  readonly id: string;
  readonly bytes: bigint;
}

/** What `btrfs device usage --raw` says of the one device of a filesystem. Throws if there is not exactly one. */
export const extentIn = (text: string): Extent => {
  const ids = [...text.matchAll(/, ID: (\d+)$/gm)].map(([, id = ""]) => id);
  const numbers = (name: string) =>
    [...text.matchAll(new RegExp(`^ *${name}: +(\\d+)$`, "gm"))].map(([, digits]) => digits);
  const [id, ...others] = ids;
  const [[size], [slack]] = [numbers("Device size"), numbers("Device slack")];
  if (id === undefined || size === undefined || slack === undefined) {
    throw new Errno("btrfs", 0, "its output does not say how large the filesystem is");
  }
  if (others.length > 0) throw new Errno("btrfs", 0, `the filesystem is on ${ids.length} devices, and a volume is one`);
  // Of a device that is smaller than the filesystem the tool prints a slack below zero as a number of 64 bits.
  return { id, bytes: BigInt(size) - BigInt.asIntN(64, BigInt(slack)) };
};

const extentAt = (point: string): Extent => extentIn(must(["btrfs", "device", "usage", "--raw", point]).stdout);

/** The bytes of a mounted btrfs, and of one of its blocks. */
export const btrfsSize = (point: string): { readonly bytes: bigint; readonly block: bigint } => ({
  bytes: extentAt(point).bytes,
  block: SECTOR,
});

/** Sets a mounted btrfs to the size of its device, where the kernel does so. */
export const growBtrfs = (point: string, deviceBytes: bigint): void => {
  if (deviceBytes < LEAST_RESIZED_BTRFS) return;
  const { id, bytes } = extentAt(point);
  if (bytes < deviceBytes) must(["btrfs", "filesystem", "resize", `${id}:max`, point]);
};
