/**
 * CreateVolumeGroupSnapshot: takes one point in time of several volumes, by way of an RBD group that exists only
 * meanwhile. The members share the group's snapshot. Each of them is then cloned from it into an image of its own, and is
 * from there on an ordinary snapshot, in ceph-csi's layout, that any driver restores and deletes.
 *
 * It answers once the point in time is recorded, with `ready_to_use` false, and makes the members after the answer.
 *
 * Not here: how the point in time is taken (./point-in-time.ts), how the members are made (./make-members.ts), and the checks
 * of the request (./request.ts).
 *
 * 1. Names, UUIDs and IDs of the members follow from the group's UUID and the volumes, so a retry finds them.
 * 2. Until the creation time is in the journal nobody knows of the group snapshot: a failure undoes everything, and a
 *    retry takes the point in time anew. From then on nothing is undone, and the next call makes what is missing.
 * 3. The RBD group goes last: while a member's image ID is not in the journal, that member can be cloned again. So do
 *    those of earlier attempts, because a driver that was overtaken may have made its own late, and died.
 * 4. A complete group snapshot needs none of its volumes, and one that is not needs those of the missing members only.
 *    While it is not, DeleteVolume refuses them (lib/images/persons-snapshots.ts).
 * 5. A repeated request with other members is a Conflict.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { Clusters } from "../config/clusters.ts";
import type { InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import type { LockHeld } from "../csi/errors.ts";
import type { CsiGroupSnapshot } from "../csi/messages.ts";
import type { Flatten } from "../images/flatten.ts";
import type { Purge } from "../images/purge.ts";
import type { Kms } from "../kms/kms.ts";
import { compensated } from "../operations/compensation.ts";
import { LockKey, shared } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { readSourceKey } from "../snapshot/key.ts";
import { poolTopology } from "../snapshot/topology.ts";
import { finishUndo, removeGroups } from "./attempt.ts";
import {
  findSources,
  isMade,
  lookAtMembers,
  makeMembers,
  type MakeMembersError,
  sizeOf,
  type TakenGroup,
} from "./make-members.ts";
import { takePointInTime, type TakePointInTimeError } from "./point-in-time.ts";
import {
  findGroup,
  type FindGroupError,
  type Group,
  type GroupRequest,
  type GroupSpec,
  readGroupSpec,
  withSources,
} from "./request.ts";

export type CreateGroupSnapshotError =
  | FindGroupError
  | TakePointInTimeError
  | MakeMembersError
  | InvalidParameter
  | InvalidSecret
  | LockHeld;
type Needs = Ceph | Clusters | ClusterMapping | DriverSettings | Flatten | Kms | Purge;

/** `answerEarly` is called at most once, when the point in time is safe; the recipe ends when every member is ready. */
export const createGroupSnapshot = Effect.fn("group.createGroupSnapshot")(function* (
  request: GroupRequest,
  answerEarly: (group: CsiGroupSnapshot) => Effect.Effect<void>,
): Effect.fn.Return<CsiGroupSnapshot, CreateGroupSnapshotError, Needs | Locks> {
  const spec = yield* stage("validate", readGroupSpec(request));
  const locks = yield* Locks;
  // The volumes are not deleted meanwhile, and are in no other RBD group.
  const held = [
    LockKey.groupSnapshotName(spec.requestName),
    ...spec.sourceVolumeIds.map((id) => shared(LockKey.volume(id))),
    ...spec.sourceVolumeIds.map((id) => LockKey.groupMembership(id)),
  ];
  return yield* locks.with(held, createLocked(spec, answerEarly));
});

const createLocked = Effect.fnUntraced(function* (
  spec: GroupSpec,
  answerEarly: (group: CsiGroupSnapshot) => Effect.Effect<void>,
): Effect.fn.Return<CsiGroupSnapshot, CreateGroupSnapshotError, Needs> {
  const { driverName } = yield* DriverSettings;
  const found = yield* stage("find group", findUsable(spec));
  const { createdAt } = found;
  const group: TakenGroup = createdAt === undefined ? yield* takeNow(spec, found) : { ...found, createdAt };
  const describe = describer(group, (pool) => poolTopology(pool, spec.constrainedPools, driverName));
  // From here on nothing is undone: the caller counts on this point in time.
  const images = yield* stage("look at members", lookAtMembers(spec, group));
  if (images.every(isMade)) {
    yield* stage("remove group", removeGroups(group));
    return describe(images.map(({ status }) => status.sizeBytes));
  }
  const sources = yield* findSources(spec, group, images);
  const sizes = images.map(({ status }, i) => status?.sizeBytes ?? sizeOf(sources[i]));
  // Where a volume is gone the caller hears of that instead, once the other members are made.
  if (sizes.every((size) => size !== undefined)) yield* stage("answer", answerEarly(describe(sizes, false)));
  const made = yield* makeMembers(spec, group, images, sources);
  yield* stage("remove group", removeGroups(group));
  return describe(made);
});

const takeNow = Effect.fnUntraced(function* (
  spec: GroupSpec,
  found: Group,
): Effect.fn.Return<TakenGroup, CreateGroupSnapshotError, Needs> {
  const group = yield* stage("find sources", withSources(spec, found));
  const sources = group.members.map(({ source }) => source);
  // Read before the point in time: a key that is out of reach fails the call while nothing is made.
  const keys = yield* settleAll(sources, (source) => readSourceKey(source, spec.secrets));
  const { createdAt, groupName, parts } = yield* compensated(takePointInTime(spec, group));
  return { ...group, createdAt, groupName, known: { parts, sources, keys } };
});

/** The group snapshot, once nothing of an attempt that was given up is left. */
const findUsable = Effect.fnUntraced(function* (
  spec: GroupSpec,
): Effect.fn.Return<Group, CreateGroupSnapshotError, Needs> {
  const group = yield* findGroup(spec);
  if (!group.isGivenUp) return group;
  yield* finishUndo(spec, group);
  return yield* findGroup(spec);
});

/** `topologyOf`: from where a pool can be reached. */
const describer =
  (
    { groupSnapshotId, createdAt, members }: TakenGroup,
    topologyOf: (pool: string) => ReturnType<typeof poolTopology>,
  ) =>
  (sizes: readonly bigint[], ready = true): CsiGroupSnapshot => ({
    groupSnapshotId,
    createdAt,
    ready,
    snapshots: members.map(({ pool, sourceVolumeId, snapshotId }, i) => {
      const usableFrom = topologyOf(pool.pool);
      return { snapshotId, sourceVolumeId, sizeBytes: sizes[i] ?? 0n, createdAt, ready, groupSnapshotId, usableFrom };
    }),
  });
