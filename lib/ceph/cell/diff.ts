/**
 * Lists what differs between two snapshots of an image, or what one snapshot holds. Loaded in cells only.
 *
 * Not here: the bytes themselves.
 *
 * 1. The image is opened read-only, which takes no lock and disturbs no user of the image.
 * 2. Extents are exact to the byte as far as the OSDs know, not whole objects. If one snapshot is listed, they contain what
 *    comes from parents. librbd reads the history of each object; it does not ask the object map, because the answer of
 *    the object map has been wrong in more than one release.
 * 3. The memory that a call needs depends on `limit` and on one round of objects, not on the image.
 * 4. If librbd takes the start by name only, and it has no name, everything that either snapshot holds is a difference
 *    (./diff-without-start.ts): more than necessary, never less.
 * 5. Extents ascend and do not touch, however the image is striped: librbd goes from one round of objects to the next, and
 *    within a round in the order of the objects.
 */
import { FFIType as T, JSCallback, type Pointer } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { append, byOffset } from "../ranges.ts";
import type { Extent } from "../rbd.ts";
import { type DiffAnswer, united } from "./diff-without-start.ts";
import { bind, check, cString, EINVAL, ENOENT, held, optional, plain } from "./ffi.ts";
import type { PoolArg } from "./rados.ts";
import { sizeOf, STOP, withImage } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { stat, stripeCount } from "./status.ts";

const rbd = bind("librbd.so.1", {
  rbd_snap_set: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_snap_set_by_id: { args: [T.u64, T.u64], returns: T.i32 },
  rbd_diff_iterate2: { args: [T.u64, T.ptr, T.u64, T.u64, T.u8, T.u8, T.function, T.ptr], returns: T.i32 },
});

/** Takes the id of the snapshot to start from; exists from Ceph 17.2.8, 18.2.5 and 19.2.1 on. */
const newer = optional("librbd.so.1", {
  rbd_diff_iterate3: { args: [T.u64, T.u64, T.u64, T.u64, T.u32, T.function, T.ptr], returns: T.i32 },
});

export interface DiffArg extends PoolArg {
  readonly image: string;
  readonly to: string | bigint;
  readonly from: string | bigint | undefined;
  readonly offset: bigint;
  readonly limit: number;
}

const INCLUDE_PARENT = 1;

/** Extents of one round of objects, and those of the rounds before. */
class Collected {
  readonly extents: Extent[] = [];
  private round: Extent[] = [];
  private end = 0n;

  constructor(
    private readonly roundBytes: bigint,
    private readonly limit: number,
  ) {}

  /** Gives whether the iteration goes on. */
  add(extent: Extent): boolean {
    if (extent.offset >= this.end) {
      this.close();
      if (this.extents.length > this.limit) return false;
      this.end = (extent.offset / this.roundBytes + 1n) * this.roundBytes;
    }
    this.round.push(extent);
    return true;
  }

  close(): void {
    for (const extent of this.round.toSorted(byOffset)) append(this.extents, extent);
    this.round = [];
  }
}

let collecting: Collected | undefined;
// Made once and never closed: librbd calls it on the thread that iterates, which is this one.
const collect = new JSCallback(
  (offset: bigint, length: bigint, exists: number) =>
    collecting?.add({ offset, length, exists: exists === 1 }) === true ? 0 : STOP,
  { args: [T.u64, T.u64, T.i32, T.ptr], returns: T.i32 },
);

export const diff = (io: bigint, { from, ...arg }: DiffArg): DiffAnswer => {
  if (from === undefined) return read(io, arg, undefined);
  const start = withImage(io, arg.image, "read", (handle) => {
    const found = find(handle, from, "rbd_snap_set of the start");
    if (found.id > find(handle, arg.to, "rbd_snap_set").id) throw new Errno("rbd_diff_iterate", EINVAL);
    return found;
  });
  if (start.name !== undefined || newer !== undefined) return read(io, arg, start);
  return united(arg, (snapshot, offset) => read(io, { ...arg, to: snapshot ?? arg.to, offset }, undefined), start.id);
};

const read = (io: bigint, { image, to, offset, limit }: Omit<DiffArg, "from">, start: Start | undefined): DiffAnswer =>
  withImage(io, image, "read", (handle) => {
    const set = typeof to === "bigint" ? rbd.rbd_snap_set_by_id(handle, to) : rbd.rbd_snap_set(handle, plain(to));
    check("rbd_snap_set", set);
    const sizeBytes = sizeOf(handle);
    if (offset >= sizeBytes) return { extents: [], sizeBytes };
    const found = new Collected(stat(handle).objectSize * stripeCount(handle), limit);
    iterate(handle, start, offset, sizeBytes - offset, found);
    found.close();
    return { extents: found.extents.slice(0, limit), sizeBytes };
  });

const iterate = (handle: bigint, from: Start | undefined, offset: bigint, length: bigint, found: Collected): void => {
  const callback = collect.ptr;
  if (callback === null) throw new Errno("rbd_diff_iterate", 0, "no callback for rbd_diff_iterate");
  collecting = found;
  try {
    const result =
      newer !== undefined && from !== undefined
        ? newer.rbd_diff_iterate3(handle, from.id, offset, length, INCLUDE_PARENT, callback, null)
        : byName(handle, from?.name, offset, length, callback);
    if (result !== STOP) check("rbd_diff_iterate", result);
  } finally {
    collecting = undefined;
  }
};

const byName = (
  handle: bigint,
  from: string | undefined,
  offset: bigint,
  length: bigint,
  callback: Pointer,
): number => {
  const name = from === undefined ? null : cString(from);
  const result = rbd.rbd_diff_iterate2(handle, name, offset, length, INCLUDE_PARENT, 0, callback, null);
  held(name);
  return result;
};

interface Start {
  readonly id: bigint;
  /** undefined: the snapshot has no name by which librbd opens it. */
  readonly name: string | undefined;
}

/** Proves that the snapshot exists. */
const find = (handle: bigint, snapshot: string | bigint, op: string): Start => {
  const found = listed(handle)
    .map(({ id, name }) => ({ id, name: kindOf(handle, id) === "user" ? name : undefined }))
    .find(({ id, name }) => (typeof snapshot === "bigint" ? id === snapshot : name === snapshot));
  if (found === undefined) throw new Errno(op, ENOENT);
  return found;
};
