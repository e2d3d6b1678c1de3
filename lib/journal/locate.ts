/**
 * Locates the thing behind a CSI handle: its cluster, pool, journal entry and image name.
 *
 * Not here: whether the image exists. A located handle says where to look; it does not prove that something is there.
 * Only where a volume may be in several places, the image says which of them is meant.
 *
 * 1. A handle that no driver can have written, and one whose pool is gone, names nothing: `VolumeNotFound` or
 *    `SnapshotNotFound`. Whatever leaves it open (no access, no answer, cluster not configured) is that error instead.
 * 2. After a failover a volume is looked for in the mapped places, in the file's order, if its own proves empty or
 *    closed, or has only the journal's entry of it. An entry without an image counts only where no place has both.
 *    Snapshots are not mapped: ceph-csi never did, and their IDs would mean other images there.
 * 3. A volume whose image is in the trash, where a user put it, is being deleted, and so is in that place.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { CephError } from "../ceph/errors.ts";
import { type ClusterAccess, type PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { ClusterMapping, type Place } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { SnapshotNotFound, VolumeNotFound } from "../csi/errors.ts";
import { parseMigratedId } from "../csi/migrated-volume-id.ts";
import { parseVolumeId, volumeKind } from "../csi/volume-id.ts";
import { type Attributes, imageNameOf, type Kind, readAttributes, SNAPSHOTS, VOLUMES } from "./journal.ts";

export interface LocatedVolume {
  /** As the caller wrote it, also when a mapping led elsewhere. */
  readonly handle: string;
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly poolId: bigint;
  /** "" for a volume of the in-tree plugin, which has none. */
  readonly uuid: string;
  readonly imageName: string;
  /** `undefined`: the journal knows nothing of it; the image may exist all the same. */
  readonly attributes: Attributes | undefined;
}

export const clusterAccess = (cluster: Cluster, credentials: Credentials): ClusterAccess => ({
  monitors: cluster.monitors,
  user: credentials.user,
  key: credentials.key,
});

export const locateVolume = Effect.fnUntraced(function* (
  volumeId: string,
  credentials: Credentials,
): Effect.fn.Return<LocatedVolume, VolumeNotFound | CephError | ConfigError, Rados | Rbd | Clusters | ClusterMapping> {
  const gone = (reason: string) => new VolumeNotFound({ volumeId, reason });
  if (volumeKind(volumeId) === "migrated") return yield* migratedVolume(volumeId, credentials);
  const parsed = parseVolumeId(volumeId);
  if (Result.isFailure(parsed)) return yield* gone(`it is not a volume ID of this driver (${parsed.failure.reason})`);
  const { uuid, ...home } = parsed.success;
  const look = (place: Place) =>
    Effect.result(
      lookAt(VOLUMES, volumeId, uuid, place, credentials).pipe(
        Effect.catchTag("PoolNotFound", () => Effect.fail(gone(noPool(place)))),
      ),
    );
  const first = yield* look(home);
  if (Result.isFailure(first) && !mayBeElsewhere(first.failure)) return yield* first.failure;
  const places = yield* Effect.result((yield* ClusterMapping).mapped(home.clusterId, home.poolId));
  if (Result.isSuccess(places) && places.success.length === 0) return yield* Effect.fromResult(first);
  let entry = isKnown(first) ? first.success : undefined;
  if (entry !== undefined && (yield* isThere(entry))) return entry;
  const isHome = entry !== undefined;
  for (const place of yield* Effect.fromResult(places)) {
    const there = yield* look(place);
    // A place that is not configured keeps nobody from deleting what is known here.
    const isClosed = Result.isFailure(there) && isHome && there.failure._tag === "ConfigMissing";
    if (Result.isFailure(there) && !isClosed && !mayBeElsewhere(there.failure)) return yield* there.failure;
    if (!isKnown(there)) continue;
    if (yield* isThere(there.success)) return there.success;
    entry ??= there.success;
  }
  return entry ?? (yield* Effect.fromResult(first));
});

const isKnown = <E>(found: Result.Result<LocatedVolume, E>): found is Result.Success<LocatedVolume, E> =>
  Result.isSuccess(found) && found.success.attributes !== undefined;

/** Whether the image of the volume is in that place, or was moved to the trash there by who deletes it. */
const isThere = Effect.fnUntraced(function* ({
  pool,
  imageName,
  attributes,
}: LocatedVolume): Effect.fn.Return<boolean, CephError, Rbd> {
  const rbd = yield* Rbd;
  if ((yield* rbd.imageId(pool, imageName)) !== undefined) return true;
  if (attributes?.imageId === undefined) return false;
  return (yield* rbd.trashGet(pool, attributes.imageId))?.source === "user";
});

/** A volume of the in-tree plugin: no journal knows it, and it lives in the default namespace. */
const migratedVolume = Effect.fnUntraced(function* (volumeId: string, credentials: Credentials) {
  const gone = (reason: string) => new VolumeNotFound({ volumeId, reason });
  const parsed = parseMigratedId(volumeId);
  if (Result.isFailure(parsed)) return yield* gone(parsed.failure);
  const { clusterId, pool: poolName, imageName } = parsed.success;
  const cluster = yield* (yield* Clusters).get(clusterId);
  const access = clusterAccess(cluster, credentials);
  const poolId = yield* (yield* Rados)
    .poolId(access, poolName)
    .pipe(Effect.catchTag("PoolNotFound", ({ message }) => Effect.fail(gone(message))));
  const pool: PoolRef = { access, pool: poolName, namespace: "" };
  const located: LocatedVolume = {
    handle: volumeId,
    cluster,
    pool,
    poolId,
    uuid: "",
    imageName,
    attributes: undefined,
  };
  return located;
});

export const locateSnapshot = (
  snapshotId: string,
  credentials: Credentials,
): Effect.Effect<LocatedVolume, SnapshotNotFound | CephError | ConfigError, Rados | Clusters> =>
  Effect.suspend(() => {
    const gone = (reason: string) => new SnapshotNotFound({ snapshotId, reason });
    const parsed = parseVolumeId(snapshotId);
    if (Result.isFailure(parsed)) return Effect.fail(gone(parsed.failure.reason));
    const { uuid, ...home } = parsed.success;
    return lookAt(SNAPSHOTS, snapshotId, uuid, home, credentials).pipe(
      Effect.catchTag("PoolNotFound", () => Effect.fail(gone(noPool(home)))),
    );
  });

const noPool = ({ clusterId, poolId }: Place): string => `cluster ${clusterId} has no pool with id ${poolId}`;

const mayBeElsewhere = (error: { readonly _tag: string }): boolean =>
  error._tag === "VolumeNotFound" || error._tag === "AccessDenied";

const lookAt = Effect.fnUntraced(function* (
  kind: Kind,
  handle: string,
  uuid: string,
  place: Place,
  credentials: Credentials,
) {
  const rados = yield* Rados;
  const cluster = yield* (yield* Clusters).get(place.clusterId);
  const access = clusterAccess(cluster, credentials);
  const pool: PoolRef = {
    access,
    pool: yield* rados.poolName(access, place.poolId),
    namespace: cluster.radosNamespace,
  };
  const attributes = yield* readAttributes(kind, pool, uuid);
  const imageName = imageNameOf(kind, uuid, attributes);
  const located: LocatedVolume = { handle, cluster, pool, poolId: place.poolId, uuid, imageName, attributes };
  return located;
});
