/**
 * Tells the clients that have an image open that its header has changed, as librbd tells them. Loaded in cells only.
 */
import { FFIType as T } from "bun:ffi";
import { bind, check, ENOENT, ETIMEDOUT } from "./ffi.ts";

const rados = bind("librados.so.2", {
  rados_notify2: { args: [T.u64, T.cstring, T.ptr, T.i32, T.u64, T.ptr, T.ptr], returns: T.i32 },
});

/** How long a client may take to say that it has heard. One that has died says nothing. */
const HEARD_MS = 5_000n;

/** An empty message means that the header has changed. */
export const tellClients = (io: bigint, header: string): void => {
  const result = rados.rados_notify2(io, header, null, 0, HEARD_MS, null, null);
  if (result !== -ETIMEDOUT && result !== -ENOENT) check("rados_notify2", result);
};
