/**
 * Mounts, folders and small files of the host.
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. Nothing is removed recursively, and nothing that holds anything.
 * 2. A path that may be a mount point is not touched by looking at it: its parents are resolved, it is not.
 * 3. A file is replaced by rename, after its bytes and before its name are on disk.
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
import { basename, dirname, join } from "node:path";
import { Errno } from "../cells/cell.ts";
import { failure, must, run } from "./child.ts";
import type { MountRequest, Usage } from "./host.ts";

export type PathAnswer =
  | { readonly kind: "done"; readonly made: boolean }
  | { readonly kind: "in-the-way"; readonly reason: string };

const MAX_TEXT = 64 * 1024;
const code = (error: unknown): string => String((error as { code?: unknown } | undefined)?.code);

/** `undefined` for the named codes. */
const unless = <A>(codes: readonly string[], read: () => A): A | undefined => {
  try {
    return read();
  } catch (error) {
    if (codes.includes(code(error))) return undefined;
    throw error;
  }
};

export const mountInfo = (): string => readFileSync("/proc/self/mountinfo", "utf8");

export const resolvePath = (path: string): string | undefined => {
  const parent = unless(["ENOENT", "ENOTDIR"], () => realpathSync(dirname(path)));
  return parent === undefined ? undefined : join(parent, basename(path));
};

export const mount = ({ source, target, type, options }: MountRequest): void => {
  must(["mount", ...(type === undefined ? [] : ["-t", type]), "-o", options.join(","), source, target]);
};

/** `-c`: the path is not looked at first, which a broken filesystem would answer with EIO. */
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
  return { kind: "in-the-way", reason: "exists, and is no directory" };
};

export const makeFile = (path: string): PathAnswer => {
  mkdirSync(dirname(path), { recursive: true, mode: MODE });
  const made = unless(["EEXIST"], () => (closeSync(openSync(path, "wx", 0o600)), true));
  if (made !== undefined) return { kind: "done", made };
  if (pathKind(path) === "file") return { kind: "done", made: false };
  return { kind: "in-the-way", reason: "exists, and is no regular file" };
};

export const removePath = (path: string): PathAnswer => {
  const found = lookAt(path);
  if (found === undefined) return { kind: "done", made: false };
  if (found.isDirectory()) {
    if (unless(["ENOTEMPTY", "EEXIST"], () => (rmdirSync(path), true)) !== undefined)
      return { kind: "done", made: true };
    return { kind: "in-the-way", reason: "is not empty and stays; look at what is in it, and remove it by hand" };
  }
  if (!found.isFile() || found.size > 0) {
    return { kind: "in-the-way", reason: "is neither an empty directory nor an empty file, and stays" };
  }
  unlinkSync(path);
  return { kind: "done", made: true };
};

export const usage = (point: string): Usage => {
  // statfs alone still answers for a filesystem that was shut down
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
  if (!found.isFile()) throw new Errno("read", 0, "it is no regular file");
  if (found.size > MAX_TEXT) throw new Errno("read", 0, `it has ${found.size} bytes, far too many`);
  return unless(["ENOENT"], () => readFileSync(path, "utf8"));
};

/** After the change itself. */
const syncFolder = (path: string): void => {
  try {
    syncFolderOf(path);
  } catch (error) {
    const { errno } = error as { readonly errno?: unknown };
    throw new Errno("fsync", typeof errno === "number" ? Math.abs(errno) : 0, String(error), true);
  }
};

const syncFolderOf = (path: string): void => {
  const fd = openSync(dirname(path), "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};

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
  syncFolder(path);
};

export const removeText = (path: string): void => {
  rmSync(`${path}.new`, { force: true });
  if (lookAt(path) === undefined) return;
  rmSync(path, { force: true });
  syncFolder(path);
};
