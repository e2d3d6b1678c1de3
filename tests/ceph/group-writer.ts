/**
 * A program that writes the numbers 1, 2, 3 … to two images in turn, each number to the first image before it goes to
 * the second, and each written before the next begins: what a database does with its log and its tables.
 *
 *   bun tests/ceph/group-writer.ts STOP POOL IMAGE IMAGE
 *
 * It keeps both images open, as a node would, prints each number that is in both, and ends when there is a file STOP.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { existsSync } from "node:fs";
import { check } from "../../lib/ceph/cell/ffi.ts";
import { connect, shutdown, withPool } from "../../lib/ceph/cell/rados.ts";
import { withImage } from "../../lib/ceph/cell/rbd.ts";
import { rig } from "../rig/cluster.ts";

/** Bytes between one number's place and the next one's. */
export const STEP = 512;

if (import.meta.main) {
  const { symbols: rbd } = dlopen("librbd.so.1", {
    rbd_write: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
    rbd_flush: { args: [T.u64], returns: T.i32 },
  });
  const [stop = "", pool = "", first = "", second = ""] = process.argv.slice(2);
  const { conf, key, user, monitors } = rig();
  const settings = [
    ["mon_host", monitors.join(",")],
    ["key", key],
  ] as const;
  const cluster = connect({ user, confFile: conf, settings });
  const number = new BigUint64Array(new ArrayBuffer(8));
  const put = (handle: bigint, n: number): void => {
    number[0] = BigInt(n);
    check("rbd_write", Number(rbd.rbd_write(handle, BigInt(n * STEP), 8n, number)));
    check("rbd_flush", rbd.rbd_flush(handle));
  };
  withPool({ cluster, pool, namespace: "" }, (io) =>
    withImage(io, first, "write", (one) =>
      withImage(io, second, "write", (other) => {
        for (let n = 1; !existsSync(stop); n++) {
          put(one, n);
          put(other, n);
          process.stdout.write(`${n}\n`);
        }
      }),
    ),
  );
  shutdown(cluster);
}
