/**
 * Reads and writes of omaps: a few keys, pages, many objects at once. Loaded in cells only.
 *
 * Not here: objects as such, and pools (./rados.ts).
 *
 * 1. `readMany` has a bounded number of reads under way. This thread starts and awaits them: librados calls no JavaScript.
 * 2. The memory to which C writes answers stays in place until every read has ended, also if one of them failed.
 */
import { FFIType as T, type Pointer, ptr } from "bun:ffi";
import type { OmapLink, OmapWrite } from "../rados.ts";
import { bind, bytesAt, check, counted, ENOENT, held, plain, slot, textAt, valueOf, zeroed } from "./ffi.ts";

const rados = bind("librados.so.2", {
  rados_create_read_op: { args: [], returns: T.u64 },
  rados_release_read_op: { args: [T.u64], returns: T.void },
  rados_read_op_omap_get_vals2: {
    args: [T.u64, T.cstring, T.cstring, T.u64, T.ptr, T.ptr, T.ptr],
    returns: T.void,
  },
  rados_read_op_omap_get_vals_by_keys2: { args: [T.u64, T.ptr, T.u64, T.ptr, T.ptr, T.ptr], returns: T.void },
  rados_read_op_operate: { args: [T.u64, T.u64, T.cstring, T.i32], returns: T.i32 },
  rados_aio_create_completion2: { args: [T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_aio_read_op_operate: { args: [T.u64, T.u64, T.u64, T.cstring, T.i32], returns: T.i32 },
  rados_aio_wait_for_complete: { args: [T.u64], returns: T.i32 },
  rados_aio_get_return_value: { args: [T.u64], returns: T.i32 },
  rados_aio_release: { args: [T.u64], returns: T.void },
  rados_omap_get_next2: { args: [T.u64, T.ptr, T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_omap_get_end: { args: [T.u64], returns: T.void },
  rados_create_write_op: { args: [], returns: T.u64 },
  rados_release_write_op: { args: [T.u64], returns: T.void },
  rados_write_op_create: { args: [T.u64, T.i32, T.ptr], returns: T.void },
  rados_write_op_assert_exists: { args: [T.u64], returns: T.void },
  rados_write_op_omap_cmp2: { args: [T.u64, T.ptr, T.u8, T.ptr, T.u64, T.u64, T.ptr], returns: T.void },
  rados_write_op_omap_set2: { args: [T.u64, T.ptr, T.ptr, T.ptr, T.ptr, T.u64], returns: T.void },
  rados_write_op_omap_rm_keys2: { args: [T.u64, T.ptr, T.ptr, T.u64], returns: T.void },
  rados_write_op_operate: { args: [T.u64, T.u64, T.cstring, T.ptr, T.i32], returns: T.i32 },
});

export interface Page {
  readonly prefix: string;
  readonly after: string;
  readonly limit: number;
}

/** Lists a page; undefined: no such object. Asks again if an OSD answers less than requested, until there is no more. */
export const list = (io: bigint, object: string, page: Page): Map<string, Uint8Array> | undefined => {
  const found = new Map<string, Uint8Array>();
  for (let after = page.after; ; ) {
    const part = listOnce(io, object, { ...page, after, limit: Math.max(1, page.limit - found.size) });
    if (part === undefined) return undefined;
    for (const [key, value] of part.found) {
      if (found.size < page.limit) found.set(key, value);
      after = key;
    }
    if (!part.more || part.found.size === 0 || found.size >= page.limit) return found;
  }
};

/** Lists a page of an omap that is split over objects; undefined: none of them exists. */
export const listAll = (io: bigint, objects: readonly string[], page: Page): Map<string, Uint8Array> | undefined => {
  const found = objects.map((object) => list(io, object, page)).filter((part) => part !== undefined);
  if (found.length < 2) return found[0];
  // a key that is in several is that of the first of them
  const all = new Map(found.toReversed().flatMap((part) => [...part]));
  const entries = [...all].map((entry) => ({ entry, bytes: Buffer.from(entry[0]) }));
  const inOrder = entries.toSorted((a, b) => Buffer.compare(a.bytes, b.bytes));
  return new Map(inOrder.slice(0, page.limit).map(({ entry }) => entry));
};

interface Part {
  readonly found: Map<string, Uint8Array>;
  readonly more: boolean;
}

const listOnce = (io: bigint, object: string, { prefix, after, limit }: Page): Part | undefined => {
  const more = zeroed(1);
  const found = readOnce(io, object, (op, iterator, status) => {
    rados.rados_read_op_omap_get_vals2(op, plain(after), plain(prefix), BigInt(limit), iterator, more, status);
  });
  held(more);
  return found && { found, more: more[0] !== 0 };
};

/** Reads some keys of an object; undefined: no such object. */
export const omapGet = (io: bigint, object: string, keys: readonly string[]): Map<string, string> | undefined => {
  const wanted = counted(keys);
  const found = readOnce(io, object, (op, iterator, status) => {
    rados.rados_read_op_omap_get_vals_by_keys2(op, wanted.addresses, wanted.count, wanted.lengths, iterator, status);
  });
  held(wanted);
  return texts(found);
};

export const exists = (io: bigint, object: string): boolean => omapGet(io, object, []) !== undefined;

/** Reads a key, which is in one of the objects, then the object that the value names. */
export const omapFollow = (
  io: bigint,
  objects: readonly string[],
  key: string,
  { prefix, tail, keys }: OmapLink,
): { readonly object: string; readonly value: string; readonly found: Map<string, string> | undefined } | undefined => {
  for (const [i, values] of readEach(io, objects, [key]).entries()) {
    const [object, value] = [objects[i], values?.get(key)];
    if (object === undefined || value === undefined) continue;
    const next = prefix + value.slice(-tail);
    // no object has such a name; the caller reports what is wrong with the value
    return { object, value, found: next.includes("\0") ? undefined : omapGet(io, next, keys) };
  }
  return undefined;
};

/** One object is read without the reads of many. */
const readEach = (io: bigint, objects: readonly string[], keys: readonly string[]) =>
  objects.length === 1
    ? objects.map((object) => omapGet(io, object, keys))
    : readMany(
        io,
        objects.map((object) => ({ object, keys })),
      ).map(texts);

/** Makes one operation on the OSD that answers entries; undefined: no such object. */
const readOnce = (
  io: bigint,
  object: string,
  prepare: (op: bigint, iterator: BigUint64Array, status: BigUint64Array) => void,
): Map<string, Uint8Array> | undefined => {
  const op = rados.rados_create_read_op();
  const [iterator, status] = [slot(), slot()];
  try {
    prepare(op, iterator, status);
    const result = rados.rados_read_op_operate(op, io, plain(object), 0);
    held(iterator, status);
    if (result === -ENOENT) return undefined;
    check("rados_read_op_operate", result);
    return new Map(entries(valueOf(iterator)));
  } finally {
    if (valueOf(iterator) !== 0n) rados.rados_omap_get_end(valueOf(iterator));
    rados.rados_release_read_op(op);
  }
};

type Entry = readonly [string, Uint8Array];

function* entries(iterator: bigint): Generator<Entry> {
  const [key, value, keyLength, valueLength] = [slot(), slot(), slot(), slot()];
  for (;;) {
    check("rados_omap_get_next2", rados.rados_omap_get_next2(iterator, key, value, keyLength, valueLength));
    if (valueOf(key) === 0n) return;
    yield [textAt(valueOf(key), Number(valueOf(keyLength))), bytesAt(valueOf(value), Number(valueOf(valueLength)))];
  }
}

export interface Wanted {
  readonly object: string;
  readonly keys: readonly string[];
}

/** Enough to hide the latency of the OSDs, and fewer than the 1024 operations at which librados throttles. */
const UNDER_WAY = 256;

/** Reads keys of many objects. The answers are in the order of `wanted`; undefined: no such object. */
export const readMany = (io: bigint, wanted: readonly Wanted[]): (Map<string, Uint8Array> | undefined)[] => {
  // two words for each read: its iterator and its status
  const places = new BigUint64Array(new ArrayBuffer(16 * (wanted.length + 1)));
  const base = ptr(places);
  const reads: Read[] = [];
  const answers: (Map<string, Uint8Array> | undefined)[] = [];
  let failed: unknown;
  const finish = (): void => {
    const i = answers.length;
    const read = reads[i];
    if (read === undefined) return;
    try {
      answers.push(finished(read, () => places[2 * i] ?? 0n));
    } catch (error) {
      failed ??= error;
      answers.push(undefined);
    }
  };
  try {
    for (const [i, { object, keys }] of wanted.entries()) {
      if (failed !== undefined) break;
      if (i - answers.length >= UNDER_WAY) finish();
      reads.push(started(io, object, keys, (base + 16 * i) as Pointer));
    }
  } catch (error) {
    failed ??= error;
  }
  while (answers.length < reads.length) finish();
  held(places);
  if (failed !== undefined) throw failed;
  return answers;
};

interface Read {
  readonly op: bigint;
  readonly completion: bigint;
}

const started = (io: bigint, object: string, keys: readonly string[], place: Pointer): Read => {
  const name = plain(object);
  const wanted = counted(keys);
  const completionPlace = slot();
  check("rados_aio_create_completion", rados.rados_aio_create_completion2(null, null, completionPlace));
  const completion = valueOf(completionPlace);
  const op = rados.rados_create_read_op();
  const status = (place + 8) as Pointer;
  rados.rados_read_op_omap_get_vals_by_keys2(op, wanted.addresses, wanted.count, wanted.lengths, place, status);
  held(wanted);
  const result = rados.rados_aio_read_op_operate(op, io, completion, name, 0);
  if (result < 0) {
    rados.rados_release_read_op(op);
    rados.rados_aio_release(completion);
  }
  check("rados_aio_read_op_operate", result);
  return { op, completion };
};

const finished = ({ op, completion }: Read, iterator: () => bigint): Map<string, Uint8Array> | undefined => {
  rados.rados_aio_wait_for_complete(completion);
  const result = rados.rados_aio_get_return_value(completion);
  try {
    if (result === -ENOENT) return undefined;
    check("rados_read_op_operate", result);
    return new Map(entries(iterator()));
  } finally {
    if (iterator() !== 0n) rados.rados_omap_get_end(iterator());
    rados.rados_aio_release(completion);
    rados.rados_release_read_op(op);
  }
};

const utf8 = new TextDecoder();

export const texts = (entries: ReadonlyMap<string, Uint8Array> | undefined): Map<string, string> | undefined =>
  entries && new Map([...entries].map(([key, value]) => [key, utf8.decode(value)]));

const CMP_EQ = 1;
/** `LIBRADOS_OPERATION_FULL_FORCE`. */
export const FULL_FORCE = 128;

/** Adds to an operation that these values must be there, else ECANCELED; "" stands for an absent key, too. */
export const requireValues = (op: bigint, values: Readonly<Record<string, string | Uint8Array>>): void => {
  for (const [key, value] of Object.entries(values)) {
    const k = counted([key]);
    const bytes = typeof value === "string" ? Buffer.from(value) : value;
    // not empty: C must not get NULL
    const place = zeroed(bytes.length + 1);
    place.set(bytes);
    rados.rados_write_op_omap_cmp2(op, k.bytes, CMP_EQ, place, valueOf(k.lengths), BigInt(bytes.length), null);
    held(k, place);
  }
};

/** Makes one atomic operation on the OSD. Its parts take effect in this order, all or none. */
export const omapWrite = (io: bigint, object: string, write: OmapWrite): void => {
  const op = rados.rados_create_write_op();
  const { compare = {}, set = {}, remove = [] } = write;
  try {
    if (write.object === "require") rados.rados_write_op_assert_exists(op);
    else rados.rados_write_op_create(op, write.object === "exclusive" ? 1 : 0, null);
    requireValues(op, compare);
    if (Object.keys(set).length > 0) {
      const keys = counted(Object.keys(set));
      const values = counted(Object.values(set));
      const { addresses, lengths, count } = keys;
      rados.rados_write_op_omap_set2(op, addresses, values.addresses, lengths, values.lengths, count);
      held(keys, values);
    }
    if (remove.length > 0) {
      const keys = counted(remove);
      rados.rados_write_op_omap_rm_keys2(op, keys.addresses, keys.lengths, keys.count);
      held(keys);
    }
    const flags = write.evenIfFull === true ? FULL_FORCE : 0;
    check("rados_write_op_operate", rados.rados_write_op_operate(op, io, plain(object), null, flags));
  } finally {
    rados.rados_release_write_op(op);
  }
};
