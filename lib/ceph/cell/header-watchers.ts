/**
 * Tells the clients that have an image open that its header has changed, as librbd tells them, and so finds out whether
 * there are any. Loaded in cells only.
 */
import { FFIType as T } from "bun:ffi";
import { Decoder } from "./decoder.ts";
import { bind, bytesAt, check, ENOENT, ETIMEDOUT, slot, valueOf } from "./ffi.ts";

const rados = bind("librados.so.2", {
  rados_buffer_free: { args: [T.u64], returns: T.void },
  rados_notify2: { args: [T.u64, T.cstring, T.ptr, T.i32, T.u64, T.ptr, T.ptr], returns: T.i32 },
});

/** How long a client may take to say that it has heard. One that has died says nothing. */
const HEARD_MS = 5_000n;

/** An empty message means that the header has changed. */
export const tellClients = (io: bigint, header: string): void => {
  const result = rados.rados_notify2(io, header, null, 0, HEARD_MS, null, null);
  if (result !== -ETIMEDOUT && result !== -ENOENT) check("rados_notify2", result);
};

/** Whether a client has the image open, or has died with it open a moment ago. No image needs to be opened for it. */
export const isWatched = (io: bigint, header: string): boolean => {
  const [place, length] = [slot(), slot()];
  const result = rados.rados_notify2(io, header, null, 0, HEARD_MS, place, length);
  const answer = new Decoder(bytesAt(valueOf(place), Number(valueOf(length))));
  if (valueOf(place) !== 0n) rados.rados_buffer_free(valueOf(place));
  if (result === -ETIMEDOUT) return true;
  if (result === -ENOENT) return false;
  check("rados_notify2", result);
  // how many have heard it; if none, how many have not
  return answer.u32() > 0 || answer.u32() > 0;
};
