/**
 * The methods of `Rbd` on groups of images, each one call in a cell.
 *
 * Not here: the snapshot of each member (./snapshots.ts), the calls themselves (lib/ceph/cell/groups.ts).
 *
 * 1. While a call that changes a group hangs, no other that does is made. It does not keep calls off the members: it
 *    changes no more of them than that they belong to it, or have one more snapshot.
 */
import { imageLabel } from "../label.ts";
import type { PoolRef } from "../rados.ts";
import type { GroupCalls } from "../rbd.ts";
import type { About, Calls } from "./call.ts";

export const groupCalls = ({ call, inPool }: Calls): GroupCalls => ({
  groupCreate: call("groupCreate", ["group"], changing),
  groupExists: call("groupExists", ["group"]),
  // removes its snapshots first
  groupRemove: call("groupRemove", ["group"], (pool, group) => ({ ...changing(pool, group), pace: "slow" })),
  groupAdd: (pool, group, { pool: { pool: memberPool, namespace }, image }) =>
    inPool(
      pool,
      "groupAdd",
      group,
      { group, member: { pool: memberPool, namespace, image } },
      {
        ...changing(pool, group),
        member: imageLabel({ ...pool, pool: memberPool, namespace }, image),
        memberPool,
      },
    ),
  groupSnapshotCreate: call("groupSnapshotCreate", ["group", "snapshot"], (pool, group, snapshot) => ({
    ...changing(pool, group),
    subject: `${imageLabel(pool, group)}@${snapshot}`,
    pace: "slow",
  })),
  groupSnapshotMembers: call("groupSnapshotMembers", ["group", "snapshot"], (pool, group, snapshot) => ({
    subject: `${imageLabel(pool, group)}@${snapshot}`,
  })),
});

const changing = (pool: PoolRef, group: string): Partial<About> => ({
  key: `group ${imageLabel(pool, group)}`,
  changes: true,
});
