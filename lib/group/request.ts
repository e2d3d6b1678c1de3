/**
 * What a CreateVolumeGroupSnapshot asks for, and what there is of it: its volumes, and the journal's entry of its name.
 *
 * Not here: anything that changes something (./create.ts).
 *
 * 1. All members are in one cluster and namespace, each once; their pools may differ.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Clusters } from "../config/clusters.ts";
import { parseCredentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { Conflict, InvalidRequest } from "../csi/errors.ts";
import { type GroupEntry, readGroup } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import { findSourceVolume, sameCluster, type SourceVolume } from "../snapshot/source-volume.ts";
import { handleOf, type Member, memberOf } from "./member.ts";
import { readGroupParameters } from "./parameters.ts";

export interface GroupRequest {
  readonly requestName: string;
  readonly sourceVolumeIds: readonly string[];
  readonly parameters: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
}

export interface Group {
  readonly groupSnapshotId: string;
  /** Of the journal's entry and of the RBD group. */
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly groupName: string;
  /** `undefined`: the name is free. */
  readonly known: journal.Reservation | undefined;
  /** Milliseconds since the epoch. `undefined`: there is no point in time yet. */
  readonly createdAt: number | undefined;
  /** In the order of the request. */
  readonly members: readonly [Member, ...Member[]];
}

const FIELD = "source_volume_ids";
const AT_ONCE = 16;

const repeated = (i: number, id: string) =>
  Effect.fail(new InvalidRequest({ field: `${FIELD}[${i}]`, reason: `names volume ${id} a second time` }));

export const readRequest = (request: GroupRequest) =>
  Effect.gen(function* () {
    const [first, ...rest] = request.sourceVolumeIds;
    if (first === undefined) return yield* new InvalidRequest({ field: FIELD, reason: "is empty" });
    const sourceVolumeIds: readonly [string, ...string[]] = [first, ...rest];
    for (const [i, id] of sourceVolumeIds.entries()) {
      if (sourceVolumeIds.indexOf(id) < i) return yield* repeated(i, id);
    }
    const { clusterId, ...parameters } = yield* Effect.fromResult(readGroupParameters(request.parameters));
    const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: false }));
    const cluster = clusterId === undefined ? undefined : yield* (yield* Clusters).get(clusterId);
    return { ...request, ...parameters, groupPool: parameters.pool, sourceVolumeIds, cluster, credentials };
  });

export type Wanted = Effect.Success<ReturnType<typeof readRequest>>;

const findSources = ({ sourceVolumeIds, cluster, credentials }: Wanted) =>
  Effect.forEach(
    sourceVolumeIds,
    (sourceVolumeId, i) =>
      findSourceVolume({ sourceVolumeId, cluster, credentials }).pipe(
        Effect.catchTag("InvalidRequest", ({ field, reason }) =>
          Effect.fail(new InvalidRequest({ field: field === "source_volume_id" ? `${FIELD}[${i}]` : field, reason })),
        ),
      ),
    { concurrency: AT_ONCE },
  );

const proveOneCluster = (first: SourceVolume, { sourceVolumeIds }: Wanted, sources: readonly SourceVolume[]) =>
  Effect.gen(function* () {
    const seen = new Set<string>();
    for (const [i, { found }] of sources.entries()) {
      const refuse = (reason: string) => new InvalidRequest({ field: `${FIELD}[${i}]`, reason });
      const { clusterId } = first.found.cluster;
      if (!sameCluster(first.found.cluster, found.cluster)) {
        return yield* refuse(
          `is in cluster ${found.cluster.clusterId}, others are in cluster ${clusterId}: one point in time is of one cluster and namespace`,
        );
      }
      const subject = imageLabel(found.pool, found.imageName);
      if (seen.has(subject)) return yield* repeated(i, sourceVolumeIds[i] ?? "");
      seen.add(subject);
    }
  });

/** Where the group's entry is: in the pool that is asked for, or in that of the volume whose ID comes first. */
const home = (wanted: Wanted, sources: readonly [SourceVolume, ...SourceVolume[]]) =>
  Effect.gen(function* () {
    const [lowest = ""] = wanted.sourceVolumeIds.toSorted();
    const { found, clusterId } = sources[wanted.sourceVolumeIds.indexOf(lowest)] ?? sources[0];
    const { groupPool } = wanted;
    if (groupPool === undefined) return { pool: found.pool, poolId: found.poolId, clusterId };
    const pool: PoolRef = { ...found.pool, pool: groupPool };
    return { pool, poolId: yield* (yield* Rados).poolId(pool.access, groupPool), clusterId };
  });

const proveSameMembers = (requestName: string, entry: GroupEntry, members: readonly Member[]) => {
  const wanted = members.map(({ snapshotId }) => snapshotId).toSorted();
  if (wanted.join() === entry.members.join()) return Effect.void;
  return Effect.fail(
    new Conflict({ subject: "", problem: `group snapshot ${requestName} exists already, of other volumes` }),
  );
};

export const findGroup = ({ instanceId }: VolumeOptions, wanted: Wanted) =>
  Effect.gen(function* () {
    const sources = yield* findSources(wanted);
    yield* proveOneCluster(sources[0], wanted, sources);
    const { pool, poolId, clusterId } = yield* home(wanted, sources);
    const known = yield* journal.lookUp(journal.GROUPS, pool, instanceId, wanted.requestName);
    const uuid = known?.uuid ?? crypto.randomUUID();
    const members = yield* Effect.forEach(sources, (source, i) =>
      memberOf(uuid, wanted.sourceVolumeIds[i] ?? source.found.handle, source),
    );
    // Of a name alone, its members are those of the first request that comes back.
    const entry = known?.attributes.requestName === undefined ? undefined : yield* readGroup(pool, uuid);
    if (entry !== undefined) yield* proveSameMembers(wanted.requestName, entry, members);
    const group: Group = {
      groupSnapshotId: yield* handleOf(clusterId, poolId, uuid),
      pool,
      uuid,
      groupName: known?.attributes.imageName ?? wanted.groupPrefix + uuid,
      known,
      createdAt: entry?.createdAt,
      members,
    };
    return group;
  });
