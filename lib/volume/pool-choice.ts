/**
 * In which pool a volume is made: where its name is reserved already, else where it can be reached from.
 *
 * Not here: which pools fit a topology (./topology.ts).
 *
 * 1. A retry makes no second image in another pool, whatever it prefers now.
 * 2. A pool elsewhere that can't be asked, of a part of the cluster that is down, keeps no volume out of the others. It
 *    counts as one where the name is not reserved.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type CephError, TimedOut } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { InvalidParameter } from "../config/errors.ts";
import type { VolumeParameters } from "../config/parameters.ts";
import type { Credentials } from "../config/secrets.ts";
import { Conflict, type JournalCorrupt, Unplaceable } from "../csi/errors.ts";
import { lookUp, VOLUMES } from "../journal/journal.ts";
import { locateSnapshot } from "../journal/locate.ts";
import type { SourceRequest } from "./copy.ts";
import { candidatePools, type Requirement, type Segments } from "./topology.ts";

const PATIENCE_ELSEWHERE = "2 seconds";

export interface Place {
  readonly pool: string;
  readonly dataPool: string | undefined;
  /** Absent: the volume can be reached from everywhere. */
  readonly segments: Segments | undefined;
}

/** The class's pool; where it ties pools to places, those that are where the request asks for. */
export const choiceOf = (
  { pool, dataPool, topologyConstrainedPools }: VolumeParameters,
  topology: Requirement | undefined,
): Result.Result<
  { readonly candidates: readonly Place[]; readonly others: readonly string[] },
  InvalidParameter | Unplaceable
> => {
  if (topologyConstrainedPools !== undefined && topology !== undefined) {
    return candidatePools(topologyConstrainedPools, topology);
  }
  if (pool !== undefined) return Result.succeed({ candidates: [{ pool, dataPool, segments: undefined }], others: [] });
  const reason = "is missing: topologyConstrainedPools has effect only with accessibility_requirements";
  return Result.fail(new InvalidParameter({ field: "pool", reason }));
};

/** A request at one of the places where its volume may be. */
interface PlacedRequest {
  readonly requestName: string;
  readonly pool: PoolRef;
  readonly segments: Segments | undefined;
  readonly source: SourceRequest | undefined;
  readonly credentials: Credentials;
}

/** A part of the cluster that is down, or closed to this user, must not keep volumes out of the others. */
const orUnknown = <A, R>(pool: PoolRef, look: Effect.Effect<A, CephError | JournalCorrupt, R>) =>
  look.pipe(
    Effect.timeoutOrElse({
      duration: PATIENCE_ELSEWHERE,
      orElse: () => Effect.fail(new TimedOut({ op: "read", subject: pool.pool })),
    }),
    Effect.catch((error) =>
      error._tag === "JournalCorrupt"
        ? Effect.fail(error)
        : Effect.as(Effect.logWarning(`could not look for the name in pool ${pool.pool}: ${error.message}`), undefined),
    ),
  );

/**
 * Where the name is reserved already, else the first place: a retry whose preferences came in another order must not
 * make a second image. A restore stays in its snapshot's pool, whose topology is its own.
 */
export const choosePlace = <P extends PlacedRequest>(
  instanceId: string,
  places: readonly P[],
  others: readonly PoolRef[],
) =>
  Effect.gen(function* () {
    const [first] = places;
    if (first === undefined) return yield* Effect.die("no place for a volume");
    if (first.segments === undefined) return first;
    const { requestName, source, credentials } = first;
    const reservedIn = (pool: PoolRef) => lookUp(VOLUMES, pool, instanceId, requestName);
    const elsewhere = [...places.slice(1).map(({ pool }) => pool), ...others];
    if (elsewhere.length > 0 && (yield* reservedIn(first.pool)) !== undefined) return first;
    const found = yield* Effect.forEach(elsewhere, (pool) => orUnknown(pool, reservedIn(pool)), {
      concurrency: "unbounded",
    });
    const taken = elsewhere.find((_, n) => found[n] !== undefined);
    if (taken !== undefined) {
      const place = places.find(({ pool }) => pool === taken);
      if (place !== undefined) return place;
      const message = `volume ${requestName} exists already, in pool ${taken.pool}, which can't be reached from where the request asks for`;
      return yield* new Conflict({ subject: "", problem: message });
    }
    if (source?.kind !== "snapshot") return first;
    const { pool } = yield* locateSnapshot(source.id, credentials);
    const there = places.find((place) => place.pool.pool === pool.pool);
    if (there !== undefined) return there;
    const message = `pool ${pool.pool}, which holds the snapshot, can't be reached from where the request asks for`;
    return yield* new Unplaceable({ subject: "", problem: message });
  });
