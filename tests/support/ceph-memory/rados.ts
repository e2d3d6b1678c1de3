/**
 * The calls of `Rados` on a cluster in memory.
 *
 * Not here: images (./images.ts) and the order of keys (./omap.ts).
 */
import { Busy, Exists, ObjectNotFound, PoolNotFound, PoolUnfit, Raced } from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import type { RadosCalls } from "../../../lib/ceph/rados.ts";
import { admit, call, enter, refuse } from "./call.ts";
import type { MemoryCluster } from "./cluster.ts";
import { asOmap, only } from "./omap.ts";

/** `client`: whose locks those are that the calls take. */
export const radosCalls = (cluster: MemoryCluster, client: object = {}): RadosCalls => ({
  poolId: (access, pool, use) =>
    call(() => {
      const op = "rados_pool_lookup";
      admit(cluster, access, op);
      const found = cluster.pools.get(pool);
      if (found === undefined) throw refuse(new PoolNotFound({ op, subject: pool }));
      if (use === undefined) return found.id;
      const { dataPool } = use;
      const data = dataPool === undefined ? found : cluster.pools.get(dataPool);
      if (data === undefined) throw refuse(new PoolNotFound({ op, subject: dataPool ?? pool, parameter: "dataPool" }));
      if (found.coded !== undefined) throw refuse(new PoolUnfit({ op, subject: pool, why: "erasure-coded" }));
      if (data.coded?.overwrites === false) {
        throw refuse(new PoolUnfit({ op, subject: dataPool ?? pool, why: "no overwrites" }));
      }
      return found.id;
    }),

  poolName: (access, id) =>
    call(() => {
      admit(cluster, access, "rados_pool_reverse_lookup");
      for (const [name, pool] of cluster.pools) if (pool.id === id) return name;
      throw refuse(new PoolNotFound({ op: "rados_pool_reverse_lookup", subject: `#${id}` }));
    }),

  pools: (access) =>
    call(() => {
      admit(cluster, access, "rados_pool_list");
      return Array.from(cluster.pools, ([name, { id }]) => ({ id, name }));
    }),

  poolSpace: (access, pool) =>
    call(() => {
      const op = "df";
      admit(cluster, access, op);
      const found = cluster.pools.get(pool);
      if (found === undefined) throw refuse(new PoolNotFound({ op, subject: pool }));
      const { quotaBytes, maxAvailableBytes } = found;
      if (maxAvailableBytes === undefined) return { availableBytes: undefined };
      if (quotaBytes === 0n) return { availableBytes: maxAvailableBytes };
      const left = quotaBytes - cluster.storedBytes(pool);
      return { availableBytes: left < 0n ? 0n : left < maxAvailableBytes ? left : maxAvailableBytes };
    }),

  omapGet: (ref, object, keys) =>
    call(() => {
      const omap = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2").objects.get(object);
      return omap && only(omap, keys);
    }),

  omapFollow: (ref, first, key, { prefix, tail, keys }, parts = []) =>
    call(() => {
      const { objects } = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2");
      const object = [first, ...parts].find((name) => objects.get(name)?.has(key));
      const value = object && objects.get(object)?.get(key);
      if (object === undefined || value === undefined) return undefined;
      const omap = objects.get(prefix + value.slice(-tail));
      return { object, value, found: omap && only(omap, keys) };
    }),

  omapList: (ref, object, { prefix, after, limit }, parts = []) =>
    call(() => {
      const { objects } = enter(cluster, ref, "rados_read_op_omap_get_vals2");
      const omaps = [object, ...parts].map((name) => objects.get(name)).filter((omap) => omap !== undefined);
      const [first, ...others] = omaps;
      if (first === undefined) return undefined;
      const whole = others.length === 0 ? first : new Map(omaps.toReversed().flatMap((omap) => [...omap]));
      return asOmap(whole).page(prefix, after, limit);
    }),

  omapGetMany: (ref, wanted) =>
    call(() => {
      const { objects } = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2");
      return wanted.map(({ object, keys }) => {
        const omap = objects.get(object);
        return omap && only(omap, keys);
      });
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

  objectLock: (ref, object, { name, cookie, seconds }) =>
    call(() => {
      const op = "rados_lock_exclusive";
      const subject = imageLabel(ref, object);
      const { objects } = enter(cluster, ref, op);
      const held = cluster.objectLocks.get(subject);
      const isOurs = held?.client === client && held.cookie === cookie;
      if (held !== undefined && held.until > cluster.now() && held.name === name && !isOurs) {
        throw refuse(new Busy({ op, subject }));
      }
      if (!objects.has(object)) objects.set(object, new Map());
      cluster.objectLocks.set(subject, { name, cookie, client, until: cluster.now() + seconds * 1000 });
    }),

  objectRemove: (ref, object) =>
    call(() => {
      enter(cluster, ref, "rados_remove").objects.delete(object);
      cluster.objectLocks.delete(imageLabel(ref, object));
    }),
});
