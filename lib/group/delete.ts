/**
 * DeleteVolumeGroupSnapshot: frees its name, deletes its members as any snapshot is deleted, then removes its entry.
 *
 * Not here: how a member is deleted (lib/snapshot/delete.ts).
 *
 * 1. The name goes first: whoever asks for it again gets a new group snapshot, not the rest of this one. The entry goes
 *    last: a deletion that was cut off is found by the ID and goes on.
 * 2. Deleting what does not exist succeeds, also a member whose pool is gone; "could not tell" is an error.
 *    So does that of an entry without members, which ceph-csi leaves that is cut off: the entry and its name go.
 * 3. Nothing changes if the ID is that of a group of volumes, or if the caller names other members.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Credentials, Requester } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { GroupSnapshotNotFound } from "../csi/errors.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import type { Purge } from "../images/purge.ts";
import * as journal from "../journal/journal.ts";
import { compareMembers, type LocatedGroup, locateEntry, locateMembers } from "../journal/locate-group.ts";
import type { Kms } from "../kms/kms.ts";
import { credentialsFor } from "../listing/cluster-credentials.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { removeGroups, removeHalfMade } from "./attempt.ts";
import { deleteSnapshot, type DeleteSnapshotError } from "../snapshot/delete.ts";

export type DeleteGroupSnapshotError = DeleteSnapshotError;
type Needs = Ceph | Clusters | ClusterSecrets | DriverSettings | Kms | Purge | Locks;

/** Who asks; without credentials where the request brings no secrets. */
export type GroupDeleter = Omit<Requester, "credentials"> & { readonly credentials: Credentials | undefined };

const { GROUPS } = journal;

/**
 * Without `credentials` of the request, it uses those that the administrator has given for the cluster: the object of a group
 * snapshot that a person has made in Kubernetes names no secrets.
 */
export const deleteGroupSnapshot = Effect.fn("group.deleteGroupSnapshot")(function* (
  groupSnapshotId: string,
  snapshotIds: readonly string[],
  { credentials: requestCredentials, secrets }: GroupDeleter,
): Effect.fn.Return<void, DeleteGroupSnapshotError, Needs> {
  const locks = yield* Locks;
  const gone = (reason: string) => new GroupSnapshotNotFound({ groupSnapshotId, reason });
  const found = stage("find credentials", credentialsFor(parseVolumeId(groupSnapshotId), requestCredentials, gone));
  const deleted = Effect.flatMap(found, (credentials) =>
    deleteLocked(groupSnapshotId, snapshotIds, { credentials, secrets }),
  );
  yield* locks.with([LockKey.groupSnapshot(groupSnapshotId)], deleted).pipe(
    // CSI: the deletion of what does not exist succeeds.
    Effect.catchTag("GroupSnapshotNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
  );
});

const deleteLocked = Effect.fnUntraced(function* (
  groupSnapshotId: string,
  snapshotIds: readonly string[],
  requester: Requester,
): Effect.fn.Return<void, DeleteGroupSnapshotError | GroupSnapshotNotFound, Needs> {
  const { credentials } = requester;
  const locks = yield* Locks;
  const group = yield* stage("find group", locateEntry(groupSnapshotId, credentials));
  const { pool, uuid } = group;
  const { requestName, groupName, members } = group.entry;
  const isHalfMade = members.length === 0;
  if (!isHalfMade) yield* stage("compare members", compareMembers(group, snapshotIds));
  yield* stage("find members", locateMembers(group, credentials));
  const halfMade = stage("free name", removeHalfMade({ pool, uuid, groupName, requestName }));
  const name = requestName === undefined ? undefined : LockKey.groupSnapshotName(requestName);
  yield* locks.with([name], isHalfMade ? halfMade : remove(group, requester));
});

const remove = Effect.fnUntraced(function* (
  { groupSnapshotId, pool, uuid, entry: { requestName, groupName, members } }: LocatedGroup,
  requester: Requester,
): Effect.fn.Return<void, DeleteSnapshotError, Needs> {
  const { instanceId } = yield* DriverSettings;
  yield* stage("free name", journal.freeName(GROUPS, pool, instanceId, { uuid, entry: uuid, requestName }));
  const deletions = settleAll(members, (snapshotId) => deleteSnapshot(snapshotId, requester, groupSnapshotId));
  yield* stage("delete members", deletions);
  yield* stage("remove group", removeGroups({ pool, uuid, groupName }));
  yield* stage("forget", journal.forget(GROUPS, pool, uuid));
});
