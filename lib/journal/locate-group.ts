/**
 * From the ID of a group snapshot to its journal entry, and to the entries of its members.
 *
 * Not here: whether the members' images exist, and single snapshots (./locate.ts).
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { GroupSnapshotNotFound, InvalidRequest } from "../csi/errors.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { type GroupEntry, readGroup } from "./group-snapshots.ts";
import { readAttributes, VOLUMES } from "./journal.ts";
import { clusterAccess, type LocatedVolume, locateSnapshot } from "./locate.ts";

export interface LocatedGroup {
  readonly groupSnapshotId: string;
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly entry: GroupEntry;
}

/** `GroupSnapshotNotFound`: there is none, or it has no members yet, so no caller knows of it. */
export const locateGroup = Effect.fn("journal.locateGroup")(function* (
  groupSnapshotId: string,
  credentials: Credentials,
): Effect.fn.Return<LocatedGroup, CephError | ConfigError | GroupSnapshotNotFound, Rados | Clusters> {
  const found = yield* locateEntry(groupSnapshotId, credentials);
  if (found.entry.members.length > 0) return found;
  return yield* new GroupSnapshotNotFound({ groupSnapshotId, reason: UNKNOWN });
});

const UNKNOWN = "the journal does not know it";

const isEmpty = ({ requestName, members }: GroupEntry) => requestName === undefined && members.length === 0;

/** Also an entry that is half made, without members. */
export const locateEntry = Effect.fn("journal.locateEntry")(function* (
  groupSnapshotId: string,
  credentials: Credentials,
): Effect.fn.Return<LocatedGroup, CephError | ConfigError | GroupSnapshotNotFound, Rados | Clusters> {
  const gone = (reason: string) => new GroupSnapshotNotFound({ groupSnapshotId, reason });
  const parsed = parseVolumeId(groupSnapshotId);
  if (Result.isFailure(parsed)) return yield* gone(parsed.failure.reason);
  const { clusterId, poolId, uuid } = parsed.success;
  const cluster = yield* (yield* Clusters).get(clusterId);
  const access = clusterAccess(cluster, credentials);
  const poolName = yield* (yield* Rados)
    .poolName(access, poolId)
    .pipe(
      Effect.catchTag("PoolNotFound", () => Effect.fail(gone(`cluster ${clusterId} has no pool with id ${poolId}`))),
    );
  const pool: PoolRef = { access, pool: poolName, namespace: cluster.radosNamespace };
  const entry = yield* readGroup(pool, uuid);
  if (entry === undefined || isEmpty(entry)) return yield* gone(UNKNOWN);
  return { groupSnapshotId, pool, uuid, entry };
});

/** A member of a group snapshot; `located` is absent if its pool is gone, and the member with it. */
export interface LocatedMember {
  readonly snapshotId: string;
  readonly located: LocatedVolume | undefined;
}

/**
 * The members' entries; refuses the ID of a volume group, whose members are volumes. One without members has an RBD group:
 * ceph-csi takes a group snapshot in a group of another UUID, and this driver begins with members.
 */
export const locateMembers = Effect.fn("journal.locateMembers")(function* (
  { groupSnapshotId, pool, entry }: LocatedGroup,
  credentials: Credentials,
): Effect.fn.Return<
  readonly LocatedMember[],
  CephError | ConfigError | InvalidRequest,
  Ceph | Clusters | DriverSettings
> {
  const { atOnce: concurrency } = yield* DriverSettings;
  if (entry.members.length === 0 && (yield* (yield* Rbd).groupExists(pool, entry.groupName))) {
    return yield* isOfVolumes(groupSnapshotId);
  }
  const locate = (snapshotId: string) =>
    locateSnapshot(snapshotId, credentials).pipe(
      Effect.tap(({ pool, uuid, attributes }) =>
        attributes === undefined ? proveNotVolume(groupSnapshotId, pool, uuid) : Effect.void,
      ),
      Effect.catchTag("SnapshotNotFound", () => Effect.succeed(undefined)),
      Effect.map((located): LocatedMember => ({ snapshotId, located })),
    );
  return yield* Effect.forEach(entry.members, locate, { concurrency });
});

const proveNotVolume = (groupSnapshotId: string, pool: PoolRef, uuid: string) =>
  Effect.flatMap(readAttributes(VOLUMES, pool, uuid), (volume) => {
    if (volume === undefined) return Effect.void;
    return isOfVolumes(groupSnapshotId);
  });

const isOfVolumes = (groupSnapshotId: string) =>
  Effect.fail(
    new InvalidRequest({
      field: "group_snapshot_id",
      reason: `${groupSnapshotId} names a group of volumes, not a group snapshot`,
    }),
  );

/** Refuses a list of members that lacks one, or names another. An empty list names none. */
export const compareMembers = (
  { groupSnapshotId, entry }: LocatedGroup,
  snapshotIds: readonly string[],
): Effect.Effect<void, InvalidRequest> => {
  if (snapshotIds.length === 0) return Effect.void;
  const members = new Set(entry.members);
  const foreign = snapshotIds.find((id) => !members.has(id));
  const missing = entry.members.find((id) => !snapshotIds.includes(id));
  if (foreign === undefined && missing === undefined) return Effect.void;
  const reason =
    foreign === undefined
      ? `lacks ${missing}, which is in group snapshot ${groupSnapshotId}`
      : `has ${foreign}, which is not in group snapshot ${groupSnapshotId}`;
  return Effect.fail(new InvalidRequest({ field: "snapshot_ids", reason }));
};
