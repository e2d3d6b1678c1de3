/**
 * `CephMemory`: the contract of lib/ceph/ceph.ts over a cluster in memory (./cluster.ts), for tests.
 *
 * Not a second truth: tests/contract runs one suite on this and on a real Ceph, and where they differ, this is wrong.
 * Not modelled: refusals for lack of space, slow or lost answers (for those see tests/support/ceph-faults.ts), mirroring but for what
 * the status says, and a trash that was emptied half. What is in the trash of snapshots can't be opened by id.
 */
import type * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { type Ceph, type CephCalls, cephLayer, type CoreCalls, imageLabel } from "../../../lib/ceph/ceph.ts";
import {
  Busy,
  type CephError,
  CephFailed,
  Exists,
  HasSnapshots,
  ImageNotFound,
  InvalidCall,
  ObjectNotFound,
  PoolNotFound,
  Raced,
} from "../../../lib/ceph/errors.ts";
import type { ClusterAccess } from "../../../lib/ceph/rados.ts";
import { admit, askManager, call, enter, open, refuse } from "./call.ts";
import { MEMORY_KEY, MemoryCluster, type MemoryOptions, type Obstacle } from "./cluster.ts";
import { bytesOf } from "./content.ts";
import { groupCalls } from "./groups.ts";
import { bareImage, makeImage, type MemorySnapshot } from "./image.ts";
import { listingCalls } from "./listing.ts";
import { asOmap, only } from "./omap.ts";
import { snapshotCalls } from "./snapshots.ts";

export { type CutShort, MemoryCluster, MEMORY_KEY, type MemoryOptions } from "./cluster.ts";
export type { MemoryImage } from "./image.ts";

/** Reaches a memory cluster made without options. */
export const memoryAccess: ClusterAccess = {
  monitors: ["127.0.0.1:6789"],
  user: "admin",
  key: Redacted.make(MEMORY_KEY),
};

const EINVAL = 22;
const EUCLEAN = 117;

const obstacleTo = (obstacle: Obstacle, about: { readonly op: string; readonly subject: string }): CephError => {
  switch (obstacle) {
    case "moving":
      return new CephFailed({ ...about, errno: EUCLEAN, reason: "its move to the trash was not finished" });
    case "snapshots":
      return new HasSnapshots(about);
    case "watchers":
    case "group":
      return new Busy(about);
  }
};

const parentOf = ({ image, name }: MemorySnapshot, cluster: MemoryCluster) => {
  const { pool, namespace, name: imageName } = image.place;
  const inTrash = !cluster.isNamed(image);
  return { pool, namespace, image: imageName, imageId: image.id, snapshot: name, inTrash };
};

const coreCalls = (cluster: MemoryCluster): CoreCalls => {
  return {
    poolId: (access, pool) =>
      call(() => {
        admit(cluster, access, "rados_pool_lookup");
        const found = cluster.pools.get(pool);
        if (found === undefined) throw refuse(new PoolNotFound({ op: "rados_pool_lookup", subject: pool }));
        return found.id;
      }),

    poolName: (access, id) =>
      call(() => {
        admit(cluster, access, "rados_pool_reverse_lookup");
        for (const [name, pool] of cluster.pools) if (pool.id === id) return name;
        throw refuse(new PoolNotFound({ op: "rados_pool_reverse_lookup", subject: `#${id}` }));
      }),

    omapGet: (ref, object, keys) =>
      call(() => {
        const omap = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2").objects.get(object);
        return omap && only(omap, keys);
      }),

    omapFollow: (ref, object, key, { prefix, tail, keys }) =>
      call(() => {
        const { objects } = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2");
        const value = objects.get(object)?.get(key);
        if (value === undefined) return undefined;
        const omap = objects.get(prefix + value.slice(-tail));
        return { value, found: omap && only(omap, keys) };
      }),

    omapWrite: (ref, object, write) =>
      call(() => {
        const op = "rados_write_op_operate";
        const subject = imageLabel(ref, object);
        const { objects } = enter(cluster, ref, op);
        const before = objects.get(object);
        if (write.object === "exclusive" && before !== undefined) throw refuse(new Exists({ op, subject }));
        if (write.object === "require" && before === undefined) throw refuse(new ObjectNotFound({ op, subject }));
        for (const [key, value] of Object.entries(write.compare ?? {})) {
          if ((before?.get(key) ?? "") !== value) throw refuse(new Raced({ op, subject }));
        }
        const after = asOmap(before ?? new Map());
        for (const [key, value] of Object.entries(write.set ?? {})) after.set(key, value);
        for (const key of write.remove ?? []) after.delete(key);
        objects.set(object, after);
      }),

    objectRemove: (ref, object) => call(() => void enter(cluster, ref, "rados_remove").objects.delete(object)),

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
      }),

    imageId: (ref, image) =>
      call(() => {
        const { images, bareNames } = enter(cluster, ref, "rados_exec");
        return images.get(image)?.id ?? bareNames.get(image);
      }),

    imageStatus: (ref, image) =>
      call(() => {
        const found = open(cluster, ref, image, "rbd_open");
        const { id, sizeBytes, features, objectSize, stripeUnit, stripeCount, dataPool, mirror, createdAt } = found;
        return {
          id,
          sizeBytes,
          features,
          objectSize,
          stripeUnit,
          stripeCount,
          dataPool,
          mirror,
          createdAt,
          watchers: [...found.watchers],
          parent: found.parent && parentOf(found.parent, cluster),
          snapshotCount: found.snapshots.length,
        };
      }),

    imageGrow: (ref, image, sizeBytes) =>
      call(() => {
        const found = open(cluster, ref, image, "rbd_resize");
        if (found.sizeBytes < sizeBytes) found.sizeBytes = sizeBytes;
        return found.sizeBytes;
      }),

    imageMend: (ref, image) =>
      call(() => {
        const { images, bareNames } = enter(cluster, ref, "rbd_open");
        bareNames.delete(image);
        const found = images.get(image);
        if (found?.objectMap === "lost") found.objectMap = "whole";
        return found !== undefined;
      }),

    imageHasData: (ref, image, whose) =>
      call(() => {
        const found = open(cluster, ref, image, "rbd_diff_iterate2");
        return whose === "own" ? bytesOf(found.content) > 0n : found.hasData;
      }),

    imageMetaGet: (ref, image, key) => call(() => open(cluster, ref, image, "rbd_metadata_get").meta.get(key)),

    imageMetaSet: (ref, image, entries) =>
      call(() => {
        const { meta } = open(cluster, ref, image, "rbd_metadata_set");
        for (const [key, value] of Object.entries(entries)) {
          if (value === undefined) meta.delete(key);
          else meta.set(key, value);
        }
      }),

    // watchers are no obstacle to Ceph here, only to the removal
    trashMove: (ref, image) =>
      call(() => {
        const op = "rbd_trash_move";
        const { images, bareNames, trash } = enter(cluster, ref, op);
        const begun = [...trash.values()].find(({ name, moving }) => moving && name === image);
        const bare = bareNames.get(image);
        const found =
          images.get(image) ??
          begun?.image ??
          (bare === undefined ? undefined : bareImage({ ...cluster.birth(ref.pool, ref.namespace, image), id: bare }));
        if (found === undefined) throw refuse(new ImageNotFound({ op, subject: imageLabel(ref, image) }));
        if (found.group !== undefined && !cluster.trashesMembers) {
          throw refuse(new Busy({ op, subject: imageLabel(ref, image) }));
        }
        images.delete(image);
        bareNames.delete(image);
        trash.set(found.id, { name: image, source: "user", moving: false, image: found });
      }),

    trashGet: (ref, id) =>
      call(() => {
        const found = enter(cluster, ref, "rbd_trash_get").trash.get(id);
        return found && { id, name: found.name, source: found.source };
      }),

    trashList: (ref) =>
      call(() => {
        const { trash } = enter(cluster, ref, "rbd_trash_list");
        return [...trash].map(([id, { name, source }]) => ({ id, name, source }));
      }),

    trashRemove: (ref, id) =>
      call(() => {
        const op = "rbd_trash_remove";
        const obstacle = cluster.removeTrashed(enter(cluster, ref, op), id);
        if (obstacle !== undefined) throw refuse(obstacleTo(obstacle, { op, subject: imageLabel(ref, id) }));
      }),

    managerTrashRemove: (ref, id) =>
      call(() => {
        const op = "rbd task add trash remove";
        const subject = imageLabel(ref, id);
        const { trash } = enter(cluster, ref, op);
        askManager(cluster, ref.access.user, op, subject);
        if (!trash.has(id)) throw refuse(new ImageNotFound({ op, subject }));
        cluster.queueTask("trash remove", ref.pool, ref.namespace, id);
      }),
  };
};

/** The calls of one driver on a cluster. */
export const cephMemoryService = (cluster: MemoryCluster): CephCalls => ({
  ...coreCalls(cluster),
  ...snapshotCalls(cluster),
  ...listingCalls(cluster),
  ...groupCalls(cluster),
});

/** A cluster and one driver's calls on it; `cephMemoryService(cluster)` makes those of the driver that comes next. */
export const makeCephMemory = (
  options?: MemoryOptions,
): { readonly service: CephCalls; readonly cluster: MemoryCluster } => {
  const cluster = new MemoryCluster(options);
  return { service: cephMemoryService(cluster), cluster };
};

/** The `Ceph` service over a memory cluster, a new one where none is given. */
export const CephMemory = (cluster: MemoryCluster = new MemoryCluster()): Layer.Layer<Ceph> =>
  cephLayer(cephMemoryService(cluster));
