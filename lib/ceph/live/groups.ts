/**
 * The methods of `Ceph` on groups of images, each one call in a cell (lib/ceph/cell/cell.ts).
 *
 * Not here: what is done with the snapshot of each member (./snapshots.ts).
 *
 * 1. While a call that changes a group hangs, no other that does is made. It does not keep calls off the members: it
 *    changes no more of them than that they belong to it, or have one more snapshot.
 */
import { type GroupCalls, imageLabel } from "../ceph.ts";
import type { PoolRef } from "../rados.ts";
import type { Asking, More } from "./call.ts";

export const groupCalls = ({ inPool }: Asking): GroupCalls => {
  const about = (ref: PoolRef, group: string, more: More = {}): More => ({
    key: `group ${imageLabel(ref, group)}`,
    changes: true,
    ...more,
  });
  const ofSnapshot = (ref: PoolRef, group: string, snapshot: string): More =>
    about(ref, group, { subject: `${imageLabel(ref, group)}@${snapshot}`, pace: "slow" });
  const member = ({ pool, image }: { readonly pool: PoolRef; readonly image: string }) => ({
    pool: pool.pool,
    namespace: pool.namespace,
    image,
  });

  return {
    groupCreate: (ref, group) => inPool(ref, "groupCreate", group, (where) => ({ ...where, group }), about(ref, group)),
    // removes its snapshots first
    groupRemove: (ref, group) =>
      inPool(ref, "groupRemove", group, (where) => ({ ...where, group }), about(ref, group, { pace: "slow" })),
    groupImages: (ref, group) => inPool(ref, "groupImages", group, (where) => ({ ...where, group })),
    groupAdd: (ref, group, image) =>
      inPool(ref, "groupAdd", group, (where) => ({ ...where, group, member: member(image) }), {
        ...about(ref, group),
        member: imageLabel(image.pool, image.image),
        memberPool: image.pool.pool,
      }),
    groupDrop: (ref, group, image) =>
      inPool(ref, "groupDrop", group, (where) => ({ ...where, group, member: member(image) }), {
        ...about(ref, group),
        member: imageLabel(image.pool, image.image),
        memberPool: image.pool.pool,
      }),
    groupSnapshotCreate: (ref, group, snapshot) =>
      inPool(
        ref,
        "groupSnapshotCreate",
        group,
        (where) => ({ ...where, group, snapshot }),
        ofSnapshot(ref, group, snapshot),
      ),
    groupSnapshotRemove: (ref, group, snapshot) =>
      inPool(
        ref,
        "groupSnapshotRemove",
        group,
        (where) => ({ ...where, group, snapshot }),
        ofSnapshot(ref, group, snapshot),
      ),
    groupSnapshots: (ref, group) => inPool(ref, "groupSnapshots", group, (where) => ({ ...where, group })),
    groupSnapshotMembers: (ref, group, snapshot) =>
      inPool(ref, "groupSnapshotMembers", group, (where) => ({ ...where, group, snapshot }), {
        subject: `${imageLabel(ref, group)}@${snapshot}`,
      }),
  };
};
