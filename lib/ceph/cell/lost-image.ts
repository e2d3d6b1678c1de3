/**
 * What is to be known of an image that cannot be opened because its parent is gone, read from its objects. Loaded in cells
 * only.
 *
 * Not here: images that can be opened (./status.ts, ./has-data.ts); the way into the trash (./trash-move.ts).
 *
 * 1. An object of its own that exists is never overlooked: each that the image may have is asked for.
 * 2. `undefined` says that the image is another than that, or that somebody may still have a hold on it.
 */
import { FFIType as T } from "bun:ffi";
import { parentsExist } from "./ancestry.ts";
import { Decoder } from "./decoder.ts";
import { bind, check, ENOENT, held, plain, slot, valueOf } from "./ffi.ts";
import { isWatched } from "./header-watchers.ts";
import { list } from "./omaps.ts";
import { type PoolArg, withPoolId } from "./rados.ts";
import { id as idOf } from "./rbd.ts";
import type { LostImage } from "../rbd.ts";
import { isPlain } from "./trash-move.ts";

const rados = bind("librados.so.2", {
  rados_aio_create_completion2: { args: [T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_aio_stat: { args: [T.u64, T.cstring, T.u64, T.ptr, T.ptr], returns: T.i32 },
  rados_aio_wait_for_complete: { args: [T.u64], returns: T.i32 },
  rados_aio_get_return_value: { args: [T.u64], returns: T.i32 },
  rados_aio_release: { args: [T.u64], returns: T.void },
});

const WHOLE = { prefix: "", after: "", limit: Number.MAX_SAFE_INTEGER };
/** 4 TiB with objects of the usual size. */
const MOST_OBJECTS = 2n ** 20n;
const UNDER_WAY = 256;

export const lost = (where: PoolArg, io: bigint, image: string): LostImage | undefined => {
  const id = idOf(io, image);
  if (id === undefined) return undefined;
  const header = `rbd_header.${id}`;
  const keys = list(io, header, WHOLE);
  const number = (key: string): bigint | undefined => {
    const bytes = keys?.get(key);
    return bytes && new Decoder(bytes).u64();
  };
  const [sizeBytes, order, prefix] = [number("size"), keys?.get("order")?.at(0), keys?.get("object_prefix")];
  if (keys === undefined || sizeBytes === undefined || order === undefined || prefix === undefined) return undefined;
  const hasSnapshots = [...keys.keys()].some((key) => key.startsWith("snapshot_"));
  if (!keys.has("parent") || hasSnapshots || parentsExist(where, io, id)) return undefined;
  if (!isPlain(io, id) || isWatched(io, header)) return undefined;
  const objectSize = 1n << BigInt(order);
  const stripes = number("stripe_count") || 1n;
  const setBytes = objectSize * stripes;
  const objects = ((sizeBytes + setBytes - 1n) / setBytes) * stripes;
  if (objects > MOST_OBJECTS) return undefined;
  const names = objectNames(new Decoder(prefix).text(), Number(objects));
  const dataPool = number("data_pool_id");
  const hasData =
    dataPool === undefined
      ? anyExists(io, names)
      : withPoolId(where.cluster, dataPool, where.namespace, (dataIo) => anyExists(dataIo, names));
  return { id, sizeBytes, objectSize, hasData };
};

function* objectNames(prefix: string, count: number): Generator<string> {
  for (let i = 0; i < count; i++) yield `${prefix}.${i.toString(16).padStart(16, "0")}`;
}

/** Ends at the first that exists, with the requests that are under way by then. */
const anyExists = (io: bigint, names: Iterable<string>): boolean => {
  // the answers are not looked at, only whether there is one
  const [size, time] = [slot(), slot()];
  const waiting: bigint[] = [];
  let found = false;
  let failed: unknown;
  const finish = (): void => {
    const completion = waiting.shift();
    if (completion === undefined) return;
    rados.rados_aio_wait_for_complete(completion);
    const result = rados.rados_aio_get_return_value(completion);
    rados.rados_aio_release(completion);
    try {
      if (result !== -ENOENT) check("rados_stat", result);
      found ||= result >= 0;
    } catch (error) {
      failed ??= error;
    }
  };
  try {
    for (const name of names) {
      if (found || failed !== undefined) break;
      if (waiting.length >= UNDER_WAY) finish();
      waiting.push(asked(io, name, size, time));
    }
  } catch (error) {
    failed ??= error;
  }
  while (waiting.length > 0) finish();
  held(size, time);
  if (failed !== undefined && !found) throw failed;
  return found;
};

const asked = (io: bigint, name: string, size: BigUint64Array, time: BigUint64Array): bigint => {
  const place = slot();
  check("rados_aio_create_completion", rados.rados_aio_create_completion2(null, null, place));
  const completion = valueOf(place);
  const result = rados.rados_aio_stat(io, plain(name), completion, size, time);
  if (result < 0) rados.rados_aio_release(completion);
  check("rados_aio_stat", result);
  return completion;
};
