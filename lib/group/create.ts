/**
 * CreateVolumeGroupSnapshot: takes one point in time of several volumes, by way of an RBD group that exists only
 * meanwhile. The members share the group's snapshot. Each of them is then cloned from it into an image of its own, and is
 * from there on an ordinary snapshot, in ceph-csi's layout, that any driver restores and deletes.
 *
 * It answers once the point in time is recorded, with `ready_to_use` false, and makes the members after the answer.
 *
 * Not here: how the point in time is taken (./point-in-time.ts), and the checks of the request (./request.ts).
 *
 * 1. Names, UUIDs and IDs of the members follow from the group's UUID and the volumes, so a retry finds them.
 * 2. Until the creation time is in the journal nobody knows of the group snapshot: a failure undoes everything, and a
 *    retry takes the point in time anew. From then on nothing is undone, and the next call makes what is missing.
 * 3. The RBD group goes last: while a member's image ID is not in the journal, that member can be cloned again. It gets an
 *    image of another name then, and only the call that put that name into the journal records the image as complete.
 * 4. A repeated request with other members is a Conflict.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import { type LockHeld, type NotReadyYet, Precondition } from "../csi/errors.ts";
import type { CsiGroupSnapshot } from "../csi/messages.ts";
import { Flatten } from "../images/flatten.ts";
import { holderSpec } from "../images/layout.ts";
import type { Purge } from "../images/purge.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { clearUnfinished, discardUnfinished } from "../images/removal.ts";
import { nextName, previousNames } from "../journal/attempt-names.ts";
import * as journal from "../journal/journal.ts";
import type { SourceKey } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { compensated } from "../operations/compensation.ts";
import { LockKey, shared } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { copySnapshotKey, readSourceKey, type SnapshotKeyError } from "../snapshot/key.ts";
import { makeReady } from "../snapshot/finish.ts";
import { poolTopology } from "../snapshot/topology.ts";
import { finishUndo, memberImageName } from "./attempt.ts";
import type { Member } from "./member.ts";
import { partsOf, takePointInTime, type TakePointInTimeError } from "./point-in-time.ts";
import {
  findGroup,
  type FindGroupError,
  type Group,
  type GroupRequest,
  type GroupSpec,
  readGroupSpec,
} from "./request.ts";

export type CreateGroupSnapshotError =
  | FindGroupError
  | TakePointInTimeError
  | InvalidParameter
  | InvalidSecret
  | NotReadyYet
  | SnapshotKeyError
  | LockHeld;
const { imageNameOf, readAttributes, SNAPSHOTS } = journal;
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
  // Read before the point in time: a key that is out of reach fails the call while nothing is made.
  const keys = found.createdAt === undefined ? yield* readSourceKeys(spec, found) : undefined;
  const describe = describer(found, (pool) => poolTopology(pool, spec.constrainedPools, driverName));
  const { createdAt, groupName, parts } =
    found.createdAt === undefined
      ? yield* compensated(takePointInTime(spec, found))
      : { createdAt: found.createdAt, groupName: found.groupName, parts: undefined };
  const group = { ...found, groupName };
  // From here on nothing is undone: the caller counts on this point in time.
  const images = yield* stage("look at members", lookAtMembers(spec, group));
  const ready = images.every(({ status }) => status !== undefined);
  if (!ready) yield* stage("answer", answerEarly(describe(createdAt, [], false)));
  const sizes = ready
    ? images.map(({ status }) => status?.sizeBytes)
    : yield* makeMembers(spec, group, images, { parts, keys });
  yield* stage("remove group", (yield* Rbd).groupRemove(group.pool, group.groupName));
  return describe(createdAt, sizes, true);
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

interface MemberImage {
  readonly member: Member;
  readonly imageName: string;
  /** Absent: the image is to be made. */
  readonly status: ImageStatus | undefined;
}

/** Which members are complete: none of a new group. */
const lookAtMembers = (
  spec: GroupSpec,
  { reservation, members }: Group,
): Effect.Effect<readonly MemberImage[], CephError | Precondition, Ceph | DriverSettings> =>
  reservation === undefined
    ? Effect.succeed(members.map((member) => ({ member, imageName: memberImageName(spec, member), status: undefined })))
    : settleAll(members, lookAtMember);

const lookAtMember = Effect.fnUntraced(function* (
  member: Member,
): Effect.fn.Return<MemberImage, CephError | Precondition, Ceph> {
  const { pool, uuid, snapshotId } = member;
  const attributes = yield* readAttributes(SNAPSHOTS, pool, uuid);
  const imageName = imageNameOf(SNAPSHOTS, uuid, attributes);
  if (attributes !== undefined && attributes.imageId === undefined) return { member, imageName, status: undefined };
  const status = attributes && (yield* statusIfThere(pool, imageName));
  if (status !== undefined) return { member, imageName, status };
  return yield* new Precondition({
    subject: `snapshot ${snapshotId}`,
    problem: "is gone, but the group snapshot that it is a member of is not",
    remedy: "Delete the group snapshot, and take another",
  });
});

/** What a call that took the point in time itself knows of it. */
interface Known {
  readonly parts: readonly bigint[] | undefined;
  readonly keys: readonly (SourceKey | undefined)[] | undefined;
}

const readSourceKeys = ({ secrets }: GroupSpec, { members }: Group) =>
  settleAll(members, ({ source }) => readSourceKey(source, secrets));

/** Makes the members that are missing; -> the sizes of all, in their order. */
const makeMembers = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: Group,
  images: readonly MemberImage[],
  known: Known,
): Effect.fn.Return<readonly bigint[], CreateGroupSnapshotError, Needs> {
  const parts = known.parts ?? (yield* stage("look at point in time", partsOf(group)));
  const keys = known.keys ?? (yield* readSourceKeys(spec, group));
  // Nobody makes an image of a point in time before it is recorded.
  const isNew = known.parts !== undefined;
  return yield* settleAll(images, (image, i) =>
    image.status === undefined
      ? Effect.map(makeMember(spec, image, { part: parts[i] ?? 0n, key: keys[i] }, isNew), ({ sizeBytes }) => sizeBytes)
      : Effect.succeed(image.status.sizeBytes),
  );
});

/** Clones the member's part of the group's snapshot, and makes the clone ready. */
const makeMember = Effect.fnUntraced(function* (
  { parameters, secrets }: GroupSpec,
  { member: { source, pool, uuid, snapshotId }, imageName: found }: MemberImage,
  { part, key }: { readonly part: bigint; readonly key: SourceKey | undefined },
  isNew: boolean,
): Effect.fn.Return<ImageStatus, CreateGroupSnapshotError, Needs> {
  const rbd = yield* Rbd;
  const { minSnapshots } = yield* DriverSettings;
  const imageName = isNew ? found : yield* takeOverMember(pool, uuid, found);
  const snapshot = { pool, image: source.volume.imageName, snapshot: part };
  const clone = rbd.imageClone(snapshot, pool, imageName, holderSpec(source.image));
  yield* stage("clone", Effect.catchTag(clone, ["Exists", "ImageSnapshotNotFound"], asRaced));
  const status = yield* stage("clone", orRaced(rbd.imageStatus(pool, imageName)));
  yield* copySnapshotKey(source, key, { snapshotId, pool, imageName }, secrets);
  const complete = (imageId: string) => journal.storeOwnImageId(SNAPSHOTS, pool, uuid, imageName, imageId);
  yield* makeReady({ pool, uuid, imageName }, { complete }, status.id, parameters).pipe(
    Effect.tapErrorTag("Raced", () => Effect.ignore(discardReplaced(pool, uuid, imageName))),
  );
  // The snapshot that stays on the source does not have the clone's name, by which a later call could flatten the clone.
  if (source.image.snapshotCount >= minSnapshots) yield* (yield* Flatten).request(pool, imageName);
  return status;
});

/** An image whose name is no longer the journal's is called complete by nobody. */
const NOBODYS = Effect.void;

/**
 * Makes this call the one that may record the member's image as complete; then removes what earlier calls made.
 * -> the name of the image to make.
 */
const takeOverMember = Effect.fnUntraced(function* (
  pool: PoolRef,
  uuid: string,
  earlier: string,
): Effect.fn.Return<string, CreateGroupSnapshotError, Needs> {
  const imageName = nextName(earlier, uuid);
  const clear = (name: string) => stage("remove unfinished clone", clearUnfinished(pool, name, NOBODYS, [name]));
  yield* Effect.forEach(previousNames(earlier, uuid), clear);
  const takeOver = journal.replaceImage(SNAPSHOTS, pool, uuid, earlier, imageName);
  yield* stage("take over", Effect.catchTag(takeOver, "ObjectNotFound", asRaced));
  yield* clear(earlier);
  return imageName;
});

/** Removes an image that this call made, if the member has another by now, or is deleted. */
const discardReplaced = Effect.fnUntraced(function* (pool: PoolRef, uuid: string, imageName: string) {
  const attributes = yield* readAttributes(SNAPSHOTS, pool, uuid);
  if (imageNameOf(SNAPSHOTS, uuid, attributes) === imageName && attributes !== undefined) return;
  yield* discardUnfinished(pool, imageName, NOBODYS, [imageName]);
});

/** A member without a size in `sizes` has that of its volume. `topologyOf`: from where a pool can be reached. */
const describer =
  ({ groupSnapshotId, members }: Group, topologyOf: (pool: string) => ReturnType<typeof poolTopology>) =>
  (createdAt: number, sizes: readonly (bigint | undefined)[], ready: boolean): CsiGroupSnapshot => ({
    groupSnapshotId,
    createdAt,
    ready,
    snapshots: members.map(({ source, pool, sourceVolumeId, snapshotId }, i) => {
      const sizeBytes = sizes[i] ?? source.image.sizeBytes;
      const usableFrom = topologyOf(pool.pool);
      return { snapshotId, sourceVolumeId, sizeBytes, createdAt, ready, groupSnapshotId, usableFrom };
    }),
  });
