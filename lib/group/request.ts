/**
 * A CreateVolumeGroupSnapshot request as values, and the group snapshot that it names, as far as the journal has it.
 *
 * Not here: anything that changes something (./point-in-time.ts, ./create.ts).
 *
 * 1. All members are in one cluster and namespace, each once; their pools may differ.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError, InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict, InvalidRequest, type JournalCorrupt } from "../csi/errors.ts";
import { newHandle } from "../csi/new-handle.ts";
import { isGivenUp } from "../journal/attempt-names.ts";
import { readGroup } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import {
  type LocatedSource,
  locateSource,
  readSource,
  sameCluster,
  type SourceVolume,
  type SourceVolumeError,
} from "../snapshot/source-volume.ts";
import { findMembers } from "./found-members.ts";
import { type Member, type MemberWithSource, memberOf } from "./member.ts";
import { type GroupParameters, readGroupParameters } from "./parameters.ts";

export interface GroupRequest {
  readonly requestName: string;
  readonly sourceVolumeIds: readonly string[];
  readonly parameters: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
}

type NonEmpty<A> = readonly [A, ...A[]];

/** A request whose fields are checked. */
export interface GroupSpec {
  readonly requestName: string;
  readonly sourceVolumeIds: NonEmpty<string>;
  /** Those of the request: the metadata of the members' images comes from them. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly snapshotPrefix: string;
  readonly groupPrefix: string;
  readonly constrainedPools: GroupParameters["constrainedPools"];
  readonly groupPool: string | undefined;
  readonly cluster: Cluster | undefined;
  readonly credentials: Credentials;
  readonly secrets: Readonly<Record<string, string>>;
}

export interface Group {
  readonly groupSnapshotId: string;
  /** The pool of the journal's entry and of the RBD group. */
  readonly pool: PoolRef;
  readonly uuid: string;
  /** The RBD group of the latest attempt. */
  readonly groupName: string;
  /** The attempt was given up, and its undo was cut off. */
  readonly isGivenUp: boolean;
  /** The entry has no members yet: ceph-csi was cut off, and nobody knows of the group snapshot. */
  readonly isHalfMade: boolean;
  /** Absent: the name is free. */
  readonly reservation: journal.Reservation | undefined;
  /** Milliseconds since the epoch. Absent: there is no point in time yet. */
  readonly createdAt: number | undefined;
  /** In the order of the request. */
  readonly members: readonly Member[];
}

/** A group snapshot whose volumes are all there. */
export interface GroupWithSources extends Group {
  readonly members: readonly MemberWithSource[];
}

export type FindGroupError = SourceVolumeError | Conflict | JournalCorrupt;

const FIELD = "source_volume_ids";

const repeated = (i: number, volumeId: string) =>
  new InvalidRequest({ field: `${FIELD}[${i}]`, reason: `names volume ${volumeId} a second time` });

export const readGroupSpec = Effect.fn("group.readGroupSpec")(function* ({
  requestName,
  sourceVolumeIds: [first, ...rest],
  parameters,
  secrets,
}: GroupRequest): Effect.fn.Return<
  GroupSpec,
  ConfigError | InvalidParameter | InvalidSecret | InvalidRequest,
  Clusters
> {
  if (first === undefined) return yield* new InvalidRequest({ field: FIELD, reason: "is empty" });
  const sourceVolumeIds: NonEmpty<string> = [first, ...rest];
  for (const [i, id] of sourceVolumeIds.entries()) {
    if (sourceVolumeIds.indexOf(id) < i) return yield* repeated(i, id);
  }
  const { clusterId, pool: groupPool, ...prefixes } = yield* Effect.fromResult(readGroupParameters(parameters));
  const credentials = yield* Effect.fromResult(parseCredentials(secrets, { allowMigration: false }));
  const cluster = clusterId === undefined ? undefined : yield* (yield* Clusters).get(clusterId);
  return { requestName, sourceVolumeIds, parameters, ...prefixes, groupPool, cluster, credentials, secrets };
});

/**
 * The group snapshot of the request's name and volumes; a Conflict when the name was given to other volumes. Whether the
 * volumes' images are there is not looked at, because one that has its members does not need them.
 */
export const findGroup = Effect.fn("group.findGroup")(function* (
  spec: GroupSpec,
): Effect.fn.Return<Group, FindGroupError, Ceph | Clusters | ClusterMapping | DriverSettings> {
  const { instanceId } = yield* DriverSettings;
  const sources = yield* locateSources(spec);
  yield* proveOneCluster(spec, sources);
  const { pool, poolId, clusterId } = yield* groupPool(spec, sources);
  const reservation = yield* journal.lookUp(journal.GROUPS, pool, instanceId, spec.requestName);
  const uuid = reservation?.uuid ?? crypto.randomUUID();
  const asked = yield* Effect.forEach(sources, (source, i) =>
    Effect.fromResult(memberOf(uuid, spec.sourceVolumeIds[i] ?? source.volume.handle, source)),
  );
  // While the journal has the name alone, the members are those of the first request that comes back.
  const entry = reservation?.attributes.requestName === undefined ? undefined : yield* readGroup(pool, uuid);
  // Name and creation time come from one read: the name changes until the time is recorded.
  const groupName = entry?.groupName ?? reservation?.attributes.imageName ?? spec.groupPrefix + uuid;
  const givenUp = entry !== undefined && entry.createdAt === undefined && isGivenUp(groupName, uuid);
  const halfMade = entry !== undefined && !givenUp && entry.members.length === 0;
  if (halfMade) yield* proveNotOfVolumes(spec, pool, groupName);
  const groupSnapshotId = yield* Effect.fromResult(newHandle({ clusterId, poolId, uuid }));
  const { members, createdAt } =
    entry === undefined || givenUp || halfMade
      ? { members: asked, createdAt: entry?.createdAt }
      : yield* findMembers(spec, { groupSnapshotId, pool, uuid, entry }, asked);
  return {
    groupSnapshotId,
    pool,
    uuid,
    groupName,
    isGivenUp: givenUp,
    isHalfMade: halfMade,
    reservation,
    createdAt,
    members,
  };
});

const locateSources = Effect.fnUntraced(function* ({ sourceVolumeIds, cluster, credentials }: GroupSpec) {
  const { atOnce: concurrency } = yield* DriverSettings;
  return yield* Effect.forEach(
    sourceVolumeIds,
    (sourceVolumeId) => locateSource({ sourceVolumeId, cluster, credentials }),
    { concurrency },
  );
});

/** The volume of a member, as one of which a snapshot can be taken. */
export const sourceOf = (
  { sourceVolumeIds }: GroupSpec,
  { source, sourceVolumeId }: Member,
): Effect.Effect<SourceVolume, SourceVolumeError, Ceph> =>
  Effect.catchTag(readSource(source), "InvalidRequest", ({ field, reason }) => {
    const at = `${FIELD}[${sourceVolumeIds.indexOf(sourceVolumeId)}]`;
    return Effect.fail(new InvalidRequest({ field: field === "source_volume_id" ? at : field, reason }));
  });

export const withSources = Effect.fn("group.withSources")(function* (
  spec: GroupSpec,
  group: Group,
): Effect.fn.Return<GroupWithSources, SourceVolumeError, Ceph | DriverSettings> {
  const { atOnce: concurrency } = yield* DriverSettings;
  const withSource = (member: Member) =>
    Effect.map(sourceOf(spec, member), (source): MemberWithSource => ({ ...member, source }));
  return { ...group, members: yield* Effect.forEach(group.members, withSource, { concurrency }) };
});

const proveOneCluster = Effect.fnUntraced(function* (
  { sourceVolumeIds }: GroupSpec,
  sources: NonEmpty<LocatedSource>,
): Effect.fn.Return<void, InvalidRequest> {
  const { cluster } = sources[0].volume;
  const seen = new Set<string>();
  for (const [i, { volume }] of sources.entries()) {
    if (!sameCluster(cluster, volume.cluster)) {
      const reason = `names a volume in cluster ${volume.cluster.clusterId}, but source_volume_ids[0] names one in cluster ${cluster.clusterId}. A group snapshot is taken in one cluster and namespace`;
      return yield* new InvalidRequest({ field: `${FIELD}[${i}]`, reason });
    }
    const image = imageLabel(volume.pool, volume.imageName);
    if (seen.has(image)) return yield* repeated(i, sourceVolumeIds[i] ?? "");
    seen.add(image);
  }
});

/** The pool of the group's journal entry: the one that the class names, else that of the volume whose ID comes first. */
const groupPool = Effect.fnUntraced(function* (spec: GroupSpec, sources: NonEmpty<LocatedSource>) {
  const [lowest = ""] = spec.sourceVolumeIds.toSorted();
  const { volume, clusterId } = sources[spec.sourceVolumeIds.indexOf(lowest)] ?? sources[0];
  if (spec.groupPool === undefined) return { pool: volume.pool, poolId: volume.poolId, clusterId };
  const pool: PoolRef = { ...volume.pool, pool: spec.groupPool };
  return {
    pool,
    poolId: yield* (yield* Rados).poolId(pool.access, spec.groupPool, { dataPool: undefined }),
    clusterId,
  };
});

/** A group of volumes that has none has such an entry, too, and its RBD group. */
const proveNotOfVolumes = Effect.fnUntraced(function* (
  { requestName }: GroupSpec,
  pool: PoolRef,
  groupName: string,
): Effect.fn.Return<void, CephError | Conflict, Rbd> {
  if (!(yield* (yield* Rbd).groupExists(pool, groupName))) return;
  return yield* new Conflict({
    subject: `group snapshot ${requestName}`,
    problem: `has the name of a group of volumes, whose RBD group is ${imageLabel(pool, groupName)}`,
    remedy: "Delete that group, or use another name",
  });
});
