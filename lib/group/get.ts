/**
 * GetVolumeGroupSnapshot: a group snapshot as the journal has it, with its members as they are now.
 *
 * Not here: the members of a group snapshot that is being made (./create.ts).
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { Rbd } from "../ceph/rbd.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { GroupSnapshotNotFound, type InvalidRequest, Precondition } from "../csi/errors.ts";
import type { CsiGroupSnapshot, CsiSnapshot } from "../csi/messages.ts";
import { sourceVolumeId } from "../csi/source-volume-id.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { statusIfThere } from "../images/races.ts";
import { compareMembers, type LocatedMember, locateGroup, locateMembers } from "../journal/locate-group.ts";
import { credentialsFor } from "../listing/cluster-credentials.ts";

export type GetGroupSnapshotError = CephError | ConfigError | InvalidRequest | Precondition | GroupSnapshotNotFound;

/** Without `credentials` of the request, it uses those that the administrator has given for the cluster. */
export const getGroupSnapshot = Effect.fn("group.getGroupSnapshot")(function* (
  groupSnapshotId: string,
  snapshotIds: readonly string[],
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<CsiGroupSnapshot, GetGroupSnapshotError, Ceph | Clusters | ClusterSecrets | DriverSettings> {
  const gone = (reason: string) => new GroupSnapshotNotFound({ groupSnapshotId, reason });
  const { atOnce: concurrency } = yield* DriverSettings;
  const credentials = yield* credentialsFor(parseVolumeId(groupSnapshotId), requestCredentials, gone);
  const group = yield* locateGroup(groupSnapshotId, credentials);
  yield* compareMembers(group, snapshotIds);
  const members = yield* locateMembers(group, credentials);
  const snapshots = yield* Effect.forEach(members, (member) => describeMember(groupSnapshotId, member), {
    concurrency,
  });
  const times = snapshots.map(({ createdAt }) => createdAt).filter((time) => time > 0);
  const createdAt = group.entry.createdAt ?? Math.min(...times);
  if (!Number.isFinite(createdAt)) return yield* gone("its point in time is not taken yet");
  return {
    groupSnapshotId,
    createdAt,
    ready: snapshots.every(({ ready }) => ready),
    snapshots: snapshots.map((snapshot) => ({ ...snapshot, createdAt })),
  };
});

/** A member that is not ready has no image yet, or one that must not be used. */
const describeMember = Effect.fnUntraced(function* (
  groupSnapshotId: string,
  { snapshotId, located }: LocatedMember,
): Effect.fn.Return<CsiSnapshot, CephError | Precondition, Rbd> {
  const gone = new Precondition({
    subject: `snapshot ${snapshotId}`,
    problem: `is gone, but group snapshot ${groupSnapshotId}, which it is a member of, is not`,
    remedy: "Delete the group snapshot",
  });
  if (located === undefined) return yield* gone;
  const { cluster, pool, poolId, imageName, attributes } = located;
  const ready = attributes?.imageId !== undefined;
  const image = yield* statusIfThere(pool, imageName);
  if (attributes?.source === undefined || (ready && image === undefined)) return yield* gone;
  return {
    snapshotId,
    sourceVolumeId: sourceVolumeId(cluster.clusterId, poolId, attributes.source),
    sizeBytes: image?.sizeBytes ?? 0n,
    createdAt: image?.createdAt ?? 0,
    ready,
    groupSnapshotId,
  };
});
