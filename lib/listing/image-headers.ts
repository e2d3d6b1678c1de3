/** Images in brief, wherever in a cluster they are: one call for each pool. */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageBrief, Rbd } from "../ceph/rbd.ts";
import type { Name, Place } from "./page.ts";

export interface ImagePlace {
  /** `undefined`: it is gone. */
  readonly pool: PoolRef | undefined;
  readonly imageName: string;
}

/** The pool of a name's image: the journal's own but for entries of older drivers. */
export const imagePoolOf = ({ pool, poolId, poolNames }: Place, { imagePoolId }: Name): PoolRef | undefined => {
  if (imagePoolId === undefined || imagePoolId === poolId) return pool;
  const name = poolNames.get(imagePoolId);
  return name === undefined ? undefined : { ...pool, pool: name };
};

const keyOf = ({ pool }: PoolRef, image: string): string => `${pool}/${image}`;

/** -> what tells of each whether it is there. All are in one cluster and namespace. */
export const briefsOf = (
  wanted: readonly ImagePlace[],
): Effect.Effect<(image: ImagePlace) => ImageBrief | undefined, CephError, Ceph> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const there = wanted.flatMap(({ pool, imageName }) => (pool === undefined ? [] : [{ pool, imageName }]));
    const found = yield* Effect.forEach(
      Map.groupBy(there, ({ pool }) => pool.pool).values(),
      (inPool) => {
        const [first] = inPool;
        if (first === undefined) return Effect.succeed([]);
        const names = inPool.map(({ imageName }) => imageName);
        return Effect.map(rbd.imageBriefs(first.pool, names, []), (briefs) =>
          names.map((name, i) => [keyOf(first.pool, name), briefs[i]] as const),
        );
      },
      { concurrency: "unbounded" },
    );
    const briefs = new Map(found.flat());
    return ({ pool, imageName }) => (pool === undefined ? undefined : briefs.get(keyOf(pool, imageName)));
  });
