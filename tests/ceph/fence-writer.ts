/**
 * A program that writes the numbers 1, 2, 3 … to a slot of an image, as a node that is lost and does not know it would.
 *
 *   bun tests/ceph/fence-writer.ts STOP POOL IMAGE SLOT
 *
 * It prints its client as a blocklist has it, then each number that was written, and ends with `refused ERRNO` at the first
 * write that fails, or when there is a file STOP.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { existsSync } from "node:fs";
import { identity } from "../../lib/ceph/cell/blocklist.ts";
import { connect, withPool } from "../../lib/ceph/cell/rados.ts";
import { withImage } from "../../lib/ceph/cell/rbd.ts";
import { rig } from "../rig/cluster.ts";

/** Bytes from one slot to the next one. */
export const SLOT = 4096;

if (import.meta.main) {
  const { symbols: rbd } = dlopen("librbd.so.1", {
    rbd_write: { args: [T.u64, T.u64, T.u64, T.ptr], returns: T.i64 },
  });
  const [stop = "", pool = "", image = "", slot = "0"] = process.argv.slice(2);
  const { conf, key, user, monitors } = rig();
  const settings = [
    ["mon_host", monitors.join(",")],
    ["key", key],
    ["rbd_cache", "false"],
  ] as const;
  const cluster = connect({ user, confFile: conf, settings });
  const number = new BigUint64Array(new ArrayBuffer(8));
  withPool({ cluster, pool, namespace: "" }, (io) =>
    withImage(io, image, "write", (handle) => {
      process.stdout.write(`${identity(cluster).address}\n`);
      for (let n = 1; !existsSync(stop); n++) {
        number[0] = BigInt(n);
        const result = Number(rbd.rbd_write(handle, BigInt(Number(slot) * SLOT), 8n, number));
        // A client that is refused cannot close its image in good order.
        if (result < 0) {
          process.stdout.write(`refused ${-result}\n`);
          process.exit(0);
        }
        process.stdout.write(`${n}\n`);
      }
    }),
  );
  process.exit(0);
}
