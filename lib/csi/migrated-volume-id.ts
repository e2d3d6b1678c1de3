/**
 * The handle of a volume that the in-tree plugin made and Kubernetes migrated to CSI, as a pure codec:
 *
 *   mig_mons-<clusterID>_image-<uuid>_<pool in hex>
 *
 * The cluster's ID is the MD5 of the in-tree volume's monitor list, and has to be in config.json under that name.
 *
 * 1. No text makes a function here throw.
 */
import * as Result from "effect/Result";

export interface MigratedId {
  readonly clusterId: string;
  readonly pool: string;
  readonly imageName: string;
}

/** In-tree images are named so; the handle holds what follows. */
const IMAGE_PREFIX = "kubernetes-dynamic-pvc-";

export const parseMigratedId = (text: string): Result.Result<MigratedId, string> => {
  const [prefix, mons, image, ...pool] = text.split("_");
  if (prefix !== "mig" || mons === undefined || image === undefined || pool.length === 0) {
    return Result.fail("it does not have the form mig_mons-CLUSTER_image-UUID_POOL");
  }
  const hex = pool.join("_");
  if (!mons.startsWith("mons-") || !image.startsWith("image-")) {
    return Result.fail('its parts do not begin with "mons-" and "image-"');
  }
  const poolName = /^([0-9a-f]{2})+$/i.test(hex) ? Buffer.from(hex, "hex").toString("utf8") : "";
  if (poolName === "") return Result.fail("its pool is not in hex");
  const clusterId = mons.slice("mons-".length);
  const uuid = image.slice("image-".length);
  if (clusterId === "" || uuid === "" || /[/@]/.test(uuid))
    return Result.fail("its cluster or image is empty, or its image is not a name");
  return Result.succeed({ clusterId, pool: poolName, imageName: IMAGE_PREFIX + uuid });
};
