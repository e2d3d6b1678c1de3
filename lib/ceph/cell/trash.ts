/**
 * The calls of librbd around the trash. Loaded in cells only.
 *
 * Not here: the way into the trash (./trash-move.ts), tasks of the manager (./tasks.ts), what an errno means
 * (lib/ceph/live/errno.ts).
 *
 * 1. Only an image that was moved to the trash before is removed.
 * 2. `remove` does not force: an entry that is protected until a later time stays. A driver's mark protects from others.
 * 3. `onlyMarked` stands for an image that a driver moved to the trash. A person who takes it out of there, and moves it there
 *    again, leaves no mark on it: it is another entry then, and stays.
 */
import { FFIType as T } from "bun:ffi";
import { driversMark, type TrashEntry } from "../rbd.ts";
import { bind, check, cStringAt, ENOENT, EPERM, ERANGE, plain, slot, valueOf, zeroed } from "./ffi.ts";

const rbd = bind("librbd.so.1", {
  rbd_trash_get: { args: [T.u64, T.cstring, T.ptr], returns: T.i32 },
  rbd_trash_get_cleanup: { args: [T.ptr], returns: T.void },
  rbd_trash_list: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_trash_list_cleanup: { args: [T.ptr, T.u64], returns: T.void },
  rbd_trash_remove: { args: [T.u64, T.cstring, T.u8], returns: T.i32 },
});

const SOURCES = ["user", "mirroring", "migration"] as const;

// rbd_trash_image_info_t: addresses of id and name, source (32 bits), the times of the move and of the protection's end
// in seconds.
const ENTRY_BYTES = 40;

const entryAt = (view: DataView, at: number): TrashEntry => {
  const [moved, until] = [view.getBigInt64(at + 24, true), view.getBigInt64(at + 32, true)];
  return {
    id: cStringAt(view.getBigUint64(at, true)),
    name: cStringAt(view.getBigUint64(at + 8, true)),
    source: SOURCES[view.getInt32(at + 16, true)] ?? "other",
    ...protectionOf(Number(until - moved), Number(until)),
  };
};

const protectionOf = (seconds: number, until: number): Pick<TrashEntry, "protectedUntil" | "byDriver"> => {
  const byDriver = driversMark(seconds);
  if (byDriver !== undefined) return { byDriver };
  return seconds > 0 ? { protectedUntil: until * 1000 } : {};
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

/** undefined: there is no such entry, or no driver's mark is on it. */
export const entryFor = (io: bigint, id: string, onlyMarked = false): TrashEntry | undefined => {
  const entry = get(io, id);
  return onlyMarked && entry?.byDriver === undefined ? undefined : entry;
};

export const remove = (io: bigint, id: string, onlyMarked = false): void => {
  if (onlyMarked && entryFor(io, id, onlyMarked) === undefined) return;
  let result = rbd.rbd_trash_remove(io, plain(id), 0);
  if (result === -EPERM && get(io, id)?.byDriver !== undefined) result = rbd.rbd_trash_remove(io, plain(id), 1);
  // ENOENT may be of a part of the image: it is removed only if the trash has no such entry
  if (result === -ENOENT && get(io, id) === undefined) return;
  check("rbd_trash_remove", result);
};
