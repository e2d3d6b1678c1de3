/** Who has an image open, as librbd lists them. Loaded in cells only. */
import { FFIType as T } from "bun:ffi";
import { bind, check, cStringAt, ERANGE, slot, valueOf } from "./ffi.ts";

const rbd = bind("librbd.so.1", {
  rbd_watchers_list: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_watchers_list_cleanup: { args: [T.ptr, T.u64], returns: T.void },
});

// rbd_image_watcher_t: address of the text, client's number, cookie.
const WATCHER_WORDS = 3;

/** Leaves out the watchers of this connection: they are short calls in other cells and do not use the image. */
export const watchers = (handle: bigint, ourselves: bigint): readonly string[] => {
  for (let room = 16; ; ) {
    const list = new BigUint64Array(new ArrayBuffer(room * WATCHER_WORDS * 8));
    const count = slot(BigInt(room));
    const result = rbd.rbd_watchers_list(handle, list, count);
    if (result === -ERANGE) {
      room = Number(valueOf(count));
      continue;
    }
    check("rbd_watchers_list", result);
    const found = Array.from({ length: Number(valueOf(count)) }, (_, i) => ({
      address: cStringAt(list[i * WATCHER_WORDS] ?? 0n),
      client: list[i * WATCHER_WORDS + 1] ?? 0n,
    }));
    rbd.rbd_watchers_list_cleanup(list, valueOf(count));
    return found
      .filter(({ client }) => client !== ourselves)
      .map(({ address, client }) => `${address}/client.${client}`);
  }
};
