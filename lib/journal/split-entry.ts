/**
 * The journal entry of a volume whose image is in another pool than its journal, as drivers before ceph-csi 3.11 made them:
 * the pool of the image, which the volume's ID names, has an empty object of the UUID, and nothing there says which pool
 * has the attributes.
 *
 * Not here: a volume whose journal is in the pool of its image (./locate.ts).
 *
 * 1. The other pools for RBD are searched, in one read each, and only for a volume with such an object. That serves the
 *    volumes that there are: nobody has written more into their objects.
 * 2. A pool that cannot be read leaves open whether it has the attributes: that is an error. None in any pool means that
 *    they are gone, as where a deletion was cut off before its last step.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import { type Attributes, lookUp, readAttributes, splitEntry, uuidObject, VOLUMES } from "./journal.ts";
import type { LocatedVolume } from "./locate.ts";

/** A cluster with more is not searched. */
const MOST_POOLS = 256;

export interface SplitEntry {
  readonly journalPool: PoolRef;
  readonly attributes: Attributes;
  /** The value of the name's key. */
  readonly entry: string;
}

/** ceph-csi may have added the image's ID to the object. */
const isMarker = (attributes: Attributes | undefined): boolean =>
  attributes !== undefined && attributes.requestName === undefined && attributes.imageName === undefined;

/** `undefined`: the entry is in the pool of the image, or nowhere. */
export const findSplitEntry = Effect.fn("journal.findSplitEntry")(function* (
  located: LocatedVolume,
): Effect.fn.Return<SplitEntry | undefined, CephError | Precondition, DriverSettings | Rados> {
  const { pool, poolId, uuid, attributes: marker } = located;
  if (!isMarker(marker)) return undefined;
  const { instanceId, atOnce: concurrency } = yield* DriverSettings;
  const others = (yield* (yield* Rados).pools(pool.access)).filter(({ name }) => name !== pool.pool);
  if (others.length > MOST_POOLS) return yield* unknown(located, `the cluster has ${others.length} pools besides`);
  const look = (journalPool: PoolRef) =>
    readAttributes(VOLUMES, journalPool, uuid).pipe(
      // it was removed meanwhile
      Effect.catchTag("PoolNotFound", () => Effect.succeed(undefined)),
      Effect.catchTag("AccessDenied", ({ message }) => Effect.fail(unknown(located, message))),
      Effect.map((attributes) => ({ journalPool, attributes })),
    );
  const looked = yield* Effect.forEach(others, ({ name }) => look({ ...pool, pool: name }), { concurrency });
  for (const { journalPool, attributes } of looked) {
    const requestName = attributes?.requestName;
    if (attributes === undefined || requestName === undefined) continue;
    const named = yield* Effect.catchTag(lookUp(VOLUMES, journalPool, instanceId, requestName), "JournalCorrupt", () =>
      Effect.succeed(undefined),
    );
    // after a failover the name may have the pool's ID of the other cluster
    const entry = named?.uuid === uuid ? named.entry : splitEntry(poolId, uuid);
    return { journalPool, attributes: { ...attributes, imageId: attributes.imageId ?? marker?.imageId }, entry };
  }
  return undefined;
});

const unknown = ({ handle, pool, uuid }: LocatedVolume, reason: string): Precondition => {
  const object = uuidObject(VOLUMES, uuid);
  return new Precondition({
    subject: `volume ${handle}`,
    problem: `has its journal in another pool than ${pool.pool}, where object ${object} is empty, and which pool that is could not be told: ${reason}`,
    remedy: `Let the driver's user read the pools for RBD. If no pool has an object ${object} with values ("rados listomapvals"), and no image of that UUID is left, remove the empty one ("rados rm")`,
  });
};
