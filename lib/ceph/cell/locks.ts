/**
 * Advisory locks on images (`rbd lock`). Loaded in cells only.
 *
 * Not here: which locks may go (lib/images/left-locks.ts), and locks on other objects (./rados.ts).
 *
 * 1. A lock is taken away by its name and its client: one that somebody else took since stays.
 * 2. The image is not opened for that: it would take the lock itself, and wait for it in vain.
 */
import { FFIType as T } from "bun:ffi";
import type { AdvisoryLock, ImageStatus } from "../rbd.ts";
import { bind, check, ENOENT, ERANGE, plain, slot, valueOf, zeroed } from "./ffi.ts";
import { existing, id } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_list_lockers: {
    args: [T.u64, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr],
    returns: T.i64,
  },
});
const rados = bind("librados.so.2", {
  rados_break_lock: { args: [T.u64, T.cstring, T.cstring, T.cstring, T.cstring], returns: T.i32 },
});

const OP = "rbd_list_lockers";
/** The tag of the lock that librbd and the kernel take by themselves. */
const AUTOMATIC = "internal";
const MOST_BYTES = 1 << 20;

/** Of an open image: librbd has read them with its header. */
export const locks = (handle: bigint): Pick<ImageStatus, "locks" | "writer"> => {
  for (let room = 1024; ; room *= 8) {
    const [tag, clients, ids, addresses] = [zeroed(room), zeroed(room), zeroed(room), zeroed(room)] as const;
    const size = () => slot(BigInt(room));
    const [exclusive, tagSize, clientsSize, idsSize, addressesSize] = [slot(), size(), size(), size(), size()] as const;
    const answer = rbd.rbd_list_lockers(
      handle,
      exclusive,
      tag,
      tagSize,
      clients,
      clientsSize,
      ids,
      idsSize,
      addresses,
      addressesSize,
    );
    const count = Number(answer);
    if (count === -ERANGE && room < MOST_BYTES) continue;
    check(OP, count);
    const texts = (bytes: Uint8Array, length: BigUint64Array) => split(bytes.subarray(0, Number(valueOf(length))));
    if (count === 0) return { locks: [] };
    const holders = texts(clients, clientsSize).slice(0, count);
    if (texts(tag, tagSize)[0] === AUTOMATIC) return { locks: [], writer: holders[0] ?? "" };
    const [of, at] = [texts(ids, idsSize), texts(addresses, addressesSize)];
    return { locks: holders.map((client, n) => ({ id: of[n] ?? "", client, address: at[n] ?? "" })) };
  }
};

const utf8 = new TextDecoder();

/** C's answer is one text after another, each with a NUL behind it. */
const split = (bytes: Uint8Array): readonly string[] => utf8.decode(bytes).split("\0");

export const unlock = (io: bigint, image: string, lock: AdvisoryLock): void => {
  const header = `rbd_header.${existing(id(io, image))}`;
  const result = rados.rados_break_lock(io, plain(header), "rbd_lock", plain(lock.client), plain(lock.id));
  if (result !== -ENOENT) check("rados_break_lock", result);
};
