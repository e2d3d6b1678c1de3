/**
 * The calls of librbd on the snapshots of an image. Loaded in cells only.
 *
 * Not here: those of images in the trash (./trashed-snapshots.ts), clones of them (./clones.ts), their differences (./diff.ts), snapshots of groups (./groups.ts); without librbd the
 * first one of a plain image (./first-snapshot.ts) and the removal of one that has clones (./snapshot-trash.ts).
 *
 * 1. `create` asks clients that have mapped the image to be quiet first, as `rbd_default_snapshot_quiesce_mode` says. Only
 *    `rbd-nbd map --quiesce` does so; the kernel answers at once that it does not. A client that has just crashed delays
 *    the snapshot until the cluster drops it, half a minute at most. Without the question the delay would be five seconds,
 *    and a file system that its user wants frozen would not be. `unasked` leaves the question out, for images that nobody
 *    maps, and then librbd, too, where it can.
 * 2. `list` makes no operation for each snapshot: librbd reads all of them with the header.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import type { Snapshot } from "../rbd.ts";
import { encode } from "./encoder.ts";
import { bind, check, cStringAt, ENOENT, ERANGE, millis, plain, textIn, zeroed } from "./ffi.ts";
import { takeFirst } from "./first-snapshot.ts";
import { childrenIn } from "./header-snapshots.ts";
import { tellClients } from "./header-watchers.ts";
import { execute, type PoolArg } from "./rados.ts";
import { existing, id as idOf, noProgress, withImage } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_snap_create: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_snap_create2: { args: [T.u64, T.cstring, T.u32, T.ptr, T.ptr], returns: T.i32 },
  rbd_snap_remove: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_snap_list: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_snap_list_end: { args: [T.ptr], returns: T.void },
  rbd_snap_get_namespace_type: { args: [T.u64, T.u64, T.ptr], returns: T.i32 },
  rbd_snap_get_trash_namespace: { args: [T.u64, T.u64, T.ptr, T.u64], returns: T.i32 },
  rbd_snap_get_timestamp: { args: [T.u64, T.u64, T.ptr], returns: T.i32 },
});

export interface SnapshotArg extends PoolArg {
  readonly image: string;
  readonly snapshot: string;
}

const SKIP_QUIESCE = 1;

export const create = (
  where: PoolArg,
  io: bigint,
  image: string,
  snapshot: string,
  clients: "asked" | "unasked" = "asked",
): void => {
  if (clients === "unasked" && takeFirst(where, io, image, snapshot)) return;
  createByLibrbd(io, image, snapshot, clients);
};

export const createByLibrbd = (io: bigint, image: string, snapshot: string, clients: "asked" | "unasked"): void =>
  withImage(io, image, "write", (handle) => {
    const result =
      clients === "asked"
        ? rbd.rbd_snap_create(handle, plain(snapshot))
        : rbd.rbd_snap_create2(handle, plain(snapshot), SKIP_QUIESCE, noProgress, null);
    check("rbd_snap_create", result);
  });

/** One that has clones stays for them, in the trash of snapshots, and goes with the last one. */
export const remove = (io: bigint, image: string, snapshot: string): void =>
  withImage(io, image, "write", (handle) => {
    const result = rbd.rbd_snap_remove(handle, plain(snapshot));
    if (result !== -ENOENT) check("rbd_snap_remove", result);
    // whoever removed it may have died before it told the clients
    else tellClients(io, `rbd_header.${existing(idOf(io, image))}`);
  });

export const list = (io: bigint, image: string): readonly Snapshot[] =>
  withImage(io, image, "read", (handle) =>
    listed(handle)
      .map((snapshot) => describe(handle, snapshot))
      .filter((snapshot) => snapshot !== undefined),
  );

/**
 * As the header of the image has them. `rbd_list_children` asks every pool of the cluster besides for clones of format 1,
 * which no driver makes, and one pool that is down would hold it up.
 */
export const children = (io: bigint, image: string, snapshot: string): readonly string[] => {
  const id = existing(idOf(io, image));
  const found = withImage(io, image, "read", listed).find(({ name }) => name === snapshot);
  if (found === undefined) throw new Errno("rbd_snap_set", ENOENT);
  const answer = execute(io, `rbd_header.${id}`, "children_list", encode({ u64: found.id }), MOST_CHILDREN_BYTES);
  return answer === undefined ? [] : childrenIn(answer).map(({ imageId }) => imageId);
};

/** Room for tens of thousands of children. */
const MOST_CHILDREN_BYTES = 1 << 20;

interface Listed {
  readonly id: bigint;
  readonly name: string;
  readonly sizeBytes: bigint;
}

// rbd_snap_info_t: id, size, address of the name; a last one without a name ends the list.
const WORDS = 3;

/** Oldest first: ids only grow. */
export const listed = (handle: bigint): readonly Listed[] => {
  for (let room = 64; ; ) {
    const infos = new BigUint64Array(new ArrayBuffer(room * WORDS * 8));
    const count = new Int32Array(new ArrayBuffer(4));
    count[0] = room;
    const result = rbd.rbd_snap_list(handle, infos, count);
    if (result === -ERANGE) {
      // another client may make more before the next try
      room = (count[0] ?? 0) + 64;
      continue;
    }
    check("rbd_snap_list", result);
    const found = Array.from({ length: result }, (_, i) => ({
      id: infos[i * WORDS] ?? 0n,
      sizeBytes: infos[i * WORDS + 1] ?? 0n,
      name: cStringAt(infos[i * WORDS + 2] ?? 0n),
    }));
    if (result > 0) rbd.rbd_snap_list_end(infos);
    return found.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }
};

const KINDS = ["user", "group", "trash"] as const;
const LONGEST_NAME = 4096;

/** undefined: the snapshot was removed meanwhile. */
const describe = (handle: bigint, { id, name, sizeBytes }: Listed): Snapshot | undefined => {
  const kind = kindOf(handle, id);
  const created = new BigInt64Array(new ArrayBuffer(16));
  const result = rbd.rbd_snap_get_timestamp(handle, id, created);
  if (kind === undefined || result === -ENOENT) return undefined;
  check("rbd_snap_get_timestamp", result);
  const originalName = kind === "trash" ? nameBefore(handle, id) : undefined;
  return { id, name, sizeBytes, createdAt: millis(created), kind, originalName };
};

export const kindOf = (handle: bigint, id: bigint): Snapshot["kind"] | undefined => {
  const kind = new Int32Array(new ArrayBuffer(4));
  const result = rbd.rbd_snap_get_namespace_type(handle, id, kind);
  if (result === -ENOENT) return undefined;
  check("rbd_snap_get_namespace_type", result);
  return KINDS[kind[0] ?? -1] ?? "other";
};

const nameBefore = (handle: bigint, id: bigint): string | undefined => {
  const name = zeroed(LONGEST_NAME);
  const result = rbd.rbd_snap_get_trash_namespace(handle, id, name, BigInt(name.length));
  if (result === -ENOENT) return undefined;
  check("rbd_snap_get_trash_namespace", result);
  return textIn(name);
};
