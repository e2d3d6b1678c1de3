/**
 * The call of librbd that frees what an image holds in vain. Loaded in cells only.
 *
 * 1. The OSD looks at an object and removes it in one operation, so no write that comes meanwhile is lost.
 */
import { FFIType as T } from "bun:ffi";
import { bind, check } from "./ffi.ts";
import { withImage } from "./rbd.ts";
import { stat } from "./status.ts";

const rbd = bind("librbd.so.1", {
  rbd_sparsify: { args: [T.u64, T.u64], returns: T.i32 },
});

/** By whole objects, as ceph-csi does: a smaller piece would make holes in objects that are in use. */
export const sparsify = (io: bigint, image: string): void =>
  withImage(io, image, "write", (handle) => {
    check("rbd_sparsify", rbd.rbd_sparsify(handle, stat(handle).objectSize));
  });
