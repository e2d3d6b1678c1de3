/**
 * Lists the pools that a cluster has for RBD, and reads how much can still be written to one. Loaded in cells only.
 *
 * Not here: the id or name of one pool (./rados.ts), the content of a pool.
 *
 * 1. The monitors answer both from what they know: no manager is needed, and the numbers may be some seconds old.
 */
import { Errno } from "../../cells/cell.ts";
import { listIn, objectIn } from "./json.ts";
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
export const availableBytes = (cluster: bigint, pool: string): bigint => {
  const prefix = "df";
  const all = objectIn(prefix, ask(cluster, { prefix, detail: "detail" })).list("pools");
  const stats = all.find((each) => each.text("name") === pool)?.object("stats");
  if (stats === undefined) {
    // a new pool's space is not known until the manager has reported it to the monitors, some seconds later
    poolId(cluster, pool);
    return 0n;
  }
  const [free, quota] = [stats.number("max_avail"), stats.number("quota_bytes")];
  return BigInt(Math.max(0, Math.floor(quota > 0 ? Math.min(free, quota - stats.number("stored")) : free)));
};
