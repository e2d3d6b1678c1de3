/**
 * The calls of librbd around the trash. Loaded in cells only.
 *
 * Not here: images that have a name (./rbd.ts), tasks of the manager (./tasks.ts), what an errno means
 * (lib/ceph/live/errno.ts).
 *
 * 1. Only an image that was moved to the trash before is removed.
 * 2. `remove` does not force: an entry that is protected until a later time stays.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import type { TrashEntry } from "../rbd.ts";
import { bind, check, cStringAt, ENOENT, ERANGE, plain, slot, valueOf, zeroed } from "./ffi.ts";
import { isThere } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_trash_move: { args: [T.u64, T.cstring, T.u64], returns: T.i32 },
  rbd_trash_get: { args: [T.u64, T.cstring, T.ptr], returns: T.i32 },
  rbd_trash_get_cleanup: { args: [T.ptr], returns: T.void },
  rbd_trash_list: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_trash_list_cleanup: { args: [T.ptr, T.u64], returns: T.void },
  rbd_trash_remove: { args: [T.u64, T.cstring, T.u8], returns: T.i32 },
});

const SOURCES = ["user", "mirroring", "migration"] as const;

// rbd_trash_image_info_t: addresses of id and name, source (32 bits), two times.
const ENTRY_BYTES = 40;

const entryAt = (view: DataView, at: number): TrashEntry => ({
  id: cStringAt(view.getBigUint64(at, true)),
  name: cStringAt(view.getBigUint64(at + 8, true)),
  source: SOURCES[view.getInt32(at + 16, true)] ?? "other",
});

/** Before `keepSeconds` are over the image is only removed by force. librbd moves an image also if it has watchers, and refuses to `remove` it then. The caller asks about them before. */
export const move = (io: bigint, image: string, keepSeconds = 0): void => {
  const result = rbd.rbd_trash_move(io, plain(image), BigInt(keepSeconds));
  // it opens no parent, so the entry of the image in `rbd_directory` is missing: that is not absence of the image
  if (result === -ENOENT && isThere(io, image)) throw new Errno("rbd_trash_move of an image that is there", ENOENT);
  check("rbd_trash_move", result);
};

export const get = (io: bigint, id: string): TrashEntry | undefined => {
  const info = zeroed(ENTRY_BYTES);
  const result = rbd.rbd_trash_get(io, plain(id), info);
  if (result === -ENOENT) return undefined;
  check("rbd_trash_get", result);
  const entry = entryAt(new DataView(info.buffer), 0);
  rbd.rbd_trash_get_cleanup(info);
  return entry;
};

export const list = (io: bigint): readonly TrashEntry[] => {
  for (let room = 64; ; ) {
    const infos = zeroed(room * ENTRY_BYTES);
    const count = slot(BigInt(room));
    const result = rbd.rbd_trash_list(io, infos, count);
    if (result === -ERANGE) {
      // another client may add more before the next try
      room = Number(valueOf(count)) + 64;
      continue;
    }
    check("rbd_trash_list", result);
    const view = new DataView(infos.buffer);
    const entries = Array.from({ length: Number(valueOf(count)) }, (_, i) => entryAt(view, i * ENTRY_BYTES));
    rbd.rbd_trash_list_cleanup(infos, valueOf(count));
    return entries;
  }
};

export const remove = (io: bigint, id: string): void => {
  const result = rbd.rbd_trash_remove(io, plain(id), 0);
  // ENOENT may be of a part of the image: it is removed only if the trash has no such entry
  if (result === -ENOENT && get(io, id) === undefined) return;
  check("rbd_trash_remove", result);
};
