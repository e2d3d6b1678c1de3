/**
 * What is on a block device: probing, making, checking and growing filesystems, by the tools for each.
 *
 * Loaded in host cells: no Effect. All functions block. Tools run as fsck.ext4 rather than through a wrapper, so
 * that a call which is put aside still waits for the process that does the work.
 *
 * 1. "Blank" is said of a device that was opened, has a size, and could be read; blkid's exit 2 alone says nothing.
 * 2. mkfs probes in the same call, and makes nothing where anything was found.
 * 3. A filesystem only ever grows.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { Errno, midway } from "../cells/cell.ts";
import { failure, must, run, said } from "./child.ts";
import type { Content, DeviceState, FilesystemOn, MkfsRequest } from "./host.ts";

export type MkfsAnswer = { readonly kind: "made" } | { readonly kind: "not-blank"; readonly found: string };
export type FsckAnswer = { readonly damaged: boolean; readonly said: string };

/** `major:minor`, which stat packs as glibc does: 12 bits of major inside 20 bits of minor. */
export const deviceNumber = (rdev: number): string =>
  `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;

const SECTOR = 512n;
/** Covers every superblock that matters here: ext4's at 1 KiB, xfs's at 0, btrfs's at 64 KiB. */
const LEAD = 128 * 1024;

export const deviceState = (path: string): DeviceState | undefined => {
  const node = statSync(path, { throwIfNoEntry: false });
  if (node === undefined) return undefined;
  if (!node.isBlockDevice()) throw new Errno("stat", 0, "it is no block device");
  return stateOf(node.rdev);
};

const stateOf = (rdev: number): DeviceState => {
  const at = `/sys/dev/block/${deviceNumber(rdev)}`;
  const read = (name: string): string => readFileSync(`${at}/${name}`, "utf8").trim();
  return { sizeBytes: BigInt(read("size")) * SECTOR, readOnly: read("ro") === "1" };
};

export const probe = (device: string): Content => {
  const fd = openSync(device, "r");
  try {
    const node = fstatSync(fd);
    if (!node.isBlockDevice()) throw new Errno("open", 0, "it is no block device");
    if (stateOf(node.rdev).sizeBytes === 0n) throw new Errno("open", 0, "the kernel says that it has no bytes");
    const found = run(["blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-s", "USAGE", "-o", "export", device]);
    if (found.code === 0) return signature(found.stdout);
    if (found.code === 8) return { kind: "other", type: "signatures that contradict each other" };
    if (found.code !== 2) throw new Errno("blkid", 0, said(found));
    const lead = Buffer.alloc(LEAD);
    const length = readSync(fd, lead, 0, LEAD, 0);
    if (length === 0) throw new Errno("read", 0, "it can't be read");
    return { kind: "blank", zeroed: lead.every((byte) => byte === 0) };
  } finally {
    closeSync(fd);
  }
};

const signature = (text: string): Content => {
  const value = (name: string): string | undefined => new RegExp(`^${name}=(.*)$`, "m").exec(text)?.[1];
  const table = value("PTTYPE");
  if (table !== undefined) return { kind: "partitions", type: table };
  const type = value("TYPE") ?? "an unnamed signature";
  return value("USAGE") === "filesystem" ? { kind: "filesystem", type } : { kind: "other", type };
};

const DEFAULTS: Readonly<Record<string, readonly string[]>> = {
  ext4: ["-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"],
  xfs: ["-K"],
};

/** Kernels that read volumes of ours may be older than the mkfs.xfs that makes them. */
let reflinkOff: readonly string[] | undefined;
const xfsAdditions = (): readonly string[] => {
  if (reflinkOff === undefined) {
    const usage = run(["mkfs.xfs"], 10_000);
    reflinkOff = /reflink=0\|1/.test(usage.stdout + usage.stderr) ? ["-m", "reflink=0"] : [];
  }
  return reflinkOff;
};

export const mkfs = ({ device, type, options }: MkfsRequest): MkfsAnswer => {
  const found = probe(device);
  if (found.kind !== "blank") return { kind: "not-blank", found: found.type };
  const additions = type === "xfs" ? xfsAdditions() : [];
  must([`mkfs.${type}`, ...(options ?? DEFAULTS[type] ?? []), ...additions, device]);
  const made = midway(() => probe(device));
  if (made.kind !== "filesystem") throw new Errno(`mkfs.${type}`, 0, `it succeeded, but the device holds ${made.kind}`);
  return { kind: "made" };
};

export const fsck = ({ device, type }: FilesystemOn): FsckAnswer => {
  // xfs and btrfs replay their journal on mount, and have nothing that is safe to run unasked
  if (!type.startsWith("ext")) return { damaged: false, said: "" };
  const done = run([`fsck.${type}`, "-a", device]);
  if (done.code < 0) throw failure(`fsck.${type}`, done);
  return { damaged: (done.code & 4) !== 0, said: done.code === 0 ? "" : said(done) };
};

/** Bytes of a mounted filesystem, its own overhead included, and of one of its blocks. */
const filesystemSize = (type: string, device: string, point: string): { bytes: bigint; block: bigint } => {
  const [program, text, blockName, countName] = type.startsWith("ext")
    ? ["dumpe2fs", must(["dumpe2fs", "-h", device]).stdout, "Block size:", "Block count:"]
    : ["xfs_io", must(["xfs_io", "-c", "statfs", point]).stdout, "geom.bsize =", "geom.datablocks ="];
  const value = (name: string): bigint => {
    const digits = new RegExp(`^${name.replace(".", "\\.")}\\s*(\\d+)`, "m").exec(text)?.[1];
    if (digits === undefined) throw new Errno(program, 0, `its output has no "${name}"`);
    return BigInt(digits);
  };
  const block = value(blockName);
  return { bytes: block * value(countName), block };
};

export const growFilesystem = ({ device, type, point }: FilesystemOn & { point: string }): bigint => {
  if (!type.startsWith("ext") && type !== "xfs") {
    throw new Errno("grow", 0, `a ${type} filesystem can't be grown by this driver, only ext4 and xfs`);
  }
  const available = deviceState(device)?.sizeBytes;
  if (available === undefined) throw new Errno("grow", 0, "the device is gone");
  const now = filesystemSize(type, device, point);
  if (available <= now.bytes + now.block) return now.bytes;
  must(type === "xfs" ? ["xfs_growfs", "-d", point] : ["resize2fs", device]);
  return midway(() => filesystemSize(type, device, point).bytes);
};

export const setReadOnly = ({ device, readOnly }: { device: string; readOnly: boolean }): void => {
  must(["blockdev", readOnly ? "--setro" : "--setrw", device]);
  if (deviceState(device)?.readOnly !== readOnly) {
    throw new Errno("blockdev", 0, `the device stays ${readOnly ? "writable" : "read-only"}`);
  }
};
