/**
 * Mounts, folders and small files of the host.
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. Nothing is removed recursively, and nothing that holds anything.
 * 2. A path that may be a mount point is never opened to look at it: its parents are resolved, the path itself is not.
 * 3. A file is replaced by rename: first its bytes are synced, then it is renamed, then its folder is synced.
 */
import {
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { release } from "node:os";
import { basename, dirname, join } from "node:path";
import { Errno } from "../cells/cell.ts";
import { refusalOfCopy } from "./btrfs.ts";
import { failure, outputOf, run } from "./child.ts";
import { afterChange } from "./errno.ts";
import { syncFolder } from "./folder.ts";
import type { MountRequest, Usage } from "./host.ts";
import { isOlderKernel } from "./kernel-version.ts";
import { type SaidSince, withKernelLog, withLog } from "./kernel-log.ts";
import { withLayerNames } from "./mountinfo.ts";

export type PathAnswer =
  | { readonly kind: "done"; readonly made: boolean }
  | { readonly kind: "in-the-way"; readonly reason: string };

const MAX_TEXT_BYTES = 64 * 1024;
const code = (error: unknown): string => String((error as { code?: unknown } | undefined)?.code);

/** The result of `read`; `undefined` if it fails with one of these codes. */
const unless = <A>(codes: readonly string[], read: () => A): A | undefined => {
  try {
    return read();
  } catch (error) {
    if (codes.includes(code(error))) return undefined;
    throw error;
  }
};

/** Only a name that stands in the table as it is. */
const layerName = (device: string): string | undefined => {
  const name = unless(["ENOENT", "ENODEV", "EINVAL"], () =>
    readFileSync(`/sys/block/${device}/dm/name`, "utf8").trim(),
  );
  return name !== undefined && /^[\w.+-]+$/.test(name) ? name : undefined;
};

/**
 * The first kernel that never leaves a mount out while others go (its commit 9f6c61f96f2d, "proc/mounts: add cursor"). Older
 * ones may at the end of each piece that is read.
 */
const WHOLE = "5.8";
const TRIES = 16;

/** A text that was the same twice. */
export const readTwice = (read: () => string): string => {
  let before = read();
  for (let n = 0; n < TRIES; n += 1) {
    const now = read();
    if (now === before) return now;
    before = now;
  }
  throw new Errno("read", 0, "it changes all the time, and this kernel may leave a mount out while others go");
};

export const mountInfo = (): string => {
  const read = () => readFileSync("/proc/self/mountinfo", "utf8");
  return withLayerNames(isOlderKernel(release(), WHOLE) ? readTwice(read) : read(), layerName);
};

export const resolvePath = (path: string): string | undefined => {
  const parent = unless(["ENOENT", "ENOTDIR"], () => realpathSync(dirname(path)));
  return parent === undefined ? undefined : join(parent, basename(path));
};

export type MountAnswer =
  | { readonly kind: "mounted" }
  /** By mount(8) or the kernel: of an option, or of the filesystem as it is. */
  | { readonly kind: "refused"; readonly reason: string };

/** mount(8) on a call that it cannot read, and on an EINVAL of the kernel. */
const INVOCATION_WRONG = 1;
const REFUSED = /wrong fs type, bad option|bad usage|unknown filesystem type/;

/** Of a bind the kernel says nothing that is asked for. */
export const mount = (request: MountRequest): MountAnswer =>
  request.type === undefined ? mountLogged(request, () => "") : withKernelLog((said) => mountLogged(request, said));

const mountLogged = ({ source, target, type, options }: MountRequest, said: SaidSince): MountAnswer => {
  const done = run(["mount", ...(type === undefined ? [] : ["-t", type]), "-o", options.join(","), source, target]);
  if (done.code === 0) return { kind: "mounted" };
  if (type === undefined || done.code < 0) throw failure("mount", done);
  const copy = type === "btrfs" ? refusalOfCopy(done.stderr) : undefined;
  if (copy !== undefined) return { kind: "refused", reason: copy };
  const reason = withLog(outputOf(done), said(logOf(source, type)));
  if (done.code !== INVOCATION_WRONG && !REFUSED.test(done.stderr)) throw new Errno("mount", 0, reason);
  return { kind: "refused", reason: `${reason}. Its options are ${options.join(",")}` };
};

/** What the kernel logs of a filesystem: `EXT4-fs (rbd0): …`, `XFS (rbd0): …`, and of an option `ext4: …`. */
const logOf = (source: string, type: string): RegExp =>
  new RegExp(String.raw`\((${basename(source)})\)|\b(${type}|${type}-fs)\b`, "i");

/** With `-c` umount does not open the path first: a broken filesystem would answer that with EIO. */
export const unmount = (point: string): void => {
  const done = run(["umount", "-c", point]);
  if (done.code !== 0 && !/not mounted|no mount point specified/.test(done.stderr)) {
    throw failure("umount", done);
  }
};

const lookAt = (path: string) => unless(["ENOENT", "ENOTDIR"], () => lstatSync(path));

export const pathKind = (path: string): "absent" | "directory" | "file" | "other" => {
  const found = lookAt(path);
  if (found === undefined) return "absent";
  if (found.isDirectory()) return "directory";
  return found.isFile() ? "file" : "other";
};

const MODE = 0o750;

export const makeDirectory = (path: string): PathAnswer => {
  mkdirSync(dirname(path), { recursive: true, mode: MODE });
  const made = unless(["EEXIST"], () => (mkdirSync(path, { mode: MODE }), true));
  if (made !== undefined) return { kind: "done", made };
  if (pathKind(path) === "directory") return { kind: "done", made: false };
  return { kind: "in-the-way", reason: "is not a directory. Remove it, or use another path" };
};

export const makeFile = (path: string): PathAnswer => {
  mkdirSync(dirname(path), { recursive: true, mode: MODE });
  const made = unless(["EEXIST"], () => (closeSync(openSync(path, "wx", 0o600)), true));
  if (made !== undefined) return { kind: "done", made };
  if (pathKind(path) === "file") return { kind: "done", made: false };
  return { kind: "in-the-way", reason: "is not a regular file. Remove it, or use another path" };
};

export const removePath = (path: string): PathAnswer => {
  const found = lookAt(path);
  if (found === undefined) return { kind: "done", made: false };
  if (found.isDirectory()) {
    if (unless(["ENOTEMPTY", "EEXIST"], () => (rmdirSync(path), true)) !== undefined)
      return { kind: "done", made: true };
    return {
      kind: "in-the-way",
      reason: "is not empty and was not removed. Look at what is in it, and remove it by hand",
    };
  }
  if (!found.isFile() || found.size > 0) {
    return {
      kind: "in-the-way",
      reason: "is neither an empty directory nor an empty file and was not removed. Look at it, and remove it by hand",
    };
  }
  unlinkSync(path);
  return { kind: "done", made: true };
};

export const usage = (point: string): Usage => {
  // statfs alone still answers for a filesystem that was shut down; lstat fails.
  lstatSync(point);
  const { bsize, blocks, bfree, bavail, files, ffree } = statfsSync(point, { bigint: true });
  const positive = (value: bigint): bigint => (value < 0n ? 0n : value);
  return {
    totalBytes: positive(blocks * bsize),
    usedBytes: positive((blocks - bfree) * bsize),
    availableBytes: positive(bavail * bsize),
    totalInodes: positive(files),
    freeInodes: positive(ffree),
  };
};

export const readText = (path: string): string | undefined => {
  const found = lookAt(path);
  if (found === undefined) return undefined;
  if (!found.isFile()) throw new Errno("read", 0, "it is not a regular file");
  if (found.size > MAX_TEXT_BYTES)
    throw new Errno("read", 0, `it has ${found.size} bytes, but at most ${MAX_TEXT_BYTES} are read`);
  return unless(["ENOENT"], () => readFileSync(path, "utf8"));
};

/** Makes a rename or removal last. */
const syncParent = (path: string): void => afterChange("fsync", () => syncFolder(dirname(path)));

export const writeText = ({ path, text }: { path: string; text: string }): void => {
  const temporary = `${path}.new`;
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, "wx", 0o600);
  try {
    writeSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  syncParent(path);
};

export const removeText = (path: string): void => {
  rmSync(`${path}.new`, { force: true });
  if (lookAt(path) === undefined) return;
  rmSync(path, { force: true });
  syncParent(path);
};
