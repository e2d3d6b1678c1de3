/** From the ID of a group snapshot to its journal entry, and to its members'. */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Clusters } from "../config/clusters.ts";
import type { Credentials } from "../config/secrets.ts";
import { GroupSnapshotNotFound, InvalidRequest } from "../csi/errors.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { type GroupEntry, readGroup } from "./group-snapshots.ts";
import { readAttributes, VOLUMES } from "./journal.ts";
import { clusterAccess, locateSnapshot } from "./locate.ts";

export interface LocatedGroup {
  readonly groupSnapshotId: string;
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly entry: GroupEntry;
}

/** `GroupSnapshotNotFound`: there is none, or it has no members yet, so that nobody was told of it. */
export const locateGroup = (groupSnapshotId: string, credentials: Credentials) =>
  Effect.gen(function* () {
    const gone = (reason: string) => new GroupSnapshotNotFound({ groupSnapshotId, reason });
    const parsed = parseVolumeId(groupSnapshotId);
    if (Result.isFailure(parsed)) return yield* gone(parsed.failure.reason);
    const { clusterId, poolId, uuid } = parsed.success;
    const rados = yield* Rados;
    const cluster = yield* (yield* Clusters).get(clusterId);
    const access = clusterAccess(cluster, credentials);
    const name = yield* rados
      .poolName(access, poolId)
      .pipe(
        Effect.catchTag("PoolNotFound", () => Effect.fail(gone(`cluster ${clusterId} has no pool with id ${poolId}`))),
      );
    const pool: PoolRef = { access, pool: name, namespace: cluster.radosNamespace };
    const entry = yield* readGroup(pool, uuid);
    if (entry === undefined || entry.members.length === 0) return yield* gone("the journal does not know it");
    const found: LocatedGroup = { groupSnapshotId, pool, uuid, entry };
    return found;
  });

const AT_ONCE = 8;

/** The members' entries. One of a volume group, whose members are volumes, is no group snapshot. */
export const locateMembers = ({ groupSnapshotId, entry }: LocatedGroup, credentials: Credentials) =>
  Effect.forEach(
    entry.members,
    (id) =>
      Effect.gen(function* () {
        const found = yield* locateSnapshot(id, credentials);
        if (found.attributes !== undefined) return found;
        if ((yield* readAttributes(VOLUMES, found.pool, found.uuid)) !== undefined) {
          const reason = `${groupSnapshotId} names a group of volumes, not a group snapshot`;
          return yield* new InvalidRequest({ field: "group_snapshot_id", reason });
        }
        return found;
      }),
    { concurrency: AT_ONCE },
  );

/** Who lists the members has to list all of them, and no other. */
export const compareMembers = ({ groupSnapshotId, entry }: LocatedGroup, told: readonly string[]) => {
  const known = new Set(entry.members);
  const foreign = told.find((id) => !known.has(id));
  const missing = entry.members.find((id) => !told.includes(id));
  if (told.length === 0 || (foreign === undefined && missing === undefined)) return Effect.void;
  const reason =
    foreign === undefined
      ? `lacks ${missing}, which is in group snapshot ${groupSnapshotId}`
      : `has ${foreign}, which is not in group snapshot ${groupSnapshotId}`;
  return Effect.fail(new InvalidRequest({ field: "snapshot_ids", reason }));
};
