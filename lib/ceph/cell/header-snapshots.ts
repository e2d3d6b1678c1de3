/**
 * Snapshots as the header of their image has them, without opening it. Loaded in cells only.
 *
 * Not here: the same by librbd, and all snapshots of an image (./snapshots.ts).
 */
import { Decoder } from "./decoder.ts";
import { encode, type Field } from "./encoder.ts";
import { execute } from "./rados.ts";

/** The bytes of a snapshot's kind that is `user`: the kind alone, which is 0. */
const USER_BYTES = 4;
export const USER_KIND: Field = { version: 1, of: [{ u32: 0 }] };

/** undefined: the image has no such snapshot, or it is not of kind `user`. */
export const userSnapshot = (
  io: bigint,
  imageId: string,
  snapshotId: bigint,
): { readonly name: string; readonly sizeBytes: bigint } | undefined => {
  const answer = execute(io, `rbd_header.${imageId}`, "snapshot_get", encode({ u64: snapshotId }));
  if (answer === undefined) return undefined;
  const bytes = new Decoder(answer);
  bytes.version();
  const found = bytes.u64();
  bytes.u8();
  bytes.u8();
  if (found !== snapshotId || bytes.u32() !== USER_BYTES || bytes.u32() !== 0) return undefined;
  return { name: bytes.text(), sizeBytes: bytes.u64() };
};

/** A clone of a snapshot, in any pool. */
export interface SnapshotChild {
  readonly poolId: bigint;
  readonly namespace: string;
  readonly imageId: string;
}

/** Reads the clones of a snapshot, as `children_list` answers them and as the header keeps them. */
export const childrenIn = (bytes: Uint8Array): readonly SnapshotChild[] => {
  const decoder = new Decoder(bytes);
  return Array.from({ length: decoder.u32() }, () => {
    decoder.version();
    const poolId = decoder.i64();
    const imageId = decoder.text();
    return { poolId, namespace: decoder.text(), imageId };
  });
};
