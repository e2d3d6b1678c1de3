/**
 * The point in time of a group snapshot, from the reservation of its names to its record in the journal.
 *
 * It is one point in time because librbd takes the exclusive locks of all members before the first snapshot and returns
 * none before the last one is made, so nobody writes in between. A member without that feature cannot be held; its own
 * snapshot is made while all others are held, so one such member does no harm, and two are refused.
 *
 * Not here: the members' own images (./create.ts).
 *
 * 1. Nobody knows of the group snapshot until its creation time is in the journal: a failure before that undoes
 *    everything, and a retry takes the point in time anew. Nothing here runs after it.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, Raced } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict, type JournalCorrupt, Precondition, type TooMany } from "../csi/errors.ts";
import type { Flatten } from "../images/flatten.ts";
import { asRaced, orRaced } from "../images/races.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import { readGroup, recordPoint } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { undoReservation } from "../snapshot/finish.ts";
import type { Member } from "./member.ts";
import type { Group, GroupSpec } from "./request.ts";

export interface PointInTime {
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** By member, the id of its part of the RBD group's snapshot. */
  readonly parts: readonly bigint[];
}

export type TakePointInTimeError = CephError | Conflict | Precondition | TooMany | JournalCorrupt;
type Needs = Ceph | DriverSettings | Flatten | Compensations;

const { GROUPS, SNAPSHOTS } = journal;

/** The name of the member's image, for a member that this request reserves. */
export const memberImageName = ({ snapshotPrefix }: GroupSpec, { uuid }: Member): string => snapshotPrefix + uuid;

export const takePointInTime = Effect.fn("group.takePointInTime")(function* (
  spec: GroupSpec,
  group: Group,
): Effect.fn.Return<PointInTime, TakePointInTimeError, Needs> {
  const rbd = yield* Rbd;
  const { pool, uuid, groupName } = group;
  yield* stage("limit snapshots", limitMembers(group));
  yield* reserve(spec, group);
  yield* formGroup(group);
  yield* stage(
    "take point in time",
    Effect.catchTag(rbd.groupSnapshotCreate(pool, groupName, groupName), "Exists", asRaced),
  );
  const point = yield* stage("look at point in time", lookAtPoint(spec, group));
  yield* stage("record point in time", recordPoint(pool, uuid, point.createdAt));
  return point;
});

/** Refuses members that cannot be held, and those that have too many snapshots. */
const limitMembers = Effect.fnUntraced(function* ({
  members,
}: Group): Effect.fn.Return<void, TakePointInTimeError, Needs> {
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

/** Reserves the names of the group and of its members; a later failure frees those that this call reserved. */
const reserve = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: Group,
): Effect.fn.Return<void, TakePointInTimeError, Needs> {
  const { instanceId } = yield* DriverSettings;
  const { requestName, groupPrefix: prefix } = spec;
  const { pool, uuid, reservation, members } = group;
  const more = Object.fromEntries(members.map((member) => [member.snapshotId, memberImageName(spec, member)]));
  const written = journal.reserve(
    GROUPS,
    pool,
    instanceId,
    { requestName, prefix, owner: undefined, uuid, more },
    reservation,
  );
  if (reservation !== undefined) yield* stage("reserve", written);
  else {
    const undo = journal.unreserve(GROUPS, pool, instanceId, { uuid, entry: uuid, requestName });
    yield* step("reserve", written, { when: "started", undo });
  }
  yield* settleAll(members, (member) => reserveMember(spec, group, member));
});

const reserveMember = Effect.fnUntraced(function* (
  spec: GroupSpec,
  { reservation, groupSnapshotId: groupId }: Group,
  member: Member,
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
  const written = journal.reserve(SNAPSHOTS, pool, instanceId, entry, earlier);
  if (earlier !== undefined) return void (yield* stage("reserve", written));
  // An undo that was cut off leaves the entry without its name; no image is made before the point in time.
  if (reservation !== undefined) yield* stage("forget earlier attempt", journal.forget(SNAPSHOTS, pool, uuid));
  const undo = undoReservation({ pool, uuid, imageName: memberImageName(spec, member) }, requestName);
  yield* step("reserve", written, { when: "started", undo });
});

/** Makes the RBD group with the members in it; its undo removes the group and whatever snapshot was taken of it. */
const formGroup = Effect.fnUntraced(function* (group: Group): Effect.fn.Return<void, TakePointInTimeError, Needs> {
  const rbd = yield* Rbd;
  const { pool, groupName, members, reservation } = group;
  if (reservation !== undefined) yield* stage("remove earlier group", rbd.groupRemove(pool, groupName));
  const form = Effect.gen(function* () {
    yield* Effect.catchTag(rbd.groupCreate(pool, groupName), "Exists", asRaced);
    for (const { source } of members) yield* addToGroup(group, source.volume.pool, source.volume.imageName);
  });
  yield* step("form group", form, { when: "started", undo: removeUnrecordedGroup(group) });
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

const removeUnrecordedGroup = Effect.fnUntraced(function* ({ pool, uuid, groupName }: Group) {
  const entry = yield* readGroup(pool, uuid);
  if (entry?.createdAt !== undefined) {
    return yield* new Conflict({
      subject: `group snapshot ${entry.requestName ?? uuid}`,
      problem: "has a point in time that another driver recorded meanwhile",
    });
  }
  yield* (yield* Rbd).groupRemove(pool, groupName);
});

const lookAtPoint = Effect.fnUntraced(function* (
  { requestName }: GroupSpec,
  group: Group,
): Effect.fn.Return<PointInTime, TakePointInTimeError, Ceph> {
  const parts = yield* partsOf(group);
  const first = group.members[0]?.source.volume;
  const snapshots = first && (yield* orRaced((yield* Rbd).snapshots(first.pool, first.imageName)));
  const createdAt = snapshots?.find(({ id }) => id === parts[0])?.createdAt;
  if (createdAt !== undefined) return { createdAt, parts };
  return yield* new Raced({ op: "rbd_snap_list", subject: `group snapshot ${requestName}` });
});

/** By member, the id of its part of the RBD group's snapshot. */
export const partsOf = Effect.fn("group.partsOf")(function* ({
  pool,
  groupName,
  members,
}: Group): Effect.fn.Return<readonly bigint[], CephError | Precondition, Rbd> {
  const parts = (yield* (yield* Rbd).groupSnapshotMembers(pool, groupName, groupName)) ?? [];
  const ids = new Map(parts.map((part) => [imageLabel({ ...pool, ...part }, part.image), part.snapshotId]));
  return yield* Effect.forEach(members, ({ source: { volume } }) => {
    const image = imageLabel(volume.pool, volume.imageName);
    const id = ids.get(image);
    if (id !== undefined) return Effect.succeed(id);
    return Effect.fail(
      new Precondition({
        subject: `RBD group ${imageLabel(pool, groupName)}`,
        problem: `has a snapshot without a part of image ${image}`,
        remedy: "Delete the group snapshot, and take another",
      }),
    );
  });
});
