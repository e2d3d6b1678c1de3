/**
 * The methods of `Rbd` on images and their trash, each one call in a cell.
 *
 * Not here: snapshots and clones (./snapshots.ts), the calls themselves (lib/ceph/cell/rbd.ts, status.ts, header-status.ts,
 * trash.ts).
 */
import * as Duration from "effect/Duration";
import { imageLabel, poolLabel } from "../label.ts";
import type { ImageCalls } from "../rbd.ts";
import type { Calls } from "./call.ts";

/** A rebuild of the object map looks at the objects one by one. */
const REBUILD_LIMIT = Duration.minutes(10);

type Limits = Readonly<Record<"trashRemoveLimit" | "sparsifyLimit" | "flattenLimit", Duration.Duration>>;

export const imageCalls = (
  { call, change }: Calls,
  { trashRemoveLimit, sparsifyLimit, flattenLimit }: Limits,
): ImageCalls => ({
  imageCreate: change("imageCreate", ["image", "spec"], (_pool, _image, { dataPool }) => ({ dataPool })),
  imageId: call("imageId", ["image"]),
  imageHeader: call("imageHeader", ["image", "metadata"]),
  imageStatus: call("imageStatus", ["image", "metadata"]),
  imageGrow: change("imageGrow", ["image", "sizeBytes", "metadata"]),
  imageMend: change("imageMend", ["image"], { limit: REBUILD_LIMIT }),
  // quick where the image has a map of its objects; else it looks at each, some seconds for a TiB
  imageHasData: call("imageHasData", ["image", "whose", "from"], { limit: flattenLimit }),
  imageLost: call("imageLost", ["image"], { limit: flattenLimit }),
  imageSparsify: change("imageSparsify", ["image"], { limit: sparsifyLimit, pace: "slow" }),
  imageMetaSet: change("imageMetaSet", ["image", "entries", "compare"]),
  imageMetaList: call("imageMetaList", ["image", "prefix"], (pool, image, prefix) => ({
    key: `imageMetaList ${imageLabel(pool, image)} ${prefix}`,
  })),
  // has no key: it only reads, and two of these calls are seldom for the same images
  imageBriefs: call("imageBriefs", ["images", "metadata"], (pool, images) => ({
    subject: `${images.length} images in ${poolLabel(pool)}`,
    key: undefined,
  })),
  imageUnlock: change("imageUnlock", ["image", "lock"]),

  trashMove: change("trashMove", ["image", "keepSeconds", "id", "onlyBegun"]),
  trashGet: call("trashGet", ["id"]),
  trashList: call("trashList", [], (pool) => ({ subject: `the trash of ${poolLabel(pool)}` })),
  trashRemove: change("trashRemove", ["id", "onlyMarked"], { limit: trashRemoveLimit, pace: "slow" }),
  imagesStillThere: change("imagesStillThere", ["ids"], (pool, ids) => ({
    subject: `${ids.length} removed images in ${poolLabel(pool)}`,
    key: undefined,
  })),
});
