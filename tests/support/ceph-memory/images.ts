/**
 * The calls of `Rbd` on images and their trash, on a cluster in memory.
 *
 * Not here: what an image is (./image.ts), snapshots and clones (./snapshots.ts).
 */
import {
  AccessDenied,
  Busy,
  type CephError,
  CephFailed,
  Exists,
  HasSnapshots,
  ImageNotFound,
  InvalidCall,
  PoolNotFound,
  Raced,
} from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import { EROFS, EUCLEAN } from "../../../lib/ceph/live/errno.ts";
import { driversMark, type ImageCalls, type ImageHeader, type TrashEntry } from "../../../lib/ceph/rbd.ts";
import { call, EINVAL, enter, open, refuse } from "./call.ts";
import { type MemoryCluster, type MemoryTrashed, type Obstacle, trashed } from "./cluster.ts";
import { bareImage, makeImage, type MemoryImage, type MemorySnapshot } from "./image.ts";
import { only } from "./omap.ts";

const obstacleTo = (
  obstacle: Obstacle,
  about: { readonly op: string; readonly subject: string },
  user: string,
): CephError => {
  switch (obstacle) {
    case "protected":
      return new AccessDenied({ ...about, user });
    case "moving":
      return new CephFailed({ ...about, errno: EUCLEAN, reason: "its move to the trash was not finished" });
    case "snapshots":
      return new HasSnapshots(about);
    case "watchers":
      return new Busy(about);
    case "group":
      return new Busy({ ...about, inGroup: true });
  }
};

const entryOf = (id: string, { name, source, protectedUntil, byDriver }: MemoryTrashed): TrashEntry => ({
  id,
  name,
  source,
  ...(byDriver && { byDriver }),
  ...(protectedUntil === undefined ? {} : { protectedUntil }),
});

const parentOf = ({ image, name }: MemorySnapshot, cluster: MemoryCluster) => {
  const { pool, namespace, name: imageName } = image.place;
  const inTrash = !cluster.isNamed(image);
  return { pool, namespace, image: imageName, imageId: image.id, snapshot: name, inTrash };
};

const headerOf = (found: MemoryImage, cluster: MemoryCluster, metadata: readonly string[]): ImageHeader => {
  const { id, sizeBytes, features, objectSize, stripeUnit, stripeCount, dataPool, createdAt } = found;
  return {
    id,
    sizeBytes,
    features,
    objectSize,
    stripeUnit,
    stripeCount,
    dataPool,
    createdAt,
    parent: found.parent && parentOf(found.parent, cluster),
    snapshotCount: found.snapshots.length,
    metadata: only(found.meta, metadata),
  };
};

export const imageCalls = (cluster: MemoryCluster): ImageCalls => ({
  imageCreate: (ref, image, spec) =>
    call(() => {
      const op = "rbd_create4";
      const subject = imageLabel(ref, image);
      const { images, bareNames } = enter(cluster, ref, op);
      if (spec.dataPool !== undefined && !cluster.pools.has(spec.dataPool)) {
        throw refuse(new PoolNotFound({ op, subject: spec.dataPool }));
      }
      const made = makeImage(cluster.birth(ref.pool, ref.namespace, image), spec, cluster.defaultFeatures);
      if (made === undefined) throw refuse(new InvalidCall({ op, subject, errno: EINVAL }));
      if (images.has(image) || bareNames.has(image)) throw refuse(new Exists({ op, subject }));
      images.set(image, made);
      return made.id;
    }),

  imageId: (ref, image) =>
    call(() => {
      const { images, bareNames } = enter(cluster, ref, "rados_exec");
      return images.get(image)?.id ?? bareNames.get(image);
    }),

  imageHeader: (ref, image, metadata = []) =>
    call(() => headerOf(open(cluster, ref, image, "rbd_open"), cluster, metadata)),

  imageStatus: (ref, image, metadata = []) =>
    call(() => {
      const found = open(cluster, ref, image, "rbd_open");
      return {
        ...headerOf(found, cluster, metadata),
        mirror: found.mirror,
        ...(found.mirror === "non-primary" && found.mirrorReplays && { mirrorReplays: true as const }),
        watchers: [...found.watchers],
        locks: [...found.locks],
        ...(found.writer !== undefined && { writer: found.writer }),
        namedSnapshots: found.snapshots.filter(({ kind }) => kind === "user").map(({ name }) => name),
        groupSnapshotCount: found.snapshots.filter(({ kind }) => kind === "group").length,
      };
    }),

  imageGrow: (ref, image, sizeBytes, metadata = []) =>
    call(() => {
      const found = open(cluster, ref, image, "rbd_resize");
      if (found.sizeBytes < sizeBytes && found.isLocked()) {
        const subject = imageLabel(ref, image);
        throw refuse(new CephFailed({ op: "rbd_resize", subject, errno: EROFS, reason: "it is locked" }));
      }
      if (found.sizeBytes < sizeBytes) found.sizeBytes = sizeBytes;
      return { sizeBytes: found.sizeBytes, metadata: only(found.meta, metadata) };
    }),

  imageMend: (ref, image) =>
    call(() => {
      const { images, bareNames } = enter(cluster, ref, "rbd_open");
      bareNames.delete(image);
      const found = images.get(image);
      if (found?.objectMap === "lost") found.objectMap = "whole";
      return found !== undefined;
    }),

  imageHasData: (ref, image, whose, from = 0n) =>
    call(() => {
      const found = open(cluster, ref, image, "rbd_diff_iterate2");
      return (whose === "own" ? found.content : found.holds()).some(({ end, stamp }) => end > from && stamp !== "");
    }),

  imageLost: (ref, image) =>
    call(() => {
      const found = enter(cluster, ref, "rados_read_op_operate").images.get(image);
      if (found === undefined || !found.lostParent || found.snapshots.length > 0) return undefined;
      const { id, sizeBytes, objectSize, content, group, mirror, locks, watchers } = found;
      if (group !== undefined || mirror !== "disabled" || locks.length + watchers.size > 0) return undefined;
      return { id, sizeBytes, objectSize, hasData: content.length > 0 };
    }),

  imageSparsify: (ref, image) => call(() => open(cluster, ref, image, "rbd_sparsify").sparsify()),

  imageMetaSet: (ref, image, entries, compare = {}) =>
    call(() => {
      const found = open(cluster, ref, image, "rbd_metadata_set");
      const { meta } = found;
      const isOther = Object.entries(compare).some(([key, value]) => (meta.get(key) ?? "") !== value);
      if (isOther) throw refuse(new Raced({ op: "rados_write_op_operate", subject: imageLabel(ref, image) }));
      const isSetting = ([key, value]: readonly [string, string | undefined]) =>
        key.startsWith("conf_") && (value !== undefined || meta.has(key));
      if (Object.entries(entries).some(isSetting)) found.notices += 1;
      for (const [key, value] of Object.entries(entries)) {
        if (value === undefined) meta.delete(key);
        else meta.set(key, value);
      }
    }),

  imageMetaList: (ref, image, prefix) =>
    call(() => {
      const { meta } = open(cluster, ref, image, "rbd_open");
      return new Map([...meta].filter(([key]) => key.startsWith(prefix)));
    }),

  imageBriefs: (ref, names, metadata) =>
    call(() => {
      const { images } = enter(cluster, ref, "rados_exec");
      return names.map((name) => {
        const image = images.get(name);
        if (image === undefined) return undefined;
        const { id, sizeBytes, createdAt, meta } = image;
        return { id, sizeBytes, createdAt, metadata: only(meta, metadata) };
      });
    }),

  imageUnlock: (ref, image, { id, client }) =>
    call(() => {
      const found = open(cluster, ref, image, "rbd_open");
      found.locks = found.locks.filter((lock) => lock.id !== id || lock.client !== client);
    }),

  // watchers are no obstacle to Ceph here, only to the removal
  trashMove: (ref, image, keepSeconds = 0, only, onlyBegun = false) =>
    call(() => {
      const op = "rbd_trash_move";
      const { images, bareNames, trash } = enter(cluster, ref, op);
      const begun = [...trash.values()].find(({ name, moving }) => moving && name === image);
      const bare = bareNames.get(image);
      const found =
        images.get(image) ??
        begun?.image ??
        (bare === undefined ? undefined : bareImage({ ...cluster.birth(ref.pool, ref.namespace, image), id: bare }));
      if (found === undefined || (only !== undefined && found.id !== only))
        throw refuse(new ImageNotFound({ op, subject: imageLabel(ref, image) }));
      if (onlyBegun && !trash.has(found.id)) throw refuse(new Raced({ op, subject: imageLabel(ref, image) }));
      if (found.group !== undefined && !cluster.trashesMembers) {
        throw refuse(new Busy({ op, subject: imageLabel(ref, image), inGroup: true }));
      }
      images.delete(image);
      bareNames.delete(image);
      const byDriver = driversMark(keepSeconds);
      const until = keepSeconds > 0 ? { protectedUntil: cluster.now() + keepSeconds * 1000 } : {};
      const protection = byDriver === undefined ? until : { byDriver };
      if (begun?.image === found) {
        begun.moving = false;
        return begun.byDriver;
      }
      trash.set(found.id, { name: image, source: "user", moving: false, image: found, ...protection });
      return byDriver;
    }),

  trashGet: (ref, id) =>
    call(() => {
      const found = enter(cluster, ref, "rbd_trash_get").trash.get(id);
      return found && entryOf(id, found);
    }),

  trashList: (ref) =>
    call(() => {
      const { trash } = enter(cluster, ref, "rbd_trash_list");
      return Array.from(trash, ([id, entry]) => entryOf(id, entry));
    }),

  trashRemove: (ref, id, onlyMarked = false) =>
    call(() => {
      const op = "rbd_trash_remove";
      const content = enter(cluster, ref, op);
      if (onlyMarked && trashed(content.trash, id, onlyMarked) === undefined) return;
      const obstacle = cluster.removeTrashed(content, id);
      if (obstacle !== undefined)
        throw refuse(obstacleTo(obstacle, { op, subject: imageLabel(ref, id) }, ref.access.user));
    }),

  imagesStillThere: (ref, ids) =>
    call(() => {
      const { images, trash } = enter(cluster, ref, "rados_omap_get");
      const there = new Set([...trash.keys(), ...Array.from(images.values(), ({ id }) => id)]);
      return ids.filter((id) => there.has(id));
    }),
});
