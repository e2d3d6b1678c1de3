/**
 * The calls of librados on connections, pools, objects and commands. Loaded in cells only.
 *
 * Not here: omaps (./omaps.ts), images (./rbd.ts), what an errno means (lib/ceph/live/errno.ts), limits (lib/ceph/live).
 *
 * 1. Handles are plain addresses that every cell of the process may use; they are bigints everywhere.
 * 2. An ioctx lives for one call, and so does everything made from it.
 * 3. A write to a full pool never waits for room. What adds an object or bytes fails at once (ENOSPC, or EDQUOT at a quota);
 *    the rest succeeds, so that removals make room. librbd's copies of the ioctx write so, too.
 */
import { FFIType as T, ptr } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import type { ObjectLock } from "../rados.ts";
import { release } from "./client-library.ts";
import { deadlyLine, faultyLine } from "./conf-file.ts";
import {
  bind,
  check,
  cString,
  EBUSY,
  EINVAL,
  ENOENT,
  ERANGE,
  ETIMEDOUT,
  held,
  optional,
  plain,
  slot,
  textAt,
  textIn,
  valueOf,
  zeroed,
} from "./ffi.ts";

const rados = bind("librados.so.2", {
  rados_create2: { args: [T.ptr, T.cstring, T.cstring, T.u64], returns: T.i32 },
  rados_conf_read_file: { args: [T.u64, T.cstring], returns: T.i32 },
  rados_conf_set: { args: [T.u64, T.cstring, T.cstring], returns: T.i32 },
  rados_connect: { args: [T.u64], returns: T.i32 },
  rados_shutdown: { args: [T.u64], returns: T.void },
  rados_conf_get: { args: [T.u64, T.cstring, T.ptr, T.u64], returns: T.i32 },
  rados_get_instance_id: { args: [T.u64], returns: T.u64 },
  rados_pool_lookup: { args: [T.u64, T.cstring], returns: T.i64 },
  rados_pool_reverse_lookup: { args: [T.u64, T.i64, T.ptr, T.u64], returns: T.i32 },
  rados_ioctx_create: { args: [T.u64, T.cstring, T.ptr], returns: T.i32 },
  rados_ioctx_create2: { args: [T.u64, T.i64, T.ptr], returns: T.i32 },
  rados_ioctx_set_namespace: { args: [T.u64, T.cstring], returns: T.void },
  rados_ioctx_destroy: { args: [T.u64], returns: T.void },
  rados_lock_exclusive: { args: [T.u64, T.cstring, T.cstring, T.cstring, T.cstring, T.ptr, T.u8], returns: T.i32 },
  rados_unlock: { args: [T.u64, T.cstring, T.cstring, T.cstring], returns: T.i32 },
  rados_exec: { args: [T.u64, T.cstring, T.cstring, T.cstring, T.ptr, T.u64, T.ptr, T.u64], returns: T.i32 },
  rados_remove: { args: [T.u64, T.cstring], returns: T.i32 },
  rados_mgr_command: { args: [T.u64, T.ptr, T.u64, T.ptr, T.u64, T.ptr, T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_mon_command: { args: [T.u64, T.ptr, T.u64, T.ptr, T.u64, T.ptr, T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_buffer_free: { args: [T.u64], returns: T.void },
});

/** From Ceph 15 on. */
const newer = optional("librados.so.2", { rados_set_pool_full_try: { args: [T.u64], returns: T.void } });

/** A pool and namespace of a connected cluster. */
export interface PoolArg {
  readonly cluster: bigint;
  readonly pool: string;
  readonly namespace: string;
}

export interface ConnectArg {
  readonly user: string;
  readonly confFile: string;
  /** Set in this order, after the file. */
  readonly settings: readonly (readonly [string, string])[];
}

/** Gives the handle of a connected cluster. A failure leaves nothing behind. */
export const connect = ({ user, confFile, settings }: ConnectArg): bigint => {
  const place = slot();
  check("rados_create2", rados.rados_create2(place, "ceph", plain(`client.${user}`), 0n));
  const cluster = valueOf(place);
  try {
    if (files().existsSync(confFile)) readConfFile(cluster, confFile);
    for (const [option, value] of settings) {
      check(`rados_conf_set ${option}`, rados.rados_conf_set(cluster, option, plain(value)));
    }
    const result = rados.rados_connect(cluster);
    // librados gives 1 if its login was still under way when its time was over, and has ended the connection then
    check("rados_connect", result > 0 ? -ETIMEDOUT : result);
    return cluster;
  } catch (error) {
    rados.rados_shutdown(cluster);
    throw error;
  }
};

/** Loaded by the cells that connect alone, because it takes half a MiB of each. */
const files = () => process.getBuiltinModule("node:fs");

/** Fails with errno and a clause that says where the file is wrong. */
const readConfFile = (cluster: bigint, path: string): void => {
  const op = "rados_conf_read_file";
  let text: string;
  try {
    text = files().readFileSync(path, "utf8");
  } catch (error) {
    throw new Errno(op, EINVAL, `it cannot be read (${error instanceof Error ? error.message : String(error)})`);
  }
  const deadly = deadlyLine(text, release());
  if (deadly !== undefined) throw new Errno(op, EINVAL, deadly);
  const result = rados.rados_conf_read_file(cluster, plain(path));
  if (result < 0)
    throw new Errno(op, -result, result === -EINVAL ? faultyLine(text) : `it cannot be read (errno ${-result})`);
};

export const shutdown = (cluster: bigint): void => rados.rados_shutdown(cluster);

export const instanceId = (cluster: bigint): bigint => rados.rados_get_instance_id(cluster);

/** The value that an option has now: from librados itself, its file, or the monitors. undefined: there is no such option. */
export const setting = (cluster: bigint, option: string): string | undefined => {
  const value = zeroed(1024);
  return rados.rados_conf_get(cluster, option, value, BigInt(value.length)) < 0 ? undefined : textIn(value);
};

export const poolId = (cluster: bigint, pool: string): bigint => {
  const id = rados.rados_pool_lookup(cluster, plain(pool));
  if (id < 0n) throw new Errno("rados_pool_lookup", Number(-id));
  return id;
};

export const poolName = (cluster: bigint, id: bigint): string => {
  for (let size = 256; ; size *= 4) {
    const name = zeroed(size);
    const result = rados.rados_pool_reverse_lookup(cluster, id, name, BigInt(size));
    if (result === -ERANGE && size < 65536) continue;
    check("rados_pool_reverse_lookup", result);
    return textIn(name);
  }
};

/** Opens a pool, does `use`, and closes the pool. */
export const withPool = <A>(
  { cluster, pool, namespace }: PoolArg,
  use: (io: bigint) => A,
  op = "rados_ioctx_create",
): A => {
  const place = slot();
  check(op, rados.rados_ioctx_create(cluster, plain(pool), place));
  return withIo(valueOf(place), namespace, use);
};

export const POOL_BY_ID = "rados_ioctx_create2";

export const withPoolId = <A>(cluster: bigint, id: bigint, namespace: string, use: (io: bigint) => A): A => {
  const place = slot();
  check(POOL_BY_ID, rados.rados_ioctx_create2(cluster, id, place));
  return withIo(valueOf(place), namespace, use);
};

const withIo = <A>(io: bigint, namespace: string, use: (io: bigint) => A): A => {
  try {
    rados.rados_ioctx_set_namespace(io, plain(namespace));
    newer?.rados_set_pool_full_try(io);
    return use(io);
  } finally {
    rados.rados_ioctx_destroy(io);
  }
};

/** Makes a call in a pool of a function on the opened pool, which is closed after the call. */
export const pooled =
  <A extends PoolArg, B>(act: (io: bigint, arg: A) => B) =>
  (arg: A): B =>
    withPool(arg, (io) => act(io, arg));

export const objectRemove = (io: bigint, object: string): void => {
  const result = rados.rados_remove(io, plain(object));
  if (result !== -ENOENT) check("rados_remove", result);
};

/** Calls a method of the object class "rbd" on an object; undefined: what it reads, or the object, does not exist. */
export const execute = (
  io: bigint,
  object: string,
  method: string,
  input: Uint8Array = zeroed(1).subarray(1),
  mostBytes = 4096,
): Uint8Array | undefined => {
  const answer = zeroed(mostBytes);
  const size = BigInt(input.length);
  const given = input.length === 0 ? null : input;
  const result = rados.rados_exec(io, plain(object), "rbd", method, given, size, answer, BigInt(answer.length));
  if (result === -ENOENT) return undefined;
  return answer.slice(0, check(`rados_exec ${method}`, result));
};

export interface CommandAnswer {
  readonly result: number;
  /** The outcome in words. */
  readonly status: string;
  readonly output: string;
}

/** Sends a command (JSON) to the active manager and waits for its answer. */
export const managerCommand = (cluster: bigint, command: string): CommandAnswer =>
  commanded(command, (...args) => rados.rados_mgr_command(cluster, ...args));

/** Sends a command (JSON) to a monitor and waits for its answer. */
export const monitorCommand = (cluster: bigint, command: string): CommandAnswer =>
  commanded(command, (...args) => rados.rados_mon_command(cluster, ...args));

type Place = BigUint64Array;
type Send = (
  argv: Place,
  argc: bigint,
  input: null,
  inputLength: bigint,
  out: Place,
  outLength: Place,
  status: Place,
  statusLength: Place,
) => number;

const commanded = (command: string, send: Send): CommandAnswer => {
  const text = cString(command);
  const argv = slot(BigInt(ptr(text)));
  const [out, outLength, status, statusLength] = [slot(), slot(), slot(), slot()];
  const result = send(argv, 1n, null, 0n, out, outLength, status, statusLength);
  held(text, argv);
  const words = textAt(valueOf(status), Number(valueOf(statusLength)));
  const output = textAt(valueOf(out), Number(valueOf(outLength)));
  for (const buffer of [out, status]) if (valueOf(buffer) !== 0n) rados.rados_buffer_free(valueOf(buffer));
  return { result, status: words, output };
};

/** A lock outlives a crashed driver by this time. */
const LOCK_SECONDS = 30n;
const LOCK_WAIT_MS = 10_000;
const LOCK_AGAIN_MS = 20;

/** Seconds, and microseconds: a `timeval`. */
const timeval = (seconds: bigint): BigInt64Array<ArrayBuffer> => {
  const duration = new BigInt64Array(new ArrayBuffer(16));
  duration[0] = seconds;
  return duration;
};

/** The lock may be this client's already: then it begins anew. */
const MAY_RENEW = 1;

export const objectLock = (io: bigint, object: string, { name, cookie, seconds }: ObjectLock): void => {
  const duration = timeval(BigInt(seconds));
  const result = rados.rados_lock_exclusive(io, plain(object), plain(name), plain(cookie), "", duration, MAY_RENEW);
  check("rados_lock_exclusive", result);
};

/** Does `body` while no other driver has the lock `name` on the object; waits for one that has it. */
export const withLock = <A>(io: bigint, object: string, name: string, body: () => A): A => {
  const cookie = crypto.randomUUID();
  const duration = timeval(LOCK_SECONDS);
  const deadline = Date.now() + LOCK_WAIT_MS;
  for (;;) {
    const result = rados.rados_lock_exclusive(io, plain(object), plain(name), cookie, "", duration, 0);
    if (result === 0) break;
    if (result !== -EBUSY || Date.now() > deadline) check("rados_lock_exclusive", result);
    Bun.sleepSync(LOCK_AGAIN_MS);
  }
  try {
    return body();
  } finally {
    // a lock that is not released ends by itself
    rados.rados_unlock(io, object, name, cookie);
  }
};
