/**
 * The methods of `Ceph` that list pools, objects and images, each one call in a cell (lib/ceph/cell/cell.ts).
 *
 * Not here: which of them are a driver's.
 */
import { type Asking, clusterAsk, wholePool } from "./call.ts";
import { imageLabel, type ListingCalls } from "../ceph.ts";

export const listingCalls = ({ ask, inPool, monitorLimit }: Asking): ListingCalls => ({
  pools: (access) => ask(access, "pools", (cluster) => ({ cluster }), clusterAsk(access, "", "pools", monitorLimit)),
  poolSpace: (access, pool) =>
    ask(
      access,
      "poolSpace",
      (cluster) => ({ cluster, pool }),
      clusterAsk(access, pool, `poolSpace ${pool}`, monitorLimit),
    ),
  omapList: (ref, object, page) =>
    inPool(ref, "omapList", object, (where) => ({ ...where, object, page }), {
      key: `omapList ${imageLabel(ref, object)} ${page.prefix} ${page.after}`,
    }),
  // without a key of their own: they only read, and two of them are seldom for the same objects
  omapGetMany: (ref, wanted) =>
    inPool(ref, "omapGetMany", "", (where) => ({ ...where, wanted }), {
      subject: `${wanted.length} objects in ${wholePool(ref)}`,
      key: undefined,
    }),
  imageBriefs: (ref, images, metadata) =>
    inPool(ref, "imageBriefs", "", (where) => ({ ...where, images, metadata }), {
      subject: `${images.length} images in ${wholePool(ref)}`,
      key: undefined,
    }),
});
