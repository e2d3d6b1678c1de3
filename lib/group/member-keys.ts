/**
 * The keys of the members of a group snapshot. A member has the LUKS header of the group's point in time, and is made after
 * it, maybe by a later call, when its volume may have another key (EncryptionKeyRotate).
 *
 * Not here: where keys are kept (lib/kms), and the key of a snapshot that is taken alone (lib/snapshot/key.ts).
 *
 * 1. The key of a member is the one that its volume had both before the point in time and after it. A mark of it is in the
 *    member's entry of the journal before the point in time is recorded: under the name of the attempt, which no other attempt has.
 * 2. A call that finds another key says so. It never keeps that for the member.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import type { Rbd } from "../ceph/rbd.ts";
import type { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import * as journal from "../journal/journal.ts";
import { type HoldKeyError, markOfKey, proveUnchanged, type SourceKey } from "../kms/keep-key.ts";
import { settleAll } from "../operations/settle-all.ts";
import type { Member } from "./member.ts";
import type { Group } from "./request.ts";

const { SNAPSHOTS } = journal;

/** `keys`: as they were read before the point in time, by member. */
export const markKeys = Effect.fn("group.markKeys")(function* (
  { groupName, members }: Group,
  keys: readonly (SourceKey | undefined)[],
): Effect.fn.Return<void, HoldKeyError, DriverSettings | Rados | Rbd> {
  yield* settleAll(members, ({ pool, snapshotId, uuid }, i) =>
    Effect.gen(function* () {
      const key = keys[i];
      const mark = key && markOfKey(key, snapshotId);
      if (key === undefined || mark === undefined) return;
      yield* proveUnchanged(key);
      yield* journal.writeKeyMark(SNAPSHOTS, pool, uuid, groupName, mark);
    }),
  );
});

/** -> whether the key is proven to be the member's. Not if an older driver has taken the point in time. */
export const proveMarked = Effect.fn("group.proveMarked")(function* (
  { groupName }: Pick<Group, "groupName">,
  { pool, snapshotId, sourceVolumeId, uuid }: Member,
  key: SourceKey | undefined,
): Effect.fn.Return<boolean, CephError | Precondition, Rados> {
  const mark = key && markOfKey(key, snapshotId);
  if (mark === undefined) return false;
  const marked = yield* journal.readKeyMark(SNAPSHOTS, pool, uuid, groupName);
  if (marked === undefined || marked === mark) return marked !== undefined;
  return yield* new Precondition({
    subject: `volume ${sourceVolumeId}`,
    problem: `has got another key (EncryptionKeyRotate) since the group snapshot was taken, and snapshot ${snapshotId}, a member of it, was not made yet`,
    remedy: "Delete the group snapshot, and take another",
  });
});
