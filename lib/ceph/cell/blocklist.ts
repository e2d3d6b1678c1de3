/**
 * Reads and changes the blocklist of a cluster, and proves that the OSDs know it. Loaded in cells only.
 *
 * Not here: what a target means (lib/ceph/blocklist.ts).
 *
 * 1. An OSD answers no operation before its map is at least as new as that of the client who asks. So once this client has
 *    the newest map, an answer from the primary of every placement group proves that each of them knows the list.
 * 2. A line of the list that cannot be read is an error, never left out.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import type { Blocked, ClusterIdentity } from "../blocklist.ts";
import { bind, check, cStringAt, ENOENT, slot, textIn, valueOf, zeroed } from "./ffi.ts";
import { listIn } from "./json.ts";
import { nameForEach } from "./placement-groups.ts";
import { monitorCommand, type PoolArg, withPool } from "./rados.ts";

const rados = bind("librados.so.2", {
  rados_wait_for_latest_osdmap: { args: [T.u64], returns: T.i32 },
  rados_stat: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rados_getaddrs: { args: [T.u64, T.ptr], returns: T.i32 },
  rados_cluster_fsid: { args: [T.u64, T.ptr, T.u64], returns: T.i32 },
  rados_buffer_free: { args: [T.u64], returns: T.void },
});

const PREFIX = "osd blocklist";

const ask = (cluster: bigint, command: Readonly<Record<string, string>>): string =>
  told(cluster, JSON.stringify(command));

const told = (cluster: bigint, command: string): string => {
  const { result, status, output } = monitorCommand(cluster, command);
  if (result !== 0) throw new Errno("rados_mon_command", Math.abs(result), status);
  return output;
};

/** In the tool's words for people: its JSON is two lists in a row where there are ranges, which is no JSON. */
export const blocklist = (cluster: bigint): readonly Blocked[] =>
  ask(cluster, { prefix: `${PREFIX} ls` })
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map(blockedIn);

/** `10.0.0.1:0/3412 2031-11-29T15:36:47.575029+0000`, or `cidr:10.0.0.0:0/24 2026-…`. */
const LINE = /^(cidr:)?(\S+?)(:0)?\/(\d+)\s/;

const blockedIn = (line: string): Blocked => {
  const [, range, host, port = "", number] = LINE.exec(`${line} `) ?? [];
  if (host === undefined || number === undefined) {
    throw new Errno(`${PREFIX} ls`, 0, `its line "${line}" is not an entry; this release of Ceph is not known here`);
  }
  if (range === undefined) return { kind: "client", address: `${host}${port}/${number}` };
  return { kind: "range", address: `${host.replace(/^\[(.*)\]$/, "$1")}/${number}` };
};

const where = ({ kind, address }: Blocked) => ({ ...(kind === "range" && { range: "range" }), addr: address });

/** The monitors take the time as a number with a fraction only. */
export const add = (cluster: bigint, blocked: Blocked, seconds: number): void => {
  const command = JSON.stringify({ prefix: PREFIX, ...where(blocked), blocklistop: "add" });
  told(cluster, `${command.slice(0, -1)},"expire":${seconds.toFixed(1)}}`);
};

export const remove = (cluster: bigint, blocked: Blocked): void =>
  void ask(cluster, { prefix: PREFIX, ...where(blocked), blocklistop: "rm" });

export const reached = (at: PoolArg, blocked: Blocked): boolean => {
  const { cluster, pool, namespace } = at;
  const isIt = ({ kind, address }: Blocked): boolean => kind === blocked.kind && address === blocked.address;
  if (!blocklist(cluster).some(isIt)) return false;
  const groups = groupsOf(cluster, pool);
  check("rados_wait_for_latest_osdmap", rados.rados_wait_for_latest_osdmap(cluster));
  withPool(at, (io) => {
    const [size, time] = [slot(), slot()];
    for (const name of nameForEach(namespace, groups)) {
      const result = rados.rados_stat(io, name, size, time);
      if (result !== -ENOENT) check("rados_stat", result);
    }
  });
  return true;
};

const RJENKINS = 2;

const groupsOf = (cluster: bigint, name: string): number => {
  const prefix = "osd pool ls";
  const pools = listIn(prefix, ask(cluster, { prefix, detail: "detail", format: "json" }));
  const pool = pools.find((each) => each.text("pool_name") === name);
  if (pool === undefined) throw new Errno("rados_pool_lookup", ENOENT);
  if (pool.number("object_hash") !== RJENKINS) {
    throw new Errno(prefix, 0, `the pool hashes the names of objects in a way that is not known here`);
  }
  return pool.number("pg_num");
};

const FSID_BYTES = 64;

export const identity = (cluster: bigint): ClusterIdentity => {
  const fsid = zeroed(FSID_BYTES);
  check("rados_cluster_fsid", rados.rados_cluster_fsid(cluster, fsid, BigInt(FSID_BYTES)));
  const place = slot();
  check("rados_getaddrs", rados.rados_getaddrs(cluster, place));
  const address = cStringAt(valueOf(place));
  rados.rados_buffer_free(valueOf(place));
  return { fsid: textIn(fsid), address };
};
