/**
 * Probes block devices, and makes, checks and grows the filesystems on them, with the tool for each.
 *
 * Loaded in host cells: no Effect. All functions block. The tools are called by their own names (fsck.ext4) and not
 * through a wrapper, so that a call that is put aside still waits for the process that does the work.
 *
 * 1. A device is "blank" only if it was opened, has a size, and could be read. blkid's exit status 2 alone is no proof.
 * 2. mkfs probes in the same call, and makes nothing if it finds anything.
 * 3. A filesystem only grows.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { release } from "node:os";
import { Errno } from "../cells/cell.ts";
import { btrfsSize, growBtrfs } from "./btrfs.ts";
import { failure, must, outputOf, run, SYSTEM_FAILED } from "./child.ts";
import { afterChange } from "./errno.ts";
import type { Content, DeviceState, FilesystemOn, MkfsRequest, Stretch } from "./host.ts";
import { leftOut, listingOf } from "./mkfs-features.ts";

export type MkfsAnswer =
  | { readonly kind: "made" }
  /** By the tool: of the device's size, or of an argument. */
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "not-blank"; readonly found: string };
export type FsckAnswer = { readonly damaged: boolean; readonly output: string };

/** `major:minor`, from stat's number, which is packed as in glibc: 12 bits of major inside 20 bits of minor. */
export const deviceNumber = (rdev: number): string =>
  `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;

const SECTOR = 512n;
/** Covers every superblock that matters here: ext4's at 1 KiB, xfs's at 0, btrfs's at 64 KiB. */
const LEAD_BYTES = 128 * 1024;

export const deviceState = (path: string): DeviceState | undefined => {
  const node = statSync(path, { throwIfNoEntry: false });
  if (node === undefined) return undefined;
  if (!node.isBlockDevice()) throw new Errno("stat", 0, "it is not a block device");
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
    if (!node.isBlockDevice()) throw new Errno("open", 0, "it is not a block device");
    if (stateOf(node.rdev).sizeBytes === 0n) throw new Errno("open", 0, "it has no bytes, as the kernel says");
    const found = run(["blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-s", "USAGE", "-o", "export", device]);
    if (found.code === 0) {
      const content = signature(found.stdout);
      return content.kind === "filesystem" && isUnfinished(fd, content.type)
        ? { ...content, unfinished: true }
        : content;
    }
    if (found.code === 8) return { kind: "other", type: "signatures that contradict each other" };
    if (found.code !== 2) throw new Errno("blkid", 0, outputOf(found));
    const lead = Buffer.alloc(LEAD_BYTES);
    const length = readSync(fd, lead, 0, LEAD_BYTES, 0);
    if (length === 0) throw new Errno("read", 0, "its first bytes cannot be read");
    return { kind: "blank", zeroed: lead.every((byte) => byte === 0) };
  } finally {
    closeSync(fd);
  }
};

/** mkfs.xfs sets `sb_inprogress` with its first writes and clears it with its last. Other tools write what blkid finds last. */
const XFS_IN_PROGRESS = 126;

const isUnfinished = (fd: number, type: string): boolean => {
  const byte = Buffer.alloc(1);
  return type === "xfs" && readSync(fd, byte, 0, 1, XFS_IN_PROGRESS) === 1 && byte[0] !== 0;
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
  btrfs: ["-K"],
};

/** What each mkfs says that it knows. */
const listings = new Map<string, string>();

const listing = (type: string): string => {
  const known = listings.get(type);
  const list = listingOf(type);
  if (known !== undefined || list === undefined) return known ?? "";
  const said = run([`mkfs.${type}`, ...list], { limit: 10_000 });
  const text = said.stdout + said.stderr;
  // One that was killed is asked again.
  if (said.code >= 0) listings.set(type, text);
  return text;
};

export const mkfs = ({ device, type, options, encryptsFiles }: MkfsRequest): MkfsAnswer => {
  const found = probe(device);
  if (found.kind !== "blank") return { kind: "not-blank", found: found.type };
  const given = options ?? DEFAULTS[type] ?? [];
  const out = leftOut(type, given, listing(type), release());
  const additions = encryptsFiles === true ? [...out, "-Oencrypt"] : out;
  const done = run([`mkfs.${type}`, ...given, ...additions, device]);
  if (done.code > 0 && !SYSTEM_FAILED.test(done.stderr)) {
    const remedy = options === undefined ? "" : `. Its arguments are those of mkfsOptions: ${options.join(" ")}`;
    return { kind: "refused", reason: `${outputOf(done)}${remedy}` };
  }
  if (done.code !== 0) throw failure(`mkfs.${type}`, done);
  return afterChange(`mkfs.${type}`, () => {
    const made = probe(device);
    if (made.kind !== "filesystem") throw new Error(`it succeeded, but blkid finds ${made.kind} on the device`);
    return { kind: "made" };
  });
};

export const fsck = ({ device, type }: FilesystemOn): FsckAnswer => {
  // xfs and btrfs replay their journal at mount, and have no check that is safe to run unasked.
  if (!type.startsWith("ext")) return { damaged: false, output: "" };
  const done = run([`fsck.${type}`, "-a", device]);
  if (done.code < 0) throw failure(`fsck.${type}`, done);
  return { damaged: (done.code & 4) !== 0, output: done.code === 0 ? "" : outputOf(done) };
};

/** The bytes of a mounted filesystem, its own overhead included, and of one of its blocks. */
const filesystemSize = (type: string, device: string, point: string): { bytes: bigint; block: bigint } => {
  if (type === "btrfs") return btrfsSize(point);
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
  if (!type.startsWith("ext") && type !== "xfs" && type !== "btrfs") {
    throw new Errno("grow", 0, `this driver grows ext4, xfs and btrfs, not ${type}`);
  }
  const available = deviceState(device)?.sizeBytes;
  if (available === undefined) throw new Errno("grow", 0, "the device does not exist");
  const now = filesystemSize(type, device, point);
  if (available <= now.bytes + now.block) return now.bytes;
  if (type === "btrfs") growBtrfs(point, available);
  else must(type === "xfs" ? ["xfs_growfs", "-d", point] : ["resize2fs", device]);
  return afterChange("grow", () => filesystemSize(type, device, point).bytes);
};

export type TrimAnswer =
  | { readonly kind: "trimmed"; readonly bytes: bigint }
  | { readonly kind: "refused"; readonly reason: string };

/** It is killed before its call would be put aside: the kernel ends a trim whose caller was killed. */
const TRIM_LIMIT = 80_000;

export const trim = ({ point, offset, length }: Stretch & { readonly point: string }): TrimAnswer => {
  const end = length === undefined ? [] : ["--length", String(length)];
  const done = run(["fstrim", "--verbose", "--offset", String(offset), ...end, point], { limit: TRIM_LIMIT });
  if (/not supported/i.test(done.stderr)) return { kind: "refused", reason: outputOf(done) };
  if (done.code !== 0) throw failure("fstrim", done);
  // "/mnt: 1.5 GiB (1610612736 bytes) trimmed"
  return { kind: "trimmed", bytes: BigInt(/\((\d+) bytes\) trimmed/.exec(done.stdout)?.[1] ?? 0) };
};

export const setReadOnly = ({ device, readOnly }: { device: string; readOnly: boolean }): void => {
  must(["blockdev", readOnly ? "--setro" : "--setrw", device]);
  const state = afterChange("blockdev", () => deviceState(device));
  if (state?.readOnly !== readOnly) {
    throw new Errno("blockdev", 0, `the device stays ${readOnly ? "writable" : "read-only"}`);
  }
};
