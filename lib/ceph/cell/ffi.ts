/**
 * Memory between JavaScript and C. Loaded in cells only.
 *
 * Not here: any call of Ceph.
 *
 * 1. Every buffer lies over an explicit ArrayBuffer, because another small typed array may move when its `.buffer` is first
 *    touched, and C would write to the old place.
 * 2. A buffer whose address C keeps beyond one call is named once more after its last use (`held`), so that it is not
 *    collected before.
 * 3. What C returns is copied before memory of C is freed.
 * 4. A text that contains a NUL is refused, because C would read only its beginning.
 */
import { constants } from "node:os";
import { CString, dlopen, type FFIFunction, FFIType as T, ptr, toArrayBuffer } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";

export const {
  EACCES,
  EBADF,
  EBUSY,
  ECANCELED,
  EDQUOT,
  EEXIST,
  EINVAL,
  ENOENT,
  ENOEXEC,
  ENOSPC,
  EOPNOTSUPP,
  EPERM,
  ERANGE,
  ESTALE,
  ETIMEDOUT,
} = constants.errno;

type Symbols<Fns extends Record<string, FFIFunction>> = ReturnType<typeof dlopen<Fns>>["symbols"];

/**
 * Binds functions of a library, each when it is first used: a bound function costs a cell 10 KiB and a part of a
 * millisecond, and most cells use few. The first is bound at once, so that a cell does not start without the library.
 */
export const bind = <Fns extends Record<string, FFIFunction>>(library: string, functions: Fns): Symbols<Fns> => {
  const symbols = {};
  Object.entries(functions).forEach(([name, signature], i) => {
    const bound = (): unknown => {
      const value: unknown = dlopen(library, { [name]: signature }).symbols[name];
      Object.defineProperty(symbols, name, { value });
      return value;
    };
    Object.defineProperty(symbols, name, { get: bound, configurable: true });
    if (i === 0) bound();
  });
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- each name of `functions` was defined above
  return symbols as Symbols<Fns>;
};

/** Binds functions that not every release of the library has. */
export const optional = <Fns extends Record<string, FFIFunction>>(library: string, functions: Fns) => {
  try {
    return dlopen(library, functions).symbols;
  } catch {
    return undefined;
  }
};

const libc = optional("libc.so.6", { malloc_trim: { args: [T.u64], returns: T.i32 } });

/** Returns memory that C has freed to the system; each thread keeps some in an arena of its own. */
export const trim = (): void => void libc?.malloc_trim(0n);

/** Throws when C answered `-errno`. */
export const check = (op: string, result: number): number => {
  if (result < 0) throw new Errno(op, -result);
  return result;
};

/** Makes one 8-byte place to which C writes a handle, a pointer or a size. */
export const slot = (initial = 0n): BigUint64Array => {
  const place = new BigUint64Array(new ArrayBuffer(8));
  place[0] = initial;
  return place;
};

/** The number that a call writes to the place that it is given. */
export const written = (op: string, call: (place: BigUint64Array) => number): bigint => {
  const place = slot();
  check(op, call(place));
  return valueOf(place);
};

export const valueOf = (place: BigUint64Array): bigint => place[0] ?? 0n;

export const zeroed = (bytes: number): Uint8Array<ArrayBuffer> => new Uint8Array(new ArrayBuffer(bytes));

const utf8 = new TextDecoder();
const encoder = new TextEncoder();

/** A text for a C string argument. */
export const plain = (text: string): string => {
  if (text.includes("\0")) throw new Errno("a name with a NUL inside", EINVAL);
  return text;
};

/** The text's UTF-8 bytes, NUL-terminated. */
export const cString = (text: string): Uint8Array<ArrayBuffer> => {
  const bytes = zeroed(Buffer.byteLength(text) + 1);
  encoder.encodeInto(plain(text), bytes);
  return bytes;
};

/** Several texts as C takes them counted: one array of addresses, one of lengths. NULs are allowed inside. */
export interface Counted {
  readonly count: bigint;
  readonly addresses: BigUint64Array;
  readonly lengths: BigUint64Array;
  readonly bytes: Uint8Array;
}

export const counted = (texts: readonly string[]): Counted => {
  const sizes = texts.map((text) => Buffer.byteLength(text));
  const bytes = zeroed(sizes.reduce((sum, size) => sum + size, 0) + 1);
  const addresses = new BigUint64Array(new ArrayBuffer(8 * (texts.length + 1)));
  const lengths = new BigUint64Array(new ArrayBuffer(8 * (texts.length + 1)));
  const base = BigInt(ptr(bytes));
  let at = 0;
  texts.forEach((text, i) => {
    encoder.encodeInto(text, bytes.subarray(at));
    addresses[i] = base + BigInt(at);
    const size = sizes[i] ?? 0;
    lengths[i] = BigInt(size);
    at += size;
  });
  return { count: BigInt(texts.length), addresses, lengths, bytes };
};

const keep: { buffers: readonly unknown[] } = { buffers: [] };
/** Keeps its arguments alive until this call. */
export const held = (...buffers: readonly unknown[]): void => {
  keep.buffers = buffers;
};

/** Copies `length` bytes of C's memory. */
export const bytesAt = (address: bigint, length: number): Uint8Array => {
  if (address === 0n || length === 0) return new Uint8Array(0);
  return new Uint8Array(toArrayBuffer(Number(address), 0, length)).slice();
};

export const textAt = (address: bigint, length: number): string => utf8.decode(bytesAt(address, length));

/** The text up to the first NUL of a buffer that C filled. */
export const textIn = (bytes: Uint8Array): string => {
  const end = bytes.indexOf(0);
  return utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
};

/** The text up to the NUL at an address that C answered; 0 is no text. */
export const cStringAt = (address: bigint): string => (address === 0n ? "" : new CString(Number(address)));

/** Milliseconds since the epoch, of a timespec (seconds and nanoseconds, 64 bits each). */
export const millis = (time: BigInt64Array): number => Number((time[0] ?? 0n) * 1000n + (time[1] ?? 0n) / 1_000_000n);
