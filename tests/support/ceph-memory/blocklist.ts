/**
 * The calls of `Blocklist` on a cluster in memory. What it refuses is not modelled: clients here write by no call.
 */
import { AccessDenied, PoolNotFound } from "../../../lib/ceph/errors.ts";
import type { Blocked, BlocklistCalls } from "../../../lib/ceph/blocklist.ts";
import type { ClusterAccess } from "../../../lib/ceph/rados.ts";
import { admit, call, enter, refuse } from "./call.ts";
import type { MemoryCluster } from "./cluster.ts";

const keyOf = ({ kind, address }: Blocked): string => `${kind} ${address}`;

/** A user whose osd caps name pools has "profile rbd" at the monitors, and no more. */
const permit = (cluster: MemoryCluster, { user }: ClusterAccess, op: string, subject: string): void => {
  const caps = `mon 'profile rbd, allow command "osd blocklist"'`;
  if (cluster.users.get(user)?.pools !== undefined) throw refuse(new AccessDenied({ op, subject, user, caps }));
};

export const blocklistCalls = (cluster: MemoryCluster): BlocklistCalls => ({
  blocklist: (access) =>
    call(() => {
      admit(cluster, access, "osd blocklist ls");
      return [...cluster.blocklist.values()].map(({ kind, address }) => ({ kind, address }));
    }),

  blocklistAdd: (access, blocked, seconds) =>
    call(() => {
      admit(cluster, access, "osd blocklist add");
      cluster.blocklist.set(keyOf(blocked), { ...blocked, seconds });
    }),

  blocklistRemove: (access, blocked) =>
    call(() => {
      const op = "osd blocklist rm";
      admit(cluster, access, op);
      permit(cluster, access, op, blocked.address);
      cluster.blocklist.delete(keyOf(blocked));
    }),

  blocklistReached: (pool, blocked) =>
    call(() => {
      const op = "rados_stat";
      enter(cluster, pool, op);
      if (!cluster.pools.has(pool.pool)) throw refuse(new PoolNotFound({ op, subject: pool.pool }));
      return cluster.blocklist.has(keyOf(blocked));
    }),

  clusterIdentity: (access) =>
    call(() => {
      admit(cluster, access, "rados_getaddrs");
      return { fsid: MEMORY_FSID, address: "127.0.0.1:0/4000" };
    }),
});

export const MEMORY_FSID = "01234567-89ab-4cde-8f01-23456789abcd";
