/**
 * The point in time of a group snapshot, from the reservation of its names to its record in the journal.
 *
 * It is one point in time because librbd takes the exclusive locks of all members before the first snapshot and returns
 * none before the last one is made, so nobody writes in between. A member without that feature cannot be held; its own
 * snapshot is made while all others are held, so one such member does no harm, and two are refused.
 *
 * Not here: the members' own images (./make-members.ts); whose attempt counts, and the undo of one (./attempt.ts).
 *
 * 1. Nobody knows of the group snapshot until its creation time is in the journal: a failure before that undoes
 *    everything, and a retry takes the point in time anew. Nothing here runs after it.
 * 2. The creation time is recorded only while the journal has this attempt's RBD group: members are never cloned from the
 *    snapshot of another.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, Raced } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { type Conflict, type JournalCorrupt, Precondition, type TooMany } from "../csi/errors.ts";
import type { Flatten } from "../images/flatten.ts";
import { asRaced, orRaced } from "../images/races.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import { nextName, previousNames } from "../journal/attempt-names.ts";
import { recordPoint, replaceGroup, replaceHalfMade } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import type { HoldKeyError, SourceKey } from "../kms/keep-key.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { memberImageName, orUndoFound, removeUnrecorded, undoAttempt } from "./attempt.ts";
import type { Member, MemberWithSource } from "./member.ts";
import { markKeys } from "./member-keys.ts";
import type { Group, GroupSpec, GroupWithSources } from "./request.ts";

/** By label of the member's volume image, the id of its part of the RBD group's snapshot. */
export type Parts = ReadonlyMap<string, bigint>;

export interface PointInTime {
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly parts: Parts;
  /** The RBD group of the attempt. */
  readonly groupName: string;
}

export type TakePointInTimeError = HoldKeyError | Conflict | Precondition | TooMany | JournalCorrupt;
type Needs = Ceph | DriverSettings | Flatten | Compensations;

const { GROUPS, SNAPSHOTS } = journal;

/** `keys`: of the members, as they were read just now. */
export const takePointInTime = Effect.fn("group.takePointInTime")(function* (
  spec: GroupSpec,
  found: GroupWithSources,
  keys: readonly (SourceKey | undefined)[],
): Effect.fn.Return<PointInTime, TakePointInTimeError, Needs> {
  const rbd = yield* Rbd;
  yield* orUndoFound(spec, found)(stage("limit snapshots", limitMembers(found)));
  const group = yield* beginAttempt(spec, found);
  const { pool, uuid, groupName } = group;
  yield* settleAll(group.members, (member) => reserveMember(spec, group, member));
  yield* stage("form group", formGroup(group));
  yield* stage(
    "take point in time",
    Effect.catchTag(rbd.groupSnapshotCreate(pool, groupName, groupName), "Exists", asRaced),
  );
  const point = yield* stage("look at point in time", lookAtPoint(spec, group));
  yield* stage("mark keys", Effect.catchTag(markKeys(group, keys), "ObjectNotFound", asRaced));
  const recorded = recordPoint(pool, uuid, groupName, point.createdAt);
  yield* stage(
    "record point in time",
    // whoever overtook this attempt may have looked for its group before it was there
    Effect.tapErrorTag(recorded, "Raced", () => Effect.ignore(removeUnrecorded(group))),
  );
  return { ...point, groupName };
});

/** Refuses members that cannot be held, and those that have too many snapshots. */
const limitMembers = Effect.fnUntraced(function* ({
  members,
}: GroupWithSources): Effect.fn.Return<void, TakePointInTimeError, Needs> {
  const notHeld = members.flatMap(({ source: { volume, image } }) =>
    (image.features & FEATURE_BITS["exclusive-lock"]) === 0n ? [imageLabel(volume.pool, volume.imageName)] : [],
  );
  if (notHeld.length > 1) {
    return yield* new Precondition({
      subject: `images ${notHeld.join(", ")}`,
      problem:
        "lack the feature exclusive-lock, without which writes to them cannot be held back for one point in time",
      remedy: 'Add it with "rbd feature enable", to all of these images but one',
    });
  }
  for (const { source } of members) yield* limitSnapshots(source.volume, source.image);
});

/**
 * Makes this call the one that may record a point in time: by the entry that it writes, or by taking over from an earlier
 * attempt, whose RBD group is removed after that, or an entry that is half made. A later failure undoes all.
 */
const beginAttempt = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: GroupWithSources,
): Effect.fn.Return<GroupWithSources, TakePointInTimeError, Needs> {
  const { pool, uuid, reservation, groupName: earlier } = group;
  if (reservation?.attributes.requestName === undefined) return yield* reserve(spec, group);
  const rbd = yield* Rbd;
  const attempt = { ...group, groupName: nextName(earlier, uuid) };
  const removeGroup = (name: string) => stage("remove earlier group", rbd.groupRemove(pool, name));
  const clear = Effect.forEach(previousNames(earlier, uuid), removeGroup);
  const replaced = group.isHalfMade
    ? replaceHalfMade(pool, uuid, earlier, attempt.groupName, memberKeys(spec, group.members))
    : replaceGroup(pool, uuid, earlier, attempt.groupName);
  const takeOver = Effect.catchTag(replaced, "ObjectNotFound", asRaced);
  const taken = step("take over", takeOver, { undo: () => undoAttempt(spec, attempt) });
  yield* orUndoFound(spec, group)(Effect.andThen(clear, taken));
  yield* removeGroup(earlier);
  return attempt;
});

const memberKeys = (spec: GroupSpec, members: readonly Member[]) =>
  Object.fromEntries(members.map((member) => [member.snapshotId, memberImageName(spec, member)]));

/** Reserves the group's name, and writes its entry with the first attempt in it. */
const reserve = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: GroupWithSources,
): Effect.fn.Return<GroupWithSources, TakePointInTimeError, Needs> {
  const { instanceId } = yield* DriverSettings;
  const { requestName, groupPrefix: prefix } = spec;
  const { pool, uuid, reservation, members } = group;
  const wanted = { requestName, prefix, owner: undefined, uuid, more: memberKeys(spec, members) };
  const claimed = journal.claim(GROUPS, pool, instanceId, wanted, reservation);
  const free = journal.freeName(GROUPS, pool, instanceId, { uuid, entry: uuid, requestName });
  const claim = yield* reservation === undefined
    ? step("reserve", claimed, { when: "started", undo: free })
    : stage("reserve", claimed);
  const attempt = { ...group, groupName: claim.imageName };
  const written = journal.writeAttributes(GROUPS, pool, claim);
  yield* orUndoFound(spec, group)(step("reserve", written, { undo: () => undoAttempt(spec, attempt) }));
  // Another call may have completed the reservation and undone it, both before this one came to write the entry.
  if (yield* stage("reserve", journal.isNamed(GROUPS, pool, instanceId, requestName, claim))) return attempt;
  yield* stage("forget entry", journal.forget(GROUPS, pool, uuid));
  return yield* new Raced({ op: "rados_write_op_operate", subject: `group snapshot ${requestName}` });
});

const reserveMember = Effect.fnUntraced(function* (
  spec: GroupSpec,
  { reservation, groupSnapshotId: groupId }: Group,
  member: MemberWithSource,
): Effect.fn.Return<void, TakePointInTimeError, Needs> {
  const { instanceId } = yield* DriverSettings;
  const { pool, uuid, requestName, source } = member;
  const lookUp = stage("look up member", journal.lookUp(SNAPSHOTS, pool, instanceId, requestName));
  const earlier = reservation === undefined ? undefined : yield* lookUp;
  const {
    encryption,
    volume: { attributes, imageName },
  } = source;
  const prefix = spec.snapshotPrefix;
  const entry = { requestName, prefix, owner: attributes?.owner, source: imageName, groupId, uuid, encryption };
  yield* stage("reserve", journal.reserve(SNAPSHOTS, pool, instanceId, entry, earlier));
});

/** Makes the RBD group with the members in it. */
const formGroup = Effect.fnUntraced(function* (group: Group): Effect.fn.Return<void, TakePointInTimeError, Needs> {
  const { pool, groupName, members } = group;
  yield* Effect.catchTag((yield* Rbd).groupCreate(pool, groupName), "Exists", asRaced);
  for (const { source } of members) yield* addToGroup(group, source.volume.pool, source.volume.imageName);
});

const addToGroup = ({ pool, groupName }: Group, imagePool: PoolRef, image: string) =>
  Effect.flatMap(Rbd, (rbd) =>
    Effect.catchTag(rbd.groupAdd(pool, groupName, { pool: imagePool, image }), "Busy", () =>
      Effect.fail(
        new Precondition({
          subject: `image ${imageLabel(imagePool, image)}`,
          problem: "is in another RBD group, and an image can be in one only",
          remedy: 'Find the group with "rbd info", and take the image out of it with "rbd group image rm"',
        }),
      ),
    ),
  );

const lookAtPoint = Effect.fnUntraced(function* (
  { requestName }: GroupSpec,
  group: Group,
): Effect.fn.Return<Omit<PointInTime, "groupName">, TakePointInTimeError, Ceph> {
  const parts = yield* partsOf(group);
  const ids = yield* Effect.forEach(group.members, (member) => partOf(group, parts, member));
  const first = group.members[0]?.source.volume;
  const snapshots = first && (yield* orRaced((yield* Rbd).snapshots(first.pool, first.imageName)));
  const createdAt = snapshots?.find(({ id }) => id === ids[0])?.createdAt;
  if (createdAt !== undefined) return { createdAt, parts };
  return yield* new Raced({ op: "rbd_snap_list", subject: `group snapshot ${requestName}` });
});

/** The parts of the RBD group's snapshot whose images have their names, those in the trash have not; none without one. */
export const partsOf = Effect.fn("group.partsOf")(function* ({
  pool,
  groupName,
}: Pick<Group, "pool" | "groupName">): Effect.fn.Return<Parts, CephError, Rbd> {
  const parts = (yield* (yield* Rbd).groupSnapshotMembers(pool, groupName, groupName)) ?? [];
  return new Map(parts.map((part) => [imageLabel({ ...pool, ...part }, part.image), part.snapshotId]));
});

/** Fails when the snapshot has no part of the member's volume. */
export const partOf = (
  { pool, groupName }: Pick<Group, "pool" | "groupName">,
  parts: Parts,
  { source: { volume } }: Member,
): Effect.Effect<bigint, Precondition> => {
  const image = imageLabel(volume.pool, volume.imageName);
  const id = parts.get(image);
  if (id !== undefined) return Effect.succeed(id);
  return Effect.fail(
    new Precondition({
      subject: `RBD group ${imageLabel(pool, groupName)}`,
      problem: `has a snapshot without a part of image ${image}`,
      remedy: "Delete the group snapshot, and take another",
    }),
  );
};
