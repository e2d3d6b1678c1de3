/** Calls on groups of images on a cluster in memory. */
import { Busy, Exists, InvalidCall, ObjectNotFound } from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import type { GroupCalls } from "../../../lib/ceph/rbd.ts";
import { call, EINVAL, enter, open, refuse } from "./call.ts";
import type { MemoryCluster } from "./cluster.ts";
import { dropGroupSnapshot, leaveGroup, type MemoryGroup } from "./group.ts";

export const groupCalls = (cluster: MemoryCluster): GroupCalls => {
  const groupOf = (ref: PoolRef, group: string, op: string): MemoryGroup => {
    const found = enter(cluster, ref, op).groups.get(group);
    if (found === undefined) throw refuse(new ObjectNotFound({ op, subject: imageLabel(ref, group) }));
    return found;
  };

  return {
    groupCreate: (ref, group) =>
      call(() => {
        const op = "rbd_group_create";
        const { groups } = enter(cluster, ref, op);
        if (groups.has(group)) throw refuse(new Exists({ op, subject: imageLabel(ref, group) }));
        groups.set(group, { id: cluster.freshId(), images: new Set(), snapshots: new Map() });
      }),

    groupExists: (ref, group) => call(() => enter(cluster, ref, "rados_read_op_operate").groups.has(group)),

    groupRemove: (ref, group) =>
      call(() => {
        const { groups } = enter(cluster, ref, "rbd_group_remove");
        const found = groups.get(group);
        if (found === undefined) return;
        for (const snapshot of found.snapshots.keys()) dropGroupSnapshot(found, snapshot);
        for (const image of found.images) leaveGroup(image);
        groups.delete(group);
      }),

    groupAdd: (ref, group, { pool, image }) =>
      call(() => {
        const op = "rbd_group_image_add";
        const found = groupOf(ref, group, op);
        const member = open(cluster, pool, image, op);
        if (pool.namespace !== ref.namespace) {
          throw refuse(new InvalidCall({ op, subject: imageLabel(pool, image), errno: EINVAL }));
        }
        if (member.group !== undefined && member.group !== found) {
          throw refuse(new Busy({ op, subject: imageLabel(pool, image), inGroup: true }));
        }
        found.images.add(member);
        member.group = found;
      }),

    groupSnapshotCreate: (ref, group, snapshot) =>
      call(() => {
        const op = "rbd_group_snap_create";
        const found = groupOf(ref, group, op);
        if (found.snapshots.has(snapshot)) {
          throw refuse(new Exists({ op, subject: `${imageLabel(ref, group)}@${snapshot}` }));
        }
        const name = `.group.${cluster.pools.get(ref.pool)?.id.toString(16)}_${found.id}_${cluster.freshId()}`;
        const at = cluster.now();
        const members = Array.from(found.images, (image) =>
          image.takeSnapshot(cluster.freshSnapshotId(), name, "group", at),
        );
        found.snapshots.set(snapshot, { complete: true, members });
      }),

    groupSnapshotMembers: (ref, group, snapshot) =>
      call(() => {
        const found = enter(cluster, ref, "rbd_group_snap_get_info").groups.get(group)?.snapshots.get(snapshot);
        if (found?.complete !== true) return undefined;
        const named = found.members.filter(({ image }) => cluster.isNamed(image));
        return named.map(({ id, image: { place } }) => ({
          pool: place.pool,
          namespace: place.namespace,
          image: place.name,
          snapshotId: id,
        }));
      }),
  };
};
