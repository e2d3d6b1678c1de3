/** Whether something is wrong with a volume, in words for people (CSI's VolumeCondition). */
import * as Effect from "effect/Effect";
import { type Ceph, imageLabel } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import type { ImageStatus, TrashEntry } from "../ceph/rbd.ts";

export interface Condition {
  readonly abnormal: boolean;
  readonly message: string;
}

export const HEALTHY: Condition = { abnormal: false, message: "volume is in a healthy condition" };

export const abnormal = (message: string): Condition => ({ abnormal: true, message });

/** Of a volume that the journal knows as complete. */
export const imageGone = (pool: PoolRef, imageName: string, trashed: TrashEntry | undefined): Condition => {
  const subject = imageLabel(pool, imageName);
  return abnormal(
    trashed === undefined
      ? `image ${subject} is gone, and it is not in the trash`
      : `image ${subject} is in the trash: "rbd trash restore --pool ${pool.pool} ${trashed.id}" brings it back, until it is purged`,
  );
};

export const poolGone = (poolId: bigint): Condition => abnormal(`the cluster has no pool with id ${poolId} any more`);

export const poolFull = (pool: string): Condition =>
  abnormal(`pool ${pool} is full, or its quota is used up: writes wait or fail ("ceph df detail")`);

export const isFull = (pool: PoolRef, name: string): Effect.Effect<boolean, CephError, Ceph> =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(rados.poolSpace(pool.access, name), ({ availableBytes }) => availableBytes === 0n),
  );

/** Of an image that is there, opened. */
export const conditionOf = (pool: PoolRef, image: ImageStatus): Effect.Effect<Condition, CephError, Ceph> =>
  Effect.gen(function* () {
    if (image.mirror === "non-primary") {
      return abnormal("the image is a mirror of another cluster's: it can be written once it is promoted here");
    }
    const full = yield* Effect.filter([...new Set([pool.pool, image.dataPool ?? pool.pool])], (name) =>
      isFull(pool, name),
    );
    return full[0] === undefined ? HEALTHY : poolFull(full[0]);
  });
