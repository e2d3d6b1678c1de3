/**
 * DeleteVolumeGroupSnapshot: its name free, then its members deleted as any snapshot is, then its entry.
 *
 * 1. The name goes first: who asks for it again gets a new group snapshot, not what is left of this one. The entry goes
 *    last: whatever was cut off is found by the ID and goes on.
 * 2. What does not exist is deleted; "could not tell" is an error.
 * 3. Nothing is touched for an ID that names a group of volumes, or when the caller knows of other members.
 */
import * as Effect from "effect/Effect";
import { Rbd } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import * as journal from "../journal/journal.ts";
import { compareMembers, locateGroup, locateMembers } from "../journal/locate-group.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { deleteSnapshot } from "../snapshot/delete.ts";
import { groupLock } from "./create.ts";

const { GROUPS } = journal;

export const deleteGroupSnapshot = (
  options: VolumeOptions,
  groupSnapshotId: string,
  snapshotIds: readonly string[],
  credentials: Credentials,
) =>
  Effect.gen(function* () {
    const locks = yield* Locks;
    const rbd = yield* Rbd;
    const body = Effect.gen(function* () {
      const group = yield* stage("find", locateGroup(groupSnapshotId, credentials));
      yield* stage("compare", compareMembers(group, snapshotIds));
      yield* stage("find", locateMembers(group, credentials));
      const { pool, uuid, entry } = group;
      const { requestName, groupName, members } = entry;
      const remove = Effect.gen(function* () {
        const taken = { uuid, entry: uuid, requestName };
        yield* stage("free name", journal.freeName(GROUPS, pool, options.instanceId, taken));
        yield* stage(
          "delete members",
          settleAll(members, (id) => deleteSnapshot(options, id, credentials, groupSnapshotId)),
        );
        yield* stage("remove group", rbd.groupRemove(pool, groupName));
        yield* stage("forget", journal.forget(GROUPS, pool, uuid));
      });
      yield* requestName === undefined
        ? remove
        : stage("lock", locks.withLock(groupLock(requestName), "exclusive", remove));
    });
    yield* stage("lock", locks.withLock(`group snapshot ${groupSnapshotId}`, "exclusive", body)).pipe(
      // CSI: what does not exist is deleted.
      Effect.catchTag("GroupSnapshotNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
    );
  });
