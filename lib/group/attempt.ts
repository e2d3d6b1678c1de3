/**
 * The undo of an attempt at the point in time of a group snapshot. Each attempt has an RBD group of its own
 * (lib/journal/attempt-names.ts).
 *
 * Not here: what an attempt does, and how one takes over from another (./point-in-time.ts).
 *
 * 1. An attempt that is given up first puts a name into the journal that says so. That is the end of the UUID: no attempt
 *    follows, and a call that finds it undoes what is left.
 * 2. The RBD group of a recorded point in time is removed only for callers that need it no longer (`removeGroups`).
 * 3. What an earlier call has left is undone also where a later one fails before it has taken it over, because the caller of
 *    that one need not come back, and knows no ID to delete (`orUndoFound`).
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, Raced } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { DriverSettings } from "../config/settings.ts";
import type { Conflict, InvalidRequest } from "../csi/errors.ts";
import { earlierNames, givenUpName, isGivenUp, ownName } from "../journal/attempt-names.ts";
import { giveUpUnwritten, readGroup, replaceGroup, replaceHalfMade } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import { locateMembers } from "../journal/locate-group.ts";
import { type DomainError, outcomeOf } from "../operations/outcomes.ts";
import { settleAll } from "../operations/settle-all.ts";
import { type SnapshotImage, undoReservation } from "../snapshot/finish.ts";
import type { Member } from "./member.ts";
import type { Group, GroupSpec } from "./request.ts";

type UndoError = CephError | Conflict;

/** Removes the attempt's own RBD group, unless its point in time is the recorded one. */
export const removeUnrecorded = Effect.fn("group.removeUnrecorded")(function* ({
  pool,
  uuid,
  groupName,
}: Pick<Group, "pool" | "uuid" | "groupName">): Effect.fn.Return<void, CephError, Rados | Rbd> {
  const entry = yield* readGroup(pool, uuid);
  if (entry?.createdAt !== undefined && entry.groupName === groupName) return;
  yield* (yield* Rbd).groupRemove(pool, groupName);
});

/** Removes the RBD groups of the attempt and of those before it, once their snapshots are of no more use. */
export const removeGroups = Effect.fn("group.removeGroups")(function* ({
  pool,
  uuid,
  groupName,
}: Pick<Group, "pool" | "uuid" | "groupName">): Effect.fn.Return<void, CephError, Rbd> {
  const rbd = yield* Rbd;
  for (const name of [ownName(groupName, uuid), ...earlierNames(groupName, uuid)]) yield* rbd.groupRemove(pool, name);
});

/** Undoes the latest attempt, and with it the reservation; fails as soon as the attempt proves not to be the latest. */
export const undoAttempt = Effect.fn("group.undoAttempt")(function* (
  spec: GroupSpec,
  group: Group,
): Effect.fn.Return<void, UndoError, Ceph | DriverSettings> {
  const { pool, uuid, groupName } = group;
  yield* replaceGroup(pool, uuid, groupName, givenUpName(groupName, uuid)).pipe(
    Effect.catchTags({
      // another call has undone it all but what this one made since
      ObjectNotFound: () => Effect.void,
      Raced: (raced) => Effect.andThen(removeUnrecorded(group), Effect.fail(raced)),
    }),
  );
  yield* undoGivenUp(spec, group, group.members.map(memberOf(spec)));
});

/**
 * Undoes what an earlier call has left of the group snapshot when `body` certainly had no effect. The stage stays that of
 * `body`, because the answer names it. If the undo proves that
 * another driver goes on with it, or leaves open what is there, that is the failure: the caller has to come back.
 */
export const orUndoFound =
  (spec: GroupSpec, found: Group) =>
  <A, E extends DomainError, R>(
    body: Effect.Effect<A, E, R>,
  ): Effect.Effect<A, E | UndoError, R | Ceph | DriverSettings> =>
    Effect.tapError(body, (error) => (outcomeOf(error) === "none" ? undoFound(spec, found) : Effect.void));

const undoFound = (spec: GroupSpec, found: Group): Effect.Effect<void, UndoError, Ceph | DriverSettings> =>
  Effect.catchIf(
    removeFound(spec, found),
    (error) => outcomeOf(error) === "none",
    ({ message }) =>
      Effect.logWarning(`could not undo group snapshot ${spec.requestName}; the next call undoes it: ${message}`),
  );

const removeFound = (spec: GroupSpec, found: Group): Effect.Effect<void, UndoError, Ceph | DriverSettings> => {
  const { pool, uuid, groupName, reservation, isHalfMade } = found;
  const { requestName } = spec;
  if (reservation === undefined) return Effect.void;
  if (isHalfMade) return removeHalfMade({ pool, uuid, groupName, requestName });
  if (reservation.attributes.requestName !== undefined) return undoAttempt(spec, found);
  const givenUp = giveUpUnwritten(pool, uuid, requestName, givenUpName(groupName, uuid));
  return Effect.andThen(givenUp, freeEntry({ pool, uuid, requestName }));
};

interface HalfMade extends Pick<Group, "pool" | "uuid" | "groupName"> {
  readonly requestName: string | undefined;
}

/** Removes an entry that has no members yet, and its name. Nobody takes it over from then on. */
export const removeHalfMade = Effect.fn("group.removeHalfMade")(function* ({
  pool,
  uuid,
  groupName,
  requestName,
}: HalfMade): Effect.fn.Return<void, CephError, Rados | DriverSettings> {
  const givenUp = replaceHalfMade(pool, uuid, groupName, givenUpName(groupName, uuid), {});
  yield* Effect.catchTag(givenUp, "ObjectNotFound", () => Effect.void);
  yield* freeEntry({ pool, uuid, requestName });
});

const freeEntry = ({ pool, uuid, requestName }: Omit<HalfMade, "groupName">) =>
  Effect.flatMap(DriverSettings, ({ instanceId }) =>
    journal.unreserve(journal.GROUPS, pool, instanceId, { uuid, entry: uuid, requestName }),
  );

/** Goes on with an undo that was cut off. */
export const finishUndo = Effect.fn("group.finishUndo")(function* (
  spec: GroupSpec,
  group: Group,
): Effect.fn.Return<void, UndoError | ConfigError | InvalidRequest, Ceph | Clusters | DriverSettings> {
  const { groupSnapshotId, pool, uuid } = group;
  const entry = yield* readGroup(pool, uuid);
  if (entry === undefined || !isGivenUp(entry.groupName, uuid)) {
    return yield* new Raced({ op: "rados_read_op_operate", subject: `group snapshot ${spec.requestName}` });
  }
  const located = yield* locateMembers({ groupSnapshotId, pool, uuid, entry }, spec.credentials);
  const found = located.flatMap(({ located: member }) => {
    const requestName = member?.attributes?.requestName;
    return member === undefined || requestName === undefined ? [] : [{ ...member, requestName }];
  });
  // the name of a member without an entry is known from the request alone
  const asked = group.members.filter(({ snapshotId }) => entry.members.includes(snapshotId));
  yield* undoGivenUp(spec, group, [...found, ...asked.map(memberOf(spec))]);
});

interface ReservedMember extends SnapshotImage {
  readonly requestName: string;
}

const memberOf =
  (spec: GroupSpec) =>
  (member: Member): ReservedMember => ({ ...member, imageName: memberImageName(spec, member) });

/** The name of the member's image, for a member that this request reserves. */
export const memberImageName = ({ snapshotPrefix }: GroupSpec, { uuid }: Member): string => snapshotPrefix + uuid;

/** The RBD groups go first, because they keep the volumes from other groups; the entry by which all is found goes last. */
const undoGivenUp = Effect.fnUntraced(function* (
  { requestName }: GroupSpec,
  { pool, uuid, groupName }: Group,
  members: readonly ReservedMember[],
): Effect.fn.Return<void, UndoError, Ceph | DriverSettings> {
  yield* removeGroups({ pool, uuid, groupName });
  yield* settleAll(members, (member) => undoReservation(member, member.requestName));
  yield* freeEntry({ pool, uuid, requestName });
});
