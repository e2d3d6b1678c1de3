/**
 * Makes a clone of one snapshot read as a later snapshot of the same image does. Loaded in cells only.
 *
 * Not here: which parts differ (./diff.ts), and why one would not clone the later one (./clones.ts: older librbd can't).
 *
 * 1. What was discarded in between is zero in the clone too, whatever its parent has there.
 * 2. It may be cut off and done again: it writes what the later snapshot holds, whatever the clone held before.
 * 3. Its memory does not grow with the image, nor with what differs.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { Errno } from "../cells/cell.ts";
import type { SourceArg } from "./clones.ts";
import { diff, type Extent } from "./diff.ts";
import { check, zeroed } from "./ffi.ts";
import { type PoolArg, withPool } from "./rados.ts";
import { grow, withImage } from "./rbd.ts";

const { symbols: rbd } = dlopen("librbd.so.1", {
  rbd_snap_set_by_id: { args: [T.u64, T.u64], returns: T.i32 },
  rbd_read: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
  rbd_write: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
  rbd_write_zeroes: { args: [T.u64, T.u64, T.u64, T.i32, T.i32], returns: T.i64 },
  rbd_flush: { args: [T.u64], returns: T.i32 },
});

export interface CatchUpArg extends PoolArg {
  /** The clone. */
  readonly image: string;
  /** What it is to read as. */
  readonly source: SourceArg & { readonly snapshot: bigint };
  /** What it is a clone of: an older snapshot of the same image. */
  readonly from: string;
}

const EXTENTS_AT_ONCE = 1024;
const BYTES_AT_ONCE = 4_194_304;
const EIO = 5;

export const catchUp = (io: bigint, { cluster, image, source, from }: CatchUpArg): void =>
  withPool(
    { cluster, pool: source.pool, namespace: source.namespace },
    (sourceIo) => {
      const buffer = zeroed(BYTES_AT_ONCE);
      for (let offset = 0n; ; ) {
        const about = { cluster, pool: source.pool, namespace: source.namespace, image: source.image, from };
        const found = diff(sourceIo, { ...about, to: source.snapshot, offset, limit: EXTENTS_AT_ONCE });
        if (offset === 0n) grow(io, image, found.sizeBytes);
        const last = found.extents.at(-1);
        if (last === undefined) return;
        withImage(sourceIo, source.image, "read", (reader) => {
          check("rbd_snap_set", rbd.rbd_snap_set_by_id(reader, source.snapshot));
          withImage(io, image, "write", (writer) => {
            for (const extent of found.extents) copy(reader, writer, extent, buffer);
            check("rbd_flush", rbd.rbd_flush(writer));
          });
        });
        if (found.extents.length < EXTENTS_AT_ONCE) return;
        offset = last.offset + last.length;
      }
    },
    "rados_ioctx_create of the source",
  );

const copy = (reader: bigint, writer: bigint, { offset, length, exists }: Extent, buffer: Uint8Array): void => {
  if (!exists) {
    all("rbd_write_zeroes", rbd.rbd_write_zeroes(writer, offset, length, 0, 0), length);
    return;
  }
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const size = end - at < BigInt(BYTES_AT_ONCE) ? end - at : BigInt(BYTES_AT_ONCE);
    all("rbd_read", rbd.rbd_read(reader, at, size, buffer), size);
    all("rbd_write", rbd.rbd_write(writer, at, size, buffer), size);
    at += size;
  }
};

const all = (op: string, result: bigint | number, wanted: bigint): void => {
  check(op, Number(result));
  if (BigInt(result) !== wanted) throw new Errno(op, EIO);
};
