/**
 * All that an image is before anybody has used it, byte for byte: to compare what the driver makes with what librbd makes.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { check, zeroed } from "../../lib/ceph/cell/ffi.ts";
import { exists, list } from "../../lib/ceph/cell/omaps.ts";
import { execute } from "../../lib/ceph/cell/rados.ts";
import { id as idOf } from "../../lib/ceph/cell/rbd.ts";
import type { cellPool } from "./primitives.ts";

const { symbols: rados } = dlopen("librados.so.2", {
  rados_read: { args: [T.u64, T.cstring, T.ptr, T.u64, T.u64], returns: T.i32 },
});

/** `bytesOf` reads an object, `lookOf` an image, with its id and its times left out. */
export const imageLook = (inPool: ReturnType<typeof cellPool>) => {
  const bytesOf = (object: string): string => {
    const bytes = zeroed(1 << 20);
    return inPool((_, io) => {
      const length = check("rados_read", rados.rados_read(io, object, bytes, BigInt(bytes.length), 0n));
      return Buffer.from(bytes.subarray(0, length)).toString("hex");
    });
  };
  const lookOf = (image: string, id: string) => {
    const withoutId = (text: string) => text.replaceAll(id, "ID");
    const header = inPool((_, io) =>
      list(io, `rbd_header.${id}`, { prefix: "", after: "", limit: Number.MAX_SAFE_INTEGER }),
    );
    return {
      header: [...(header ?? [])]
        .filter(([key]) => !key.endsWith("_timestamp"))
        .map(([key, value]) => [key, withoutId(Buffer.from(value).toString("latin1"))]),
      times: [...(header ?? [])]
        .filter(([key]) => key.endsWith("_timestamp"))
        .map(([key, { length }]) => [key, length]),
      headerBytes: bytesOf(`rbd_header.${id}`),
      objectMap: inPool((_, io) => exists(io, `rbd_object_map.${id}`)) ? bytesOf(`rbd_object_map.${id}`) : "none",
      idInName: inPool((_, io) => idOf(io, image)) === id,
      idInDirectory: inPool((_, io) => {
        const found = execute(io, "rbd_directory", "dir_get_id", encode({ text: image }));
        return found !== undefined && Buffer.from(found).toString("latin1").includes(id);
      }),
      nameInDirectory: inPool((_, io) => {
        const found = execute(io, "rbd_directory", "dir_get_name", encode({ text: id }));
        return found !== undefined && Buffer.from(found).toString("latin1").includes(image);
      }),
    };
  };
  return { bytesOf, lookOf };
};
