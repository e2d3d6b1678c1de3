/**
 * DeleteSnapshot: moves the image that holds the point in time to the trash, removes its key, then frees its name. Volumes that were
 * restored from it stay: their parent waits in the trash until the last of them is deleted or flattened.
 *
 * Not here: when an image may go, and its way to the trash (lib/images/removal.ts).
 *
 * 1. Deleting what does not exist succeeds; "could not tell" is an error.
 * 2. It waits for a restore from the snapshot that runs.
 * 3. A member of a group snapshot goes with its group, and its deletion alone is refused, as CSI permits. A member whose group is
 *    gone is a snapshot like any other.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials, Requester } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { InvalidRequest, type LockHeld, type Precondition, type SnapshotNotFound } from "../csi/errors.ts";
import { removeKey } from "../images/key-removal.ts";
import type { Purge } from "../images/purge.ts";
import { orRaced } from "../images/races.ts";
import { discardUnfinished, removeImages } from "../images/removal.ts";
import { earlierNames } from "../journal/attempt-names.ts";
import { giveUp, readAttributes, SNAPSHOTS, unreserve } from "../journal/journal.ts";
import { locateGroup } from "../journal/locate-group.ts";
import { type LocatedVolume, locateSnapshot } from "../journal/locate.ts";
import type { Kms } from "../kms/kms.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";

export type DeleteSnapshotError = CephError | ConfigError | InvalidRequest | Precondition | LockHeld;
type Needs = Ceph | Clusters | DriverSettings | Kms | Purge | Locks;

/** `deletedGroupId`: the group snapshot that is being deleted with this member of it. */
export const deleteSnapshot = Effect.fn("snapshot.deleteSnapshot")(function* (
  snapshotId: string,
  requester: Requester,
  deletedGroupId?: string,
): Effect.fn.Return<void, DeleteSnapshotError, Needs> {
  const locks = yield* Locks;
  yield* locks.with([LockKey.snapshot(snapshotId)], deleteLocked(snapshotId, requester, deletedGroupId)).pipe(
    // CSI: the deletion of what does not exist succeeds.
    Effect.catchTag("SnapshotNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
  );
});

const deleteLocked = Effect.fnUntraced(function* (
  snapshotId: string,
  { credentials, secrets }: Requester,
  deletedGroupId: string | undefined,
): Effect.fn.Return<void, DeleteSnapshotError | SnapshotNotFound, Needs> {
  const locks = yield* Locks;
  const snapshot = yield* stage("find snapshot", locateSnapshot(snapshotId, credentials));
  const { requestName, groupId } = snapshot.attributes ?? {};
  if (groupId !== undefined && groupId !== deletedGroupId) {
    yield* stage("find group", proveNotMember(snapshotId, groupId, credentials));
  }
  const name = requestName === undefined ? undefined : LockKey.snapshotName(requestName);
  const removed = Effect.flatMap(asOfNow(snapshot), (now) => remove(now, secrets));
  yield* locks.with([name], removed);
});

/** What was not ready may be by now: this call has waited for the one that makes it. */
const asOfNow = (snapshot: LocatedVolume): Effect.Effect<LocatedVolume, CephError, Rados> =>
  snapshot.attributes === undefined || snapshot.attributes.imageId !== undefined
    ? Effect.succeed(snapshot)
    : Effect.map(readAttributes(SNAPSHOTS, snapshot.pool, snapshot.uuid), (attributes) => ({
        ...snapshot,
        attributes,
      }));

const proveNotMember = (snapshotId: string, groupId: string, credentials: Credentials) =>
  locateGroup(groupId, credentials).pipe(
    Effect.flatMap(({ entry }) => {
      if (!entry.members.includes(snapshotId)) return Effect.void;
      const reason = `is a member of group snapshot ${groupId}. Delete the group snapshot`;
      return Effect.fail(new InvalidRequest({ field: "snapshot_id", reason }));
    }),
    Effect.catchTag("GroupSnapshotNotFound", () => Effect.void),
  );

/** ceph-csi moves a source to the trash with the transient snapshot, where it would stay for ever. */
const clearTrashed = Effect.fnUntraced(function* (
  pool: PoolRef,
  source: string,
  transient: string,
): Effect.fn.Return<void, CephError, Rbd> {
  const rbd = yield* Rbd;
  for (const { id, name, source: who, protectedUntil } of yield* rbd.trashList(pool)) {
    if (name !== source || who !== "user" || protectedUntil !== undefined) continue;
    // it may be taken out of the trash, or be removed
    yield* Effect.catchTag(
      rbd.trashSnapshotRemove(pool, id, transient),
      ["ImageNotFound", "ParentLost"],
      () => Effect.void,
    );
  }
});

const remove = Effect.fnUntraced(function* (
  snapshot: LocatedVolume,
  secrets: Requester["secrets"],
): Effect.fn.Return<void, CephError | Precondition, Ceph | DriverSettings | Kms | Purge> {
  const { pool, uuid, imageName, attributes } = snapshot;
  const { instanceId } = yield* DriverSettings;
  const { imageId, source, requestName, groupId, maker } = attributes ?? {};
  // Members of groups are taken over by the name of their image (lib/journal/attempt-names.ts).
  const isUnfinished = attributes !== undefined && imageId === undefined && groupId === undefined;
  const first = isUnfinished ? orRaced(giveUp(SNAPSHOTS, pool, uuid, { maker }, false)) : Effect.void;
  if (imageId === undefined && source !== undefined) {
    // The snapshot was never ready: its source may still have the transient snapshot that the clone was made of.
    const transient = (yield* Rbd).snapshotRemove(pool, source, imageName);
    yield* stage(
      "clear source",
      Effect.catchTag(transient, "ImageNotFound", () => clearTrashed(pool, source, imageName)),
    );
  }
  for (const earlier of earlierNames(imageName, uuid)) {
    yield* stage("remove unfinished image", discardUnfinished(pool, earlier, Effect.void, [earlier]));
  }
  yield* stage("remove image", removeImages([{ pool, imageName, imageId, snapshots: [imageName] }], 0, first));
  yield* removeKey(snapshot, secrets);
  if (attributes === undefined) return;
  yield* stage("free name", unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName }));
});
