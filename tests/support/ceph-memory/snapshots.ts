/**
 * Snapshots, clones and what they differ in, on a cluster in memory.
 *
 * Not here: the ties between images and snapshots (./image.ts).
 */
import * as Effect from "effect/Effect";
import {
  Busy,
  Exists,
  ImageNotFound,
  ImageSnapshotNotFound,
  InvalidCall,
  ParentLost,
  PoolNotFound,
} from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import type { SnapshotCalls } from "../../../lib/ceph/rbd.ts";
import { call, EINVAL, enter, open, refuse } from "./call.ts";
import { type MemoryCluster, trashed } from "./cluster.ts";
import { difference } from "./content.ts";
import { makeClone, type MemoryImage, type MemorySnapshot } from "./image.ts";

export const snapshotCalls = (cluster: MemoryCluster): SnapshotCalls => {
  /** `trashed`: by id, also one in the snapshots' trash, which can be read but not cloned. */
  const at = (
    ref: PoolRef,
    image: MemoryImage,
    snapshot: string | bigint,
    op: string,
    trashed = false,
  ): MemorySnapshot => {
    const found =
      typeof snapshot === "string"
        ? image.snapshotNamed(snapshot)
        : image.snapshots.find(({ id, kind }) => id === snapshot && (trashed || kind !== "trash"));
    if (found !== undefined) return found;
    throw refuse(new ImageSnapshotNotFound({ op, subject: `${imageLabel(ref, image.place.name)}@${snapshot}` }));
  };

  return {
    snapshotCreate: (ref, image, snapshot) =>
      Effect.suspend(() => {
        // librbd looks first; when it then hears from who holds the image's lock that there is one, it takes it for its own
        const wasFree = !cluster.hasSnapshot(ref.pool, image, snapshot, ref.namespace);
        return call(() => {
          const op = "rbd_snap_create";
          const found = open(cluster, ref, image, op);
          if (found.snapshotNamed(snapshot) === undefined) {
            found.takeSnapshot(cluster.freshSnapshotId(), snapshot, "user", cluster.now());
          } else if (!wasFree) throw refuse(new Exists({ op, subject: `${imageLabel(ref, image)}@${snapshot}` }));
        });
      }),

    snapshotRemove: (ref, image, snapshot) =>
      call(() => {
        const found = open(cluster, ref, image, "rbd_snap_remove");
        const there = found.snapshotNamed(snapshot);
        if (there !== undefined) found.dropSnapshot(there);
      }),

    snapshotKeep: (ref, image, snapshot) =>
      call(() => {
        const found = enter(cluster, ref, "rados_exec").images.get(image);
        const there = found?.snapshotNamed(snapshot);
        if (found === undefined || there === undefined || there.children.size === 0) return false;
        found.dropSnapshot(there);
        return true;
      }),

    trashSnapshotRemove: (ref, id, snapshot, onlyMarked) =>
      call(() => {
        const op = "rbd_open";
        const subject = imageLabel(ref, id);
        const entry = trashed(enter(cluster, ref, op).trash, id, onlyMarked);
        if (entry === undefined) throw refuse(new ImageNotFound({ op, subject }));
        const { image, moving } = entry;
        if (image.lostParent) throw refuse(new ParentLost({ op, subject }));
        if (moving || image.watchers.size > 0) throw refuse(new Busy({ op: "rbd_snap_remove", subject }));
        const there = image.snapshotNamed(snapshot);
        if (there !== undefined) image.dropSnapshot(there);
      }),

    trashSnapshots: (ref, id, onlyMarked) =>
      call(() => {
        const op = "rbd_open";
        const entry = trashed(enter(cluster, ref, op).trash, id, onlyMarked);
        if (entry?.image.lostParent) throw refuse(new ParentLost({ op, subject: imageLabel(ref, id) }));
        return entry?.image.snapshots.map(({ name, kind }) => ({ name, kind }));
      }),

    snapshotChildren: (ref, image, snapshot) =>
      call(() => {
        const found = open(cluster, ref, image, "rbd_list_children");
        const there = found.snapshots.find(({ name }) => name === snapshot);
        return [...(there ?? at(ref, found, snapshot, "rbd_snap_set")).children].map(({ id }) => id);
      }),

    snapshots: (ref, image) =>
      call(() =>
        open(cluster, ref, image, "rbd_snap_list").snapshots.map(
          ({ id, name, sizeBytes, createdAt, kind, originalName }) => ({
            id,
            name,
            sizeBytes,
            createdAt,
            kind,
            originalName,
          }),
        ),
      ),

    imageClone: (source, ref, image, spec) =>
      call(() => {
        const op = "rbd_clone";
        const subject = imageLabel(ref, image);
        const { images, bareNames } = enter(cluster, ref, op);
        const from = enter(cluster, source.pool, op).images.get(source.image);
        if (from === undefined) {
          const missing = `${imageLabel(source.pool, source.image)}@${source.snapshot}`;
          throw refuse(new ImageSnapshotNotFound({ op, subject: missing }));
        }
        if (from.lostParent) {
          throw refuse(new ParentLost({ op, subject: `${imageLabel(source.pool, source.image)}@${source.snapshot}` }));
        }
        const parent = at(source.pool, from, source.snapshot, op);
        if (spec.dataPool !== undefined && !cluster.pools.has(spec.dataPool)) {
          throw refuse(new PoolNotFound({ op, subject: spec.dataPool }));
        }
        if (images.has(image) || bareNames.has(image)) throw refuse(new Exists({ op, subject }));
        const made = makeClone(cluster.birth(ref.pool, ref.namespace, image), spec, parent);
        if (made === undefined) throw refuse(new InvalidCall({ op, subject, errno: EINVAL }));
        images.set(image, made);
      }),

    cloneDepth: (ref, image) =>
      call(() => {
        const op = "rados_exec";
        const found = enter(cluster, ref, op).images.get(image);
        if (found === undefined) throw refuse(new ImageNotFound({ op, subject: imageLabel(ref, image) }));
        let depth = 0;
        let { parent } = found;
        for (; parent !== undefined; parent = parent.image.parent) depth += 1;
        return depth;
      }),

    imageFlatten: (ref, image) => call(() => open(cluster, ref, image, "rbd_flatten").flatten()),

    diff: (source, from, offset, limit) =>
      call(() => {
        const op = "rbd_diff_iterate2";
        const image = open(cluster, source.pool, source.image, op);
        const before = from === undefined ? undefined : at(source.pool, image, from, op, true);
        const to = at(source.pool, image, source.snapshot, op, true);
        const subject = `${imageLabel(source.pool, source.image)}@${source.snapshot}`;
        if (before !== undefined && before.id > to.id) throw refuse(new InvalidCall({ op, subject, errno: EINVAL }));
        const rough = before !== undefined && before.kind !== "user" && !cluster.diffsFromIds;
        const held = before?.holds() ?? [];
        const others = rough ? held.map((range) => ({ ...range, stamp: `${range.stamp} too` })) : held;
        const extents = difference(others, to.holds(), offset);
        return { extents: extents.slice(0, limit), sizeBytes: to.sizeBytes };
      }),
  };
};
