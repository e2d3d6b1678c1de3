/**
 * Whether an image has an allocated extent: the proof that nothing was ever written. Loaded in cells only.
 *
 * 1. It ends at the first extent, so that an image with data answers as quickly as an empty one with an object map.
 * 2. An extent that is allocated is never overlooked. One before the asked offset is never counted.
 */
import { FFIType as T, JSCallback } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { bind, check } from "./ffi.ts";
import { STOP, withImage } from "./rbd.ts";
import { stat, stripeCount } from "./status.ts";

const rbd = bind("librbd.so.1", {
  rbd_diff_iterate2: { args: [T.u64, T.ptr, T.u64, T.u64, T.u8, T.u8, T.function, T.ptr], returns: T.i32 },
});

let extentFound = false;
// Made once and never closed: librbd calls it on the thread that iterates, which is this one.
const extent = new JSCallback(
  (_offset: bigint, _length: bigint, exists: number) => {
    if (exists === 0) return 0;
    extentFound = true;
    return STOP;
  },
  { args: [T.u64, T.u64, T.i32, T.ptr], returns: T.i32 },
);

/** Whether the extents from there on are those of objects of their own. Only then may whole objects be asked for. */
const isObjectsStart = (handle: bigint, objectSize: bigint, from: bigint): boolean =>
  from === 0n || (from % objectSize === 0n && stripeCount(handle) === 1n);

export const hasData = (io: bigint, image: string, whose: "own" | "any", from = 0n): boolean =>
  withImage(io, image, "read", (handle) => {
    extentFound = false;
    const { sizeBytes, objectSize } = stat(handle);
    if (from >= sizeBytes) return false;
    const whole = isObjectsStart(handle, objectSize, from) ? 1 : 0;
    const parents = whose === "any" ? 1 : 0;
    const callback = extent.ptr;
    if (callback === null) throw new Errno("rbd_diff_iterate", 0, "no callback for rbd_diff_iterate");
    const result = rbd.rbd_diff_iterate2(handle, null, from, sizeBytes - from, parents, whole, callback, null);
    if (extentFound) return true;
    check("rbd_diff_iterate", result);
    return false;
  });
