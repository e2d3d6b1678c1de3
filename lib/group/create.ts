/**
 * CreateVolumeGroupSnapshot: takes one point in time of several volumes, by way of an RBD group that exists only
 * meanwhile. The members share the group's snapshot. Each of them is then cloned from it into an image of its own, and is
 * from there on an ordinary snapshot, in ceph-csi's layout, that any driver restores and deletes.
 *
 * It answers once every member is ready. CSI lets it answer earlier with `ready_to_use` false, but csi-snapshotter keeps what
 * the first answer says of the members, so they would never be ready in Kubernetes.
 *
 * Not here: how the point in time is taken (./point-in-time.ts), how the members are made (./make-members.ts), and the checks
 * of the request (./request.ts).
 *
 * 1. Names, UUIDs and IDs of the members follow from the group's UUID and the volumes, so a retry finds them.
 * 2. Until the creation time is in the journal nobody knows of the group snapshot: a failure undoes everything, also what
 *    earlier calls have left, and a retry takes the point in time anew. From then on nothing is undone, no failure says that nothing happened, and the next
 *    call makes what is missing.
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
import { type LockHeld, NotReadyYet } from "../csi/errors.ts";
import type { CsiGroupSnapshot } from "../csi/messages.ts";
import type { Flatten } from "../images/flatten.ts";
import type { Purge } from "../images/purge.ts";
import type { Kms } from "../kms/kms.ts";
import { compensated } from "../operations/compensation.ts";
import { LockKey, shared } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { outcomeOf } from "../operations/outcomes.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { readSourceKey } from "../snapshot/key.ts";
import { poolTopology } from "../snapshot/topology.ts";
import { finishUndo, orUndoFound, removeGroups } from "./attempt.ts";
import {
  findSources,
  isMade,
  lookAtMembers,
  makeMembers,
  type MakeMembersError,
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

export const createGroupSnapshot = Effect.fn("group.createGroupSnapshot")(function* (
  request: GroupRequest,
): Effect.fn.Return<CsiGroupSnapshot, CreateGroupSnapshotError, Needs | Locks> {
  const spec = yield* stage("validate", readGroupSpec(request));
  const locks = yield* Locks;
  // The volumes are not deleted meanwhile, and are in no other RBD group.
  const held = [
    LockKey.groupSnapshotName(spec.requestName),
    ...spec.sourceVolumeIds.map((id) => shared(LockKey.volume(id))),
    ...spec.sourceVolumeIds.map((id) => LockKey.groupMembership(id)),
  ];
  return yield* locks.with(held, createLocked(spec));
});

const createLocked = Effect.fnUntraced(function* (
  spec: GroupSpec,
): Effect.fn.Return<CsiGroupSnapshot, CreateGroupSnapshotError, Needs> {
  const found = yield* stage("find group", findUsable(spec));
  const { createdAt } = found;
  const group: TakenGroup = createdAt === undefined ? yield* takeNow(spec, found) : { ...found, createdAt };
  return yield* Effect.mapError(finish(spec, group), (error) => asUnfinished(group, error));
});

/** Makes what is missing of a group snapshot whose point in time is recorded. */
const finish = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: TakenGroup,
): Effect.fn.Return<CsiGroupSnapshot, MakeMembersError, Needs> {
  const { driverName } = yield* DriverSettings;
  const describe = describer(group, (pool) => poolTopology(pool, spec.constrainedPools, driverName));
  // From here on nothing is undone: a retry goes on with this point in time.
  const images = yield* stage("look at members", lookAtMembers(spec, group));
  if (images.every(isMade)) {
    yield* stage("remove group", removeGroups(group));
    return describe(images.map(({ status }) => status.sizeBytes));
  }
  const sources = yield* findSources(spec, group, images);
  const made = yield* makeMembers(spec, group, images, sources);
  yield* stage("remove group", removeGroups(group));
  return describe(made);
});

/**
 * The code of a failure that undid everything would have the caller forget a group snapshot that is there. What only a person
 * mends keeps its code.
 */
const asUnfinished = ({ groupSnapshotId }: Group, error: MakeMembersError): MakeMembersError =>
  error._tag === "Precondition" || outcomeOf(error) !== "none"
    ? error
    : new NotReadyYet({
        subject: `group snapshot ${groupSnapshotId}`,
        problem: `is taken, but not all of its members are made: ${error.message}`,
        remedy: "The automatic retry goes on with it",
      });

const takeNow = Effect.fnUntraced(function* (
  spec: GroupSpec,
  found: Group,
): Effect.fn.Return<TakenGroup, CreateGroupSnapshotError, Needs> {
  const { group, sources, keys } = yield* orUndoFound(spec, found)(readSources(spec, found));
  const { createdAt, groupName, parts } = yield* compensated(takePointInTime(spec, group, keys));
  return { ...group, createdAt, groupName, known: { parts, sources, keys } };
});

/** Read before the point in time: a key that is out of reach fails the call while this one has made nothing. */
const readSources = Effect.fnUntraced(function* (spec: GroupSpec, found: Group) {
  const group = yield* stage("find sources", withSources(spec, found));
  const sources = group.members.map(({ source }) => source);
  const keys = yield* settleAll(sources, (source) => readSourceKey(source, spec.secrets));
  return { group, sources, keys };
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
  (sizes: readonly bigint[]): CsiGroupSnapshot => ({
    groupSnapshotId,
    createdAt,
    ready: true,
    snapshots: members.map(({ pool, sourceVolumeId, snapshotId }, i) => {
      const usableFrom = topologyOf(pool.pool);
      const sizeBytes = sizes[i] ?? 0n;
      return { snapshotId, sourceVolumeId, sizeBytes, createdAt, ready: true, groupSnapshotId, usableFrom };
    }),
  });
