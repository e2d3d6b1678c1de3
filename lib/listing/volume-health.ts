/**
 * What is wrong with a volume as the cluster has it: CSI 1.13's VolumeHealth, and 1.12's VolumeCondition, which has its
 * words only.
 *
 * Not here: the health of a volume on its node (lib/node).
 *
 * 1. "Data loss" is said only where nothing is left that the data could come back from.
 */
import * as Effect from "effect/Effect";
import type { CephError, ParentLost } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import type { ImageStatus, TrashEntry } from "../ceph/rbd.ts";
import type { Fault } from "../csi/volume-health.ts";

/** The fault of a volume that the journal knows as complete, but that has no image. */
export const imageGone = (pool: PoolRef, imageName: string, trashed: TrashEntry | undefined): Fault => {
  const image = imageLabel(pool, imageName);
  return trashed === undefined
    ? { status: "data loss", reason: "ImageGone", message: `image ${image} is gone, and it is not in the trash` }
    : {
        status: "inaccessible",
        reason: "ImageInTrash",
        message: `image ${image} is in the trash, and will be purged. Restore it with "rbd trash restore --pool ${pool.pool} ${trashed.id}"`,
      };
};

export const poolGone = (poolId: bigint): Fault => ({
  status: "data loss",
  reason: "PoolGone",
  message: `the cluster has no pool with id ${poolId} any more`,
});

/** The data is not lost for sure: the parent may be there, and out of reach. */
export const parentLost = ({ message }: ParentLost): Fault => ({
  status: "inaccessible",
  reason: "ParentLost",
  message,
});

/** Degraded: what is written can still be read. */
export const poolFull = (pool: string): Fault => ({
  status: "degraded",
  reason: "PoolFull",
  message: `pool ${pool} is full, or its quota is used up: writes wait or fail. Free space in it ("ceph df detail")`,
});

const MIRROR: Fault = {
  status: "inaccessible",
  reason: "MirrorNotPrimary",
  message: "the image is a mirror of another cluster's image. Promote it before you write to it here",
};

export const isFull = Effect.fn("listing.isFull")(function* (
  pool: PoolRef,
  name: string,
): Effect.fn.Return<boolean, CephError, Rados> {
  return (yield* (yield* Rados).poolSpace(pool.access, name)).availableBytes === 0n;
});

/** The fault of a volume whose image could be opened; `undefined`: nothing is wrong with it. */
export const faultOf = Effect.fn("listing.faultOf")(function* (
  pool: PoolRef,
  image: ImageStatus,
): Effect.fn.Return<Fault | undefined, CephError, Rados> {
  if (image.mirror === "non-primary") return MIRROR;
  const names = new Set([pool.pool, image.dataPool ?? pool.pool]);
  const [full] = yield* Effect.filter([...names], (name) => isFull(pool, name));
  return full === undefined ? undefined : poolFull(full);
});
