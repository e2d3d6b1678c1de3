/**
 * Grows images. Loaded in cells only.
 *
 * Not here: other calls on images (./rbd.ts).
 *
 * 1. Sizes only grow: `rbd_resize2` refuses a shrink, and is not called for one.
 * 2. In a full pool nothing grows. librbd would give the image its new size without a larger object map, and the kernel
 *    does not map an image whose object map is too small. The OSDs are asked, as for all else here: growth does not wait for
 *    monitors.
 */
import { FFIType as T } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import { bind, check, EINVAL, ENOENT, plain } from "./ffi.ts";
import { withLock } from "./rados.ts";
import { existing, hasHeader, id, noProgress, sizeOf, withImage } from "./rbd.ts";

const rados = bind("librados.so.2", {
  rados_append: { args: [T.u64, T.cstring, T.ptr, T.u64], returns: T.i32 },
  rados_trunc: { args: [T.u64, T.cstring, T.u64], returns: T.i32 },
});
const rbd = bind("librbd.so.1", {
  rbd_resize2: { args: [T.u64, T.u64, T.u8, T.ptr, T.ptr], returns: T.i32 },
});

/**
 * Grows an image and gives its size at the end, with what `read` gives of the image of this id. A lock keeps other drivers
 * out: librbd checks for a shrink against the size that it has read before, so that of two growers at once the one with
 * the smaller size could undo the other.
 */
export const grow = <A>(
  io: bigint,
  image: string,
  sizeBytes: bigint,
  read: (id: string) => A,
): { readonly sizeBytes: bigint; readonly metadata: A } => {
  const found = existing(id(io, image));
  // a lock creates its object, and a name without a header must not get one
  if (!hasHeader(io, found)) throw new Errno("rbd_open", ENOENT);
  const header = `rbd_header.${found}`;
  const size = withLock(io, header, "csi-rbd.grow", () =>
    withImage(io, image, "write", (handle) => {
      const size = sizeOf(handle);
      if (size >= sizeBytes) return size;
      proveRoom(io, header);
      const result = rbd.rbd_resize2(handle, sizeBytes, 0, noProgress, null);
      // refused as a shrink because another client has grown the image meanwhile
      if (result === -EINVAL && sizeOf(handle) >= sizeBytes) return sizeOf(handle);
      check("rbd_resize", result);
      return sizeBytes;
    }),
  );
  return { sizeBytes: size, metadata: midway(() => read(found)) };
};

/**
 * Fails where the pool takes no more data. The data of a header object, which nobody reads, gets a byte for a moment: a crash
 * leaves it there, and it goes with the image.
 */
const proveRoom = (io: bigint, header: string): void => {
  const name = plain(header);
  const byte = new Uint8Array(1);
  check("rbd_resize", rados.rados_append(io, name, byte, BigInt(byte.length)));
  check("rbd_resize", rados.rados_trunc(io, name, 0n));
};
