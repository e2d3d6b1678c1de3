/**
 * Another client that reads and writes the bytes of images, through librbd in the test's own thread.
 *
 * Not the driver: it never sees what is in an image.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { check } from "../../lib/ceph/cell/ffi.ts";
import { connect, shutdown, withPool } from "../../lib/ceph/cell/rados.ts";
import { withImage } from "../../lib/ceph/cell/rbd.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { Rig } from "../rig/cluster.ts";

const { symbols: rbd } = dlopen("librbd.so.1", {
  rbd_write: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
  rbd_read: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
  rbd_discard: { args: [T.u64, T.u64, T.u64], returns: T.i32 },
});

export interface Bytes {
  /** Fills the range with `value`. */
  readonly write: (pool: PoolRef, image: string, offset: number, length: number, value: number) => void;
  readonly discard: (pool: PoolRef, image: string, offset: number, length: number) => void;
  readonly read: (pool: PoolRef, image: string, offset: number, length: number) => Uint8Array;
  readonly close: () => void;
}

export const bytesOf = (rig: Rig): Bytes => {
  const settings = [
    ["mon_host", rig.monitors.join(",")],
    ["key", rig.key],
  ] as const;
  const cluster = connect({ user: rig.user, confFile: rig.conf, settings });
  const opened = <A>({ pool, namespace }: PoolRef, image: string, use: (handle: bigint) => A): A =>
    withPool({ cluster, pool, namespace }, (io) => withImage(io, image, "write", use));
  return {
    write: (pool, image, offset, length, value) =>
      opened(pool, image, (handle) => {
        const bytes = new Uint8Array(new ArrayBuffer(length)).fill(value);
        check("rbd_write", Number(rbd.rbd_write(handle, BigInt(offset), BigInt(length), bytes)));
      }),
    discard: (pool, image, offset, length) =>
      opened(pool, image, (handle) => {
        check("rbd_discard", rbd.rbd_discard(handle, BigInt(offset), BigInt(length)));
      }),
    read: (pool, image, offset, length) =>
      opened(pool, image, (handle) => {
        const bytes = new Uint8Array(new ArrayBuffer(length));
        check("rbd_read", Number(rbd.rbd_read(handle, BigInt(offset), BigInt(length), bytes)));
        return bytes;
      }),
    close: () => shutdown(cluster),
  };
};
