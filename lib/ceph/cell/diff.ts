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
 * 6. A call that nobody waits for any more ends at the next extent, and at the end of a piece of the image: librbd tells of
 *    nothing else, and cannot be told to end. Of a clone it lists all that comes from parents before the first extent, and
 *    would for each piece anew, so the image is one piece then.
 */
import { FFIType as T, JSCallback, type Pointer } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { append, byOffset } from "../ranges.ts";
import type { Extent } from "../rbd.ts";
import { type DiffAnswer, united } from "./diff-without-start.ts";
import { bind, check, cString, ECANCELED, EINVAL, ENOENT, held, optional, plain, slot, valueOf } from "./ffi.ts";
import type { PoolArg } from "./rados.ts";
import { sizeOf, STOP, withImage } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { stat, stripeCount } from "./status.ts";

const rbd = bind("librbd.so.1", {
  rbd_snap_set: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_get_overlap: { args: [T.u64, T.ptr], returns: T.i32 },
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
  /** One number: not 0 once nobody waits for the answer any more. */
  readonly left: SharedArrayBuffer;
}

const INCLUDE_PARENT = 1;
/** Objects of one piece of an image: 0.2 s with one OSD. What the 64 pieces of a TiB cost besides was too little to measure. */
const OBJECTS_AT_ONCE = 4096n;

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

const hasLeft = (left: SharedArrayBuffer): boolean => Atomics.load(new Int32Array(left), 0) !== 0;

const proveWaitedFor = (left: SharedArrayBuffer): void => {
  if (hasLeft(left)) throw new Errno("rbd_diff_iterate", ECANCELED, "nobody waits for the difference any more");
};

interface Collecting {
  readonly found: Collected;
  readonly left: SharedArrayBuffer;
}

let collecting: Collecting | undefined;
// Made once and never closed: librbd calls it on the thread that iterates, which is this one.
const collect = new JSCallback(
  (offset: bigint, length: bigint, exists: number) =>
    collecting !== undefined &&
    !hasLeft(collecting.left) &&
    collecting.found.add({ offset, length, exists: exists === 1 })
      ? 0
      : STOP,
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

const read = (
  io: bigint,
  { image, to, offset, limit, left }: Omit<DiffArg, "from">,
  start: Start | undefined,
): DiffAnswer =>
  withImage(io, image, "read", (handle) => {
    const set = typeof to === "bigint" ? rbd.rbd_snap_set_by_id(handle, to) : rbd.rbd_snap_set(handle, plain(to));
    check("rbd_snap_set", set);
    const sizeBytes = sizeOf(handle);
    if (offset >= sizeBytes) return { extents: [], sizeBytes };
    const stripes = stripeCount(handle);
    const round = stat(handle).objectSize * stripes;
    const found = new Collected(round, limit);
    const isWhole = start === undefined && hasParent(handle);
    const piece = isWhole ? sizeBytes : round * (stripes < OBJECTS_AT_ONCE ? OBJECTS_AT_ONCE / stripes : 1n);
    for (let at = offset, goesOn = true; goesOn && at < sizeBytes; ) {
      proveWaitedFor(left);
      const next = (at / piece + 1n) * piece;
      const end = next < sizeBytes ? next : sizeBytes;
      goesOn = iterate(handle, start, at, end - at, { found, left });
      at = end;
    }
    proveWaitedFor(left);
    found.close();
    return { extents: found.extents.slice(0, limit), sizeBytes };
  });

/** Whether the snapshot that is set has data from a parent. */
const hasParent = (handle: bigint): boolean => {
  const overlap = slot();
  const result = rbd.rbd_get_overlap(handle, overlap);
  if (result === -ENOENT) return false;
  check("rbd_get_overlap", result);
  return valueOf(overlap) > 0n;
};

/** Gives whether the extents may go on behind it. */
const iterate = (
  handle: bigint,
  from: Start | undefined,
  offset: bigint,
  length: bigint,
  what: Collecting,
): boolean => {
  const callback = collect.ptr;
  if (callback === null) throw new Errno("rbd_diff_iterate", 0, "no callback for rbd_diff_iterate");
  collecting = what;
  try {
    const result =
      newer !== undefined && from !== undefined
        ? newer.rbd_diff_iterate3(handle, from.id, offset, length, INCLUDE_PARENT, callback, null)
        : byName(handle, from?.name, offset, length, callback);
    if (result === STOP) return false;
    check("rbd_diff_iterate", result);
    return true;
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
