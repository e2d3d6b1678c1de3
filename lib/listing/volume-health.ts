/**
 * Whether something is wrong with a volume, in words for people (CSI's VolumeCondition).
 *
 * Not here: the health of a volume on its node (lib/node).
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import type { ImageStatus, TrashEntry } from "../ceph/rbd.ts";
import { HEALTHY_MESSAGE } from "../csi/messages.ts";

export interface Condition {
  readonly abnormal: boolean;
  readonly message: string;
}

export const HEALTHY: Condition = { abnormal: false, message: HEALTHY_MESSAGE };

export const abnormal = (message: string): Condition => ({ abnormal: true, message });

/** The condition of a volume that the journal knows as complete, but that has no image. */
export const imageGone = (pool: PoolRef, imageName: string, trashed: TrashEntry | undefined): Condition => {
  const image = imageLabel(pool, imageName);
  return abnormal(
    trashed === undefined
      ? `image ${image} is gone, and it is not in the trash`
      : `image ${image} is in the trash, and will be purged. Restore it with "rbd trash restore --pool ${pool.pool} ${trashed.id}"`,
  );
};

export const poolGone = (poolId: bigint): Condition => abnormal(`the cluster has no pool with id ${poolId} any more`);

export const poolFull = (pool: string): Condition =>
  abnormal(`pool ${pool} is full, or its quota is used up: writes wait or fail. Free space in it ("ceph df detail")`);

export const isFull = Effect.fn("listing.isFull")(function* (
  pool: PoolRef,
  name: string,
): Effect.fn.Return<boolean, CephError, Rados> {
  return (yield* (yield* Rados).poolSpace(pool.access, name)).availableBytes === 0n;
});

/** The condition of a volume whose image could be opened. */
export const conditionOf = Effect.fn("listing.conditionOf")(function* (
  pool: PoolRef,
  image: ImageStatus,
): Effect.fn.Return<Condition, CephError, Rados> {
  if (image.mirror === "non-primary") {
    return abnormal("the image is a mirror of another cluster's image. Promote it before you write to it here");
  }
  const names = new Set([pool.pool, image.dataPool ?? pool.pool]);
  const [full] = yield* Effect.filter([...names], (name) => isFull(pool, name));
  return full === undefined ? HEALTHY : poolFull(full);
});
