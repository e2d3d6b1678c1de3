/** What a cluster in memory tells of many at once: pools, their space, keys, images. */
import type { ListingCalls } from "../../../lib/ceph/ceph.ts";
import { PoolNotFound } from "../../../lib/ceph/errors.ts";
import { admit, call, enter, refuse } from "./call.ts";
import type { MemoryCluster } from "./cluster.ts";
import { asOmap, only } from "./omap.ts";

export const listingCalls = (cluster: MemoryCluster): ListingCalls => ({
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
      if (quotaBytes === 0n) return { availableBytes: maxAvailableBytes };
      const left = quotaBytes - cluster.storedBytes(pool);
      return { availableBytes: left < 0n ? 0n : left < maxAvailableBytes ? left : maxAvailableBytes };
    }),

  omapList: (ref, object, { prefix, after, limit }) =>
    call(() => {
      const omap = enter(cluster, ref, "rados_read_op_omap_get_vals2").objects.get(object);
      return omap && asOmap(omap).page(prefix, after, limit);
    }),

  omapGetMany: (ref, wanted) =>
    call(() => {
      const { objects } = enter(cluster, ref, "rados_read_op_omap_get_vals_by_keys2");
      return wanted.map(({ object, keys }) => {
        const omap = objects.get(object);
        return omap && only(omap, keys);
      });
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
});
