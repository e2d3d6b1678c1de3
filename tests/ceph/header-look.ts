/** Headers of images for tests of what the driver writes without librbd: compared with what librbd writes. */
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { list } from "../../lib/ceph/cell/omaps.ts";
import type { PoolArg } from "../../lib/ceph/cell/rados.ts";
import { id as idOf } from "../../lib/ceph/cell/rbd.ts";

type InPool = <A>(act: (where: PoolArg, io: bigint) => A) => A;
type Mask = (key: string, text: string) => string;

/** Bytes before the first field of a structure. */
const HEAD = 6;

export const headers = (inPool: InPool) => {
  const idIn = (image: string): string => inPool((_, io) => idOf(io, image)) ?? "";
  const headerOf = (image: string): ReadonlyMap<string, Uint8Array> =>
    inPool((_, io) => list(io, `rbd_header.${idIn(image)}`, { prefix: "", after: "", limit: 1000 })) ?? new Map();
  /**
   * The header of an image, without what differs from image to image: ids, and times. `snapshot`: the image's own one.
   * `mask`: takes away more of a value.
   */
  const lookOf = (
    image: string,
    snapshot: { readonly id: bigint; readonly createdAt: number } | undefined,
    mask: Mask = (_, text) => text,
  ) => {
    const { id, createdAt } = snapshot ?? { id: 0n, createdAt: 0 };
    const hex = id.toString(16).padStart(16, "0");
    const seconds = Buffer.from(encode({ u32: Math.floor(createdAt / 1000) })).toString("latin1");
    const masked = (key: string, bytes: Uint8Array): string => {
      const value = bytes.slice();
      // the snapshot's id: all of one key, and the first field of another
      if (key === "snap_seq") value.fill(0);
      if (key.startsWith("snapshot_")) value.fill(0, HEAD, HEAD + 8);
      const text = mask(key, Buffer.from(value).toString("latin1"));
      const time = key.startsWith("snapshot_") ? text.indexOf(seconds) : -1;
      return time < 0 ? text : `${text.slice(0, time)}TIME${text.slice(time + 8)}`;
    };
    return [...headerOf(image)]
      .filter(([key]) => !key.endsWith("_timestamp") && key !== "object_prefix")
      .map(([key, value]) => [key.replace(hex, "ID"), masked(key, value)]);
  };
  return { idIn, headerOf, lookOf };
};
