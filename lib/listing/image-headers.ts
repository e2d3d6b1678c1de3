/**
 * The headers of images in one cluster and namespace, with one call for each pool.
 *
 * Not here: what a header tells and how it is read (lib/ceph/rbd.ts, `ImageBrief`).
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageBrief, Rbd } from "../ceph/rbd.ts";
import type { JournalName, JournalPool } from "./page.ts";

/** An image by its name. */
export interface NamedImage {
  /** Absent: the pool is gone. */
  readonly pool: PoolRef | undefined;
  readonly imageName: string;
}

/** The pool of a name's image: that of the journal, except for entries of older drivers. */
export const imagePoolOf = (
  { pool, poolId, poolNames }: JournalPool,
  { imagePoolId }: JournalName,
): PoolRef | undefined => {
  if (imagePoolId === undefined || imagePoolId === poolId) return pool;
  const name = poolNames.get(imagePoolId);
  return name === undefined ? undefined : { ...pool, pool: name };
};

const keyOf = ({ pool }: PoolRef, image: string): string => `${pool}/${image}`;

/** -> a function that has the header of each of these images; `undefined` for an image that does not exist. */
export const imageHeaders = Effect.fn("listing.imageHeaders")(function* (
  images: readonly NamedImage[],
): Effect.fn.Return<(image: NamedImage) => ImageBrief | undefined, CephError, Rbd> {
  const rbd = yield* Rbd;
  const named = images.flatMap(({ pool, imageName }) => (pool === undefined ? [] : [{ pool, imageName }]));
  const headersIn = (inPool: typeof named) => {
    const [first] = inPool;
    if (first === undefined) return Effect.succeed([]);
    const names = inPool.map(({ imageName }) => imageName);
    return Effect.map(rbd.imageBriefs(first.pool, names, []), (headers) =>
      names.map((name, i) => [keyOf(first.pool, name), headers[i]] as const),
    );
  };
  const pools = Map.groupBy(named, ({ pool }) => pool.pool).values();
  const headers = new Map((yield* Effect.forEach(pools, headersIn, { concurrency: "unbounded" })).flat());
  return ({ pool, imageName }) => (pool === undefined ? undefined : headers.get(keyOf(pool, imageName)));
});
