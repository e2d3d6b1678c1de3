/**
 * Chooses the pool of a new volume: the one in which its name is reserved already, else one that can be reached from
 * where the request asks for.
 *
 * Not here: which pools fit a topology (./topology.ts).
 *
 * 1. A retry makes no second image in another pool, whatever it prefers now.
 * 2. A pool elsewhere that can't be asked, of a part of the cluster that is down, keeps no volume out of the others. It
 *    counts as one where the name is not reserved.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, TimedOut } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict, type JournalCorrupt, type SnapshotNotFound, Unplaceable } from "../csi/errors.ts";
import { lookUp, VOLUMES } from "../journal/journal.ts";
import { locateSnapshot } from "../journal/locate.ts";
import { within } from "../operations/within.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";

/** How long a pool is asked that may be in a part of the cluster that is down. */
const PATIENCE_ELSEWHERE = "2 seconds";

export type ChoosePoolError = CephError | ConfigError | Conflict | JournalCorrupt | SnapshotNotFound | Unplaceable;

/** A part of the cluster that is down, or closed to this user, must not keep volumes out of the others. */
const orUnknown = <A, R>(pool: PoolRef, look: Effect.Effect<A, CephError | JournalCorrupt, R>) =>
  within(look, {
    limit: PATIENCE_ELSEWHERE,
    orElse: () => Effect.fail(new TimedOut({ op: "read", subject: pool.pool })),
  }).pipe(
    Effect.catch((error) =>
      error._tag === "JournalCorrupt"
        ? Effect.fail(error)
        : Effect.as(Effect.logWarning(`could not look for the name in pool ${pool.pool}: ${error.message}`), undefined),
    ),
  );

/**
 * The request for the pool in which its name is reserved already, else for the first one: a retry whose preferences came
 * in another order must not make a second image. A restore stays in its snapshot's pool, whose topology is its own.
 */
export const choosePool = Effect.fn("volume.choosePool")(function* (
  candidates: readonly CreateVolumeSpec[],
  others: readonly PoolRef[],
): Effect.fn.Return<CreateVolumeSpec, ChoosePoolError, Ceph | Clusters | DriverSettings> {
  const { instanceId } = yield* DriverSettings;
  const [first] = candidates;
  if (first === undefined) return yield* Effect.die("no pool for a volume");
  if (first.segments === undefined) return first;
  const { requestName, source, credentials } = first;
  const reservedIn = (pool: PoolRef) => lookUp(VOLUMES, pool, instanceId, requestName);
  // A pool that cannot hold the volume is told by its type, before its journal answers with an errno or not at all.
  if (source?.kind !== "snapshot") {
    yield* (yield* Rados).poolId(first.pool.access, first.pool.pool, { dataPool: first.parameters.dataPool });
  }
  const elsewhere = [...candidates.slice(1).map(({ pool }) => pool), ...others];
  if (elsewhere.length > 0 && (yield* reservedIn(first.pool)) !== undefined) return first;
  const reservations = yield* Effect.forEach(elsewhere, (pool) => orUnknown(pool, reservedIn(pool)), {
    concurrency: "unbounded",
  });
  const holder = elsewhere.find((_, n) => reservations[n] !== undefined);
  if (holder !== undefined) {
    const there = candidates.find(({ pool }) => pool === holder);
    if (there !== undefined) return there;
    const problem = `exists already in pool ${holder.pool}, which can't be reached from where the request asks for`;
    return yield* new Conflict({ subject: `volume ${requestName}`, problem });
  }
  if (source?.kind !== "snapshot") return first;
  const { pool } = yield* locateSnapshot(source.id, credentials);
  const there = candidates.find((each) => each.pool.pool === pool.pool);
  if (there !== undefined) return there;
  const problem = "holds the snapshot, and can't be reached from where the request asks for";
  return yield* new Unplaceable({ subject: `pool ${pool.pool}`, problem });
});
