/**
 * Lists the pools that a cluster has for RBD, and reads how much can still be written to one, and what it can keep. Loaded
 * in cells only.
 *
 * Not here: the id or name of one pool (./rados.ts), the content of a pool.
 *
 * 1. The monitors answer all of it from what they know: no manager is needed, and the numbers may be some seconds old.
 */
import { Errno } from "../../cells/cell.ts";
import { listIn, objectIn } from "./json.ts";
import { ENOENT } from "./ffi.ts";
import { monitorCommand, poolId } from "./rados.ts";

const ask = (cluster: bigint, command: Readonly<Record<string, string>>): string => {
  const { result, status, output } = monitorCommand(cluster, JSON.stringify({ ...command, format: "json" }));
  if (result !== 0) throw new Errno("rados_mon_command", Math.abs(result), status);
  return output;
};

/** Lists the pools that an administrator has given to RBD. */
export const pools = (cluster: bigint): readonly { readonly id: bigint; readonly name: string }[] => {
  const prefix = "osd pool ls";
  return listIn(prefix, ask(cluster, { prefix, detail: "detail" }))
    .filter((pool) => pool.has("application_metadata") && pool.object("application_metadata").has("rbd"))
    .map((pool) => ({ id: BigInt(pool.number("pool_id")), name: pool.text("pool_name") }));
};

/**
 * `max_avail` is in bytes of clients, however the pool keeps them: in copies or in parts. A quota is in the same bytes,
 * and 0 is none.
 */
export const availableBytes = (cluster: bigint, pool: string): bigint | undefined => {
  const prefix = "df";
  const all = objectIn(prefix, ask(cluster, { prefix, detail: "detail" })).list("pools");
  const stats = all.find((each) => each.text("name") === pool)?.object("stats");
  if (stats === undefined) {
    // a new pool's space is not known until the manager has reported it to the monitors, some seconds later
    poolId(cluster, pool);
    return undefined;
  }
  const [free, quota] = [stats.number("max_avail"), stats.number("quota_bytes")];
  return BigInt(Math.max(0, Math.floor(quota > 0 ? Math.min(free, quota - stats.number("stored")) : free)));
};

export interface Fitness {
  readonly id: bigint;
  /** The ids of both pools, as text. */
  readonly ids: string;
  /** Absent: both fit, or the monitors do not tell. */
  readonly unfit?: { readonly pool: string; readonly why: "erasure-coded" | "no overwrites" | "no such data pool" };
  /** Whether the monitors have told. */
  readonly told: boolean;
}

/**
 * Whether images can be kept in the pool, with their data in the data pool. `proven`: the `ids` for which it was proven
 * before; that does not change, because a pool keeps its type, and overwrites cannot be forbidden again.
 */
export const fitness = (cluster: bigint, pool: string, dataPool: string | undefined, proven: string): Fitness => {
  const id = poolId(cluster, pool);
  const dataId = dataPool === undefined ? "" : poolIdOrNone(cluster, dataPool);
  if (dataPool !== undefined && dataId === undefined) {
    return { id, ids: "", told: true, unfit: { pool: dataPool, why: "no such data pool" } };
  }
  const ids = `${id} ${dataId}`;
  if (ids === proven) return { id, ids, told: true };
  const kinds = poolKinds(cluster);
  if (kinds === undefined) return { id, ids, told: false };
  const told = true;
  if (kinds.get(pool)?.coded === true) return { id, ids, told, unfit: { pool, why: "erasure-coded" } };
  const data = dataPool === undefined ? undefined : kinds.get(dataPool);
  return dataPool !== undefined && data?.coded === true && !data.overwrites
    ? { id, ids, told, unfit: { pool: dataPool, why: "no overwrites" } }
    : { id, ids, told };
};

const poolIdOrNone = (cluster: bigint, pool: string): bigint | undefined => {
  try {
    return poolId(cluster, pool);
  } catch (error) {
    if (error instanceof Errno && error.errno === ENOENT) return undefined;
    throw error;
  }
};

const ERASURE_CODED = 3;

export interface PoolKind {
  readonly id: bigint;
  readonly coded: boolean;
  readonly overwrites: boolean;
  /** Full, or at its quota. */
  readonly full: boolean;
}

/** By name. `undefined`: the monitors do not tell this user. */
export const poolKinds = (cluster: bigint): ReadonlyMap<string, PoolKind> | undefined => {
  const prefix = "osd pool ls";
  const { result, output } = monitorCommand(cluster, JSON.stringify({ prefix, detail: "detail", format: "json" }));
  if (result !== 0) return undefined;
  return new Map(
    listIn(prefix, output).map((pool) => {
      const flags = pool.text("flags_names").split(",");
      return [
        pool.text("pool_name"),
        {
          id: BigInt(pool.number("pool_id")),
          coded: pool.number("type") === ERASURE_CODED,
          overwrites: flags.includes("ec_overwrites"),
          full: flags.includes("full"),
        },
      ];
    }),
  );
};
