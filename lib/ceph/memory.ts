/**
 * `CephMemory`: the contract of ./ceph.ts over a cluster in memory (./memory-cluster.ts), for tests.
 *
 * Not a second truth: tests/contract runs one suite on this and on a real Ceph, and where they differ, this is wrong.
 * Not modelled: snapshots, clones, quotas, slow or lost answers (for those see ./faults.ts).
 *
 * 1. Each call yields before it acts and after it: fibers interleave as they do around real calls.
 * 2. The act itself is one synchronous step: it happens entirely or not at all, also when the caller is interrupted.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { Ceph, imageSubject, type CephService, type ClusterAccess, type PoolRef } from "./ceph.ts";
import {
  AccessDenied,
  Busy,
  CephFailed,
  type CephError,
  Exists,
  ImageNotFound,
  InvalidCall,
  ManagerUnavailable,
  ObjectNotFound,
  PoolNotFound,
  Raced,
  Unreachable,
} from "./errors.ts";
import { MEMORY_KEY, MemoryCluster, type MemoryNamespace, type MemoryOptions } from "./memory-cluster.ts";
import { bareImage, makeImage, type MemoryImage } from "./memory-image.ts";

export { type CutShort, MemoryCluster, MEMORY_KEY, type MemoryOptions } from "./memory-cluster.ts";
export type { MemoryImage } from "./memory-image.ts";

/** Reaches a memory cluster made without options. */
export const memoryAccess: ClusterAccess = {
  monitors: ["127.0.0.1:6789"],
  user: "admin",
  key: Redacted.make(MEMORY_KEY),
};

const EINVAL = 22;
const EUCLEAN = 117;

/** Carries a typed error out of a synchronous act; anything else that is thrown there is a bug, and a defect. */
class Refused {
  constructor(readonly error: CephError) {}
}
const refuse = (error: CephError): Refused => new Refused(error);

const once = <A>(act: () => A): Effect.Effect<A, CephError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(act());
    } catch (thrown) {
      if (thrown instanceof Refused) return Effect.fail(thrown.error);
      throw thrown;
    }
  });

const call = <A>(act: () => A): Effect.Effect<A, CephError> =>
  Effect.yieldNow.pipe(
    Effect.andThen(once(act)),
    Effect.tap(() => Effect.yieldNow),
  );

const admit = (cluster: MemoryCluster, access: ClusterAccess, op: string): void => {
  const subject = access.monitors.join(",");
  const known = cluster.monitors === undefined || access.monitors.some((at) => cluster.monitors?.includes(at));
  if (!cluster.reachable || !known) throw refuse(new Unreachable({ op, subject, reason: "connection timed out" }));
  if (cluster.users.get(access.user)?.key !== Redacted.value(access.key)) {
    throw refuse(new AccessDenied({ op: "rados_connect", subject, user: access.user }));
  }
};

const enter = (cluster: MemoryCluster, ref: PoolRef, op: string): MemoryNamespace => {
  admit(cluster, ref.access, op);
  const namespace = cluster.namespace(ref.pool, ref.namespace);
  if (namespace === undefined) throw refuse(new PoolNotFound({ op, subject: ref.pool }));
  const caps = cluster.users.get(ref.access.user)?.pools;
  if (caps !== undefined && !caps.includes(ref.pool)) {
    throw refuse(new AccessDenied({ op, subject: ref.pool, user: ref.access.user }));
  }
  return namespace;
};

/** The calls of one driver on a cluster. */
export const cephMemoryService = (cluster: MemoryCluster): CephService => {
  const open = (ref: PoolRef, image: string, op: string): MemoryImage => {
    const found = enter(cluster, ref, op).images.get(image);
    if (found === undefined) throw refuse(new ImageNotFound({ op, subject: imageSubject(ref, image) }));
    return found;
  };

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
        return omap && new Map([...omap].filter(([key]) => keys.includes(key)));
      }),

    omapWrite: (ref, object, write) =>
      call(() => {
        const op = "rados_write_op_operate";
        const subject = imageSubject(ref, object);
        const { objects } = enter(cluster, ref, op);
        const before = objects.get(object);
        if (write.object === "exclusive" && before !== undefined) throw refuse(new Exists({ op, subject }));
        if (write.object === "require" && before === undefined) throw refuse(new ObjectNotFound({ op, subject }));
        for (const [key, value] of Object.entries(write.compare ?? {})) {
          if ((before?.get(key) ?? "") !== value) throw refuse(new Raced({ op, subject }));
        }
        const after = new Map([...(before ?? []), ...Object.entries(write.set ?? {})]);
        for (const key of write.remove ?? []) after.delete(key);
        objects.set(object, after);
      }),

    objectRemove: (ref, object) => call(() => void enter(cluster, ref, "rados_remove").objects.delete(object)),

    imageCreate: (ref, image, spec) =>
      call(() => {
        const op = "rbd_create4";
        const subject = imageSubject(ref, image);
        const { images, bareNames } = enter(cluster, ref, op);
        if (spec.dataPool !== undefined && !cluster.pools.has(spec.dataPool)) {
          throw refuse(new PoolNotFound({ op, subject: spec.dataPool }));
        }
        const made = makeImage(cluster.freshImageId(), spec, cluster.defaultFeatures);
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
        const { meta: _meta, hasData: _hasData, objectMap: _map, watchers, ...status } = open(ref, image, "rbd_open");
        return { ...status, watchers: [...watchers] };
      }),

    imageGrow: (ref, image, sizeBytes) =>
      call(() => {
        const found = open(ref, image, "rbd_resize");
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

    imageHasData: (ref, image) => call(() => open(ref, image, "rbd_diff_iterate2").hasData),

    imageMetaGet: (ref, image, key) => call(() => open(ref, image, "rbd_metadata_get").meta.get(key)),

    imageMetaSet: (ref, image, entries) =>
      call(() => {
        const { meta } = open(ref, image, "rbd_metadata_set");
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
        const found = images.get(image) ?? begun?.image ?? bareImage(bareNames.get(image));
        if (found === undefined) throw refuse(new ImageNotFound({ op, subject: imageSubject(ref, image) }));
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
        const subject = imageSubject(ref, id);
        const { trash } = enter(cluster, ref, op);
        const found = trash.get(id);
        if (found?.moving === true) {
          throw refuse(
            new CephFailed({ op, subject, errno: EUCLEAN, reason: "its move to the trash was not finished" }),
          );
        }
        if ((found?.image.watchers.size ?? 0) > 0) throw refuse(new Busy({ op, subject }));
        trash.delete(id);
      }),

    managerTrashRemove: (ref, id) =>
      call(() => {
        const op = "rbd task add trash remove";
        const subject = imageSubject(ref, id);
        const { trash } = enter(cluster, ref, op);
        if (!cluster.managerUp) throw refuse(new ManagerUnavailable({ op, subject, reason: "no manager answers" }));
        if (cluster.users.get(ref.access.user)?.manager !== true) {
          throw refuse(new ManagerUnavailable({ op, subject, reason: `client.${ref.access.user} has no mgr caps` }));
        }
        if (!trash.has(id)) throw refuse(new ImageNotFound({ op, subject }));
        cluster.queueTrashRemove(ref.pool, ref.namespace, id);
      }),
  };
};

/** A cluster and one driver's calls on it; `cephMemoryService(cluster)` makes those of the driver that comes next. */
export const makeCephMemory = (
  options?: MemoryOptions,
): { readonly service: CephService; readonly cluster: MemoryCluster } => {
  const cluster = new MemoryCluster(options);
  return { service: cephMemoryService(cluster), cluster };
};

/** The `Ceph` service over a memory cluster, a new one where none is given. */
export const CephMemory = (cluster: MemoryCluster = new MemoryCluster()): Layer.Layer<Ceph> =>
  Layer.succeed(Ceph, cephMemoryService(cluster));
