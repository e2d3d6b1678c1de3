/**
 * Which pools a cluster has for RBD, and how much can still be written to one. Loaded in cells only.
 *
 * Not here: what is in a pool. Names and ids one at a time are in ./rados.ts, without asking anybody.
 *
 * 1. The monitors answer both, from what they have: no manager is needed, and the numbers may be some seconds old.
 */
import { Errno } from "../../cells/cell.ts";
import { monitorCommand, poolId } from "./rados.ts";

const ask = (cluster: bigint, command: Readonly<Record<string, string>>): string => {
  const { result, said, output } = monitorCommand(cluster, JSON.stringify({ ...command, format: "json" }));
  if (result !== 0) throw new Errno("rados_mon_command", Math.abs(result), said);
  return output;
};

interface Pool {
  readonly pool_id: number;
  readonly pool_name: string;
  readonly application_metadata?: Readonly<Record<string, unknown>>;
}

/** Those that an administrator has given to RBD. */
export const pools = (cluster: bigint): readonly { readonly id: bigint; readonly name: string }[] => {
  const all = JSON.parse(ask(cluster, { prefix: "osd pool ls", detail: "detail" })) as readonly Pool[];
  return all
    .filter(({ application_metadata: uses }) => uses !== undefined && "rbd" in uses)
    .map(({ pool_id, pool_name }) => ({ id: BigInt(pool_id), name: pool_name }));
};

interface Usage {
  readonly name: string;
  readonly stats: { readonly stored: number; readonly max_avail: number; readonly quota_bytes: number };
}

/**
 * `max_avail` is in bytes of clients, however the pool keeps them: in copies or in parts. A quota is in the same bytes,
 * and 0 is none.
 */
export const availableBytes = (cluster: bigint, pool: string): bigint => {
  const { pools: all } = JSON.parse(ask(cluster, { prefix: "df", detail: "detail" })) as { readonly pools: Usage[] };
  const found = all.find(({ name }) => name === pool);
  if (found === undefined) {
    // a new pool's space is not known until the manager has told the monitors, some seconds later
    poolId(cluster, pool);
    return 0n;
  }
  const { max_avail: free, quota_bytes: quota, stored } = found.stats;
  return BigInt(Math.max(0, Math.floor(quota > 0 ? Math.min(free, quota - stored) : free)));
};
