/**
 * Which block device a path leads to.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. Nobody is asked: the kernel answers what it knows of a file that is open, also on a network filesystem whose server
 *    is away, or of FUSE whose process hangs. `stat` would wait for them.
 */
import { dlopen, FFIType as T } from "bun:ffi";

const load = () =>
  dlopen("libc.so.6", { statx: { args: [T.i32, T.cstring, T.i32, T.u32, T.ptr], returns: T.i32 } }).symbols;
/** Bound when it is first used: few cells need it. */
let libc: ReturnType<typeof load> | undefined;

/** As `linux/stat.h` and `linux/fcntl.h` have them. */
const AT_FDCWD = -100;
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_TYPE = 1;
const STATX_BYTES = 256;
const [MODE_AT, RDEV_AT] = [28, 128];
const S_IFMT = 0o170000;
const S_IFBLK = 0o060000;

/** `major:minor`; `undefined`: it is something else, or not there. Follows links. */
export const blockDeviceAt = (path: string): string | undefined => {
  libc ??= load();
  const found = new DataView(new ArrayBuffer(STATX_BYTES));
  const bytes = new Uint8Array(found.buffer);
  if (libc.statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, bytes) !== 0) return undefined;
  if ((found.getUint16(MODE_AT, true) & S_IFMT) !== S_IFBLK) return undefined;
  return `${found.getUint32(RDEV_AT, true)}:${found.getUint32(RDEV_AT + 4, true)}`;
};
