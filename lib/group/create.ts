/**
 * CreateVolumeGroupSnapshot: one point in time over several volumes, by way of an RBD group that exists only meanwhile.
 * The group's snapshot is what all members share; each is then cloned from it into an image of its own, and from there
 * on is an ordinary snapshot, in ceph-csi's layout, that any driver restores and deletes.
 *
 * That it is one point: librbd takes the exclusive locks of all members before the first snapshot and gives none back
 * before the last is made, so nobody writes in between. A member without that feature can't be held; its own snapshot
 * is made while all others are, so one such member does no harm, and two are refused.
 *
 * It answers once the point in time is recorded, with `ready_to_use` false, and makes the members behind the answer.
 *
 * 1. Names, UUIDs and IDs of the members follow from the group's UUID and the volumes: a retry finds them.
 * 2. Until the creation time is in the journal nobody has been told of anything: a failure undoes all, and a retry
 *    takes the point in time anew. From then on nothing is undone, and what is missing is made by the next call.
 * 3. The RBD group goes last: while a member's image ID is not in the journal, that member can be cloned again.
 * 4. A repeated request with other members is a Conflict.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { Raced } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/features.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { Conflict, type LockHeld, Precondition } from "../csi/errors.ts";
import type { TakenSnapshot } from "../csi/messages.ts";
import { Flatten } from "../images/flatten.ts";
import { holderSpec } from "../images/layout.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { clearUnfinished } from "../images/removal.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import { readGroup, recordPoint } from "../journal/group-snapshots.ts";
import * as journal from "../journal/journal.ts";
import { compensated, undoable } from "../operations/compensation.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { makeReady, undoReservation } from "../snapshot/finish.ts";
import type { Member } from "./member.ts";
import { findGroup, type Group, type GroupRequest, readRequest, type Wanted } from "./request.ts";

export interface TakenGroup {
  readonly groupSnapshotId: string;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly snapshots: readonly TakenSnapshot[];
  readonly ready: boolean;
}

const { GROUPS, SNAPSHOTS } = journal;

const imageOf = (wanted: Wanted, { uuid }: Member): string => wanted.snapshotPrefix + uuid;

// ----------------------------------------------------------------------------------------------- point in time

/** At most one member may be written to while the others are held. */
const proveHeld = (members: readonly Member[]) => {
  const free = members.flatMap(({ source: { found, status } }) =>
    (status.features & FEATURE_BITS["exclusive-lock"]) === 0n ? [imageLabel(found.pool, found.imageName)] : [],
  );
  if (free.length < 2) return Effect.void;
  const message = `images ${free.join(", ")} lack the feature exclusive-lock, so nobody can hold their writers still for one point in time; at most one member may lack it ("rbd feature enable" adds it)`;
  return Effect.fail(new Precondition({ subject: "", problem: message }));
};

/** The names of the group and its members; those that this call takes go again if it fails. */
const reserve = (options: VolumeOptions, wanted: Wanted, group: Group) =>
  Effect.gen(function* () {
    const { instanceId } = options;
    const { pool, uuid, known, members, groupSnapshotId: groupId } = group;
    const { requestName } = wanted;
    const names = members.map((member) => [member.snapshotId, imageOf(wanted, member)]);
    const entry = { requestName, prefix: wanted.groupPrefix, owner: undefined, uuid, more: Object.fromEntries(names) };
    const taken = journal.reserve(GROUPS, pool, instanceId, entry, known);
    if (known === undefined) {
      const free = journal.unreserve(GROUPS, pool, instanceId, { uuid, entry: uuid, requestName });
      yield* yield* undoable("reserve", Effect.exit(taken), () => free);
    } else yield* stage("reserve", taken);
    yield* settleAll(members, (member) => reserveMember(options, wanted, group, groupId, member));
  });

const reserveMember = (options: VolumeOptions, wanted: Wanted, { known }: Group, groupId: string, member: Member) =>
  Effect.gen(function* () {
    const { instanceId } = options;
    const { pool, uuid, requestName, source } = member;
    const earlier =
      known === undefined ? undefined : yield* stage("find", journal.lookUp(SNAPSHOTS, pool, instanceId, requestName));
    const { attributes, imageName } = source.found;
    const prefix = wanted.snapshotPrefix;
    const entry = { requestName, prefix, owner: attributes?.owner, source: imageName, groupId, uuid };
    const taken = journal.reserve(SNAPSHOTS, pool, instanceId, entry, earlier);
    if (earlier !== undefined) return yield* stage("reserve", taken);
    // An undo that was cut off leaves the entry without its name; no image is made before the point in time.
    if (known !== undefined) yield* stage("clear", journal.forget(SNAPSHOTS, pool, uuid));
    const holder = { pool, uuid, imageName: imageOf(wanted, member) };
    return yield* yield* undoable("reserve", Effect.exit(taken), () => undoReservation(options, holder, requestName));
  });

/** The RBD group with the members in it; undone, it is gone with whatever was taken of it. */
const form = ({ pool, uuid, groupName, members, known }: Group) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    if (known !== undefined) yield* stage("clear", rbd.groupRemove(pool, groupName));
    const formed = Effect.gen(function* () {
      yield* rbd.groupCreate(pool, groupName).pipe(Effect.catchTag("Exists", asRaced));
      for (const { source } of members) {
        const { pool: imagePool, imageName: image } = source.found;
        yield* rbd
          .groupAdd(pool, groupName, { pool: imagePool, image })
          .pipe(Effect.catchTag("Busy", () => Effect.fail(inAnotherGroup(imagePool, image))));
      }
    });
    yield* yield* undoable("form group", Effect.exit(formed), () =>
      Effect.gen(function* () {
        const now = yield* readGroup(pool, uuid);
        if (now?.createdAt !== undefined) {
          return yield* new Conflict({
            subject: "",
            problem: "another driver has recorded the point in time meanwhile",
          });
        }
        yield* rbd.groupRemove(pool, groupName);
      }),
    );
  });

const inAnotherGroup = (pool: PoolRef, image: string): Precondition => {
  const message = `image ${imageLabel(pool, image)} is in another RBD group ("rbd info" names it), and an image can be in one only: take it out ("rbd group image rm")`;
  return new Precondition({ subject: "", problem: message });
};

/** By member, the id of its part of the group's snapshot. */
const partsOf = ({ pool, groupName, members }: Group) =>
  Effect.gen(function* () {
    const parts = (yield* (yield* Rbd).groupSnapshotMembers(pool, groupName, groupName)) ?? [];
    const ids = new Map(parts.map((part) => [imageLabel({ ...pool, ...part }, part.image), part.snapshotId]));
    return yield* Effect.forEach(members, ({ source: { found } }) => {
      const subject = imageLabel(found.pool, found.imageName);
      const id = ids.get(subject);
      if (id !== undefined) return Effect.succeed(id);
      const message = `the snapshot of RBD group ${imageLabel(pool, groupName)} has no part of image ${subject}: delete the group snapshot, and take another`;
      return Effect.fail(new Precondition({ subject: "", problem: message }));
    });
  });

/** -> when it was. */
const takePoint = (options: VolumeOptions, wanted: Wanted, group: Group) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { pool, groupName, members } = group;
    yield* stage("limit snapshots", proveHeld(members));
    yield* stage(
      "limit snapshots",
      Effect.forEach(members, ({ source }) => limitSnapshots(source.found, source.status), { discard: true }),
    );
    yield* reserve(options, wanted, group);
    yield* form(group);
    yield* stage(
      "take point in time",
      rbd.groupSnapshotCreate(pool, groupName, groupName).pipe(Effect.catchTag("Exists", asRaced)),
    );
    const parts = yield* stage("record point in time", partsOf(group));
    const first = members[0]?.source.found;
    const taken = first === undefined ? [] : yield* orRaced(rbd.snapshots(first.pool, first.imageName));
    const createdAt = taken.find(({ id }) => id === parts[0])?.createdAt;
    if (createdAt === undefined) {
      return yield* new Raced({ op: "rbd_snap_list", subject: `group snapshot ${wanted.requestName}` });
    }
    yield* stage("record point in time", recordPoint(pool, group.uuid, createdAt));
    return { createdAt, parts };
  });

// ----------------------------------------------------------------------------------------------------- members

interface Found {
  readonly member: Member;
  readonly imageName: string;
  /** `undefined`: it is to be made. */
  readonly image: ImageStatus | undefined;
}

/** After the point in time: which members are complete. */
const findMember = (member: Member) =>
  Effect.gen(function* () {
    const { pool, uuid, snapshotId } = member;
    const attributes = yield* journal.readAttributes(SNAPSHOTS, pool, uuid);
    const imageName = attributes?.imageName ?? SNAPSHOTS.defaultImagePrefix + uuid;
    const found = (image: ImageStatus | undefined): Found => ({ member, imageName, image });
    if (attributes !== undefined && attributes.imageId === undefined) return found(undefined);
    const image = attributes && (yield* statusIfThere(pool, imageName));
    if (image !== undefined) return found(image);
    const message = `snapshot ${snapshotId} of the group is gone: delete the group snapshot, and take another`;
    return yield* new Precondition({ subject: "", problem: message });
  });

/** Clones the member's part of the group's snapshot, and makes a snapshot of it. */
const settle = (
  options: VolumeOptions,
  wanted: Wanted,
  { member: { source, pool, uuid }, imageName }: Found,
  part: bigint,
  fresh: boolean,
) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    if (!fresh) {
      // Nobody but a driver has it open; one that died is watching it for half a minute more.
      yield* stage("clear", clearUnfinished(pool, imageName, [imageName]));
    }
    const { imageName: image } = source.found;
    yield* stage(
      "clone",
      rbd
        .imageClone({ pool, image, snapshot: part }, pool, imageName, holderSpec(source.status))
        .pipe(Effect.catchTag(["Exists", "ImageSnapshotNotFound"], asRaced)),
    );
    const status = yield* stage("clone", orRaced(rbd.imageStatus(pool, imageName)));
    yield* makeReady(options, { pool, uuid, imageName }, status, wanted.parameters);
    // What a group's snapshot leaves on the source bears no name of ours, by which a later call could flatten.
    if (source.status.snapshotCount >= options.minSnapshots) yield* (yield* Flatten).request(pool, imageName);
    return status;
  });

/** The volumes are in no other group meanwhile, and none is deleted. `ids` in one order for all callers. */
const whileKept = <A, E, R>(ids: readonly string[], use: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Locks, ({ withLock }) =>
    ids.reduceRight<Effect.Effect<A, E | LockHeld, R>>(
      (inner, id) =>
        stage("lock", withLock(`volume ${id}`, "shared", withLock(`group of volume ${id}`, "exclusive", inner))),
      use,
    ),
  );

/** `answer` is called at most once, when the point in time is safe; the effect ends when every member is ready. */
export const createGroupSnapshot = (
  options: VolumeOptions,
  request: GroupRequest,
  answer: (taken: TakenGroup) => Effect.Effect<void>,
) =>
  Effect.gen(function* () {
    const wanted = yield* stage("validate", readRequest(request));
    const locks = yield* Locks;
    const rbd = yield* Rbd;
    const body = Effect.gen(function* () {
      const group = yield* stage("find", findGroup(options, wanted));
      const { pool, groupName, members, groupSnapshotId } = group;
      const point =
        group.createdAt === undefined
          ? yield* compensated(takePoint(options, wanted, group))
          : { createdAt: group.createdAt, parts: undefined };
      const { createdAt } = point;
      const told = (images: readonly (bigint | undefined)[], ready: boolean): TakenGroup => ({
        groupSnapshotId,
        createdAt,
        ready,
        snapshots: members.map(({ source, sourceVolumeId, snapshotId }, i) => {
          const sizeBytes = images[i] ?? source.status.sizeBytes;
          return { snapshotId, sourceVolumeId, sizeBytes, createdAt, ready, groupSnapshotId };
        }),
      });
      const fresh = group.known === undefined;
      const found = yield* stage(
        "find",
        fresh
          ? Effect.succeed(
              members.map((member): Found => ({ member, imageName: imageOf(wanted, member), image: undefined })),
            )
          : settleAll(members, findMember),
      );
      const sizes = yield* Effect.gen(function* () {
        if (found.every(({ image }) => image !== undefined)) return found.map(({ image }) => image?.sizeBytes);
        yield* stage("answer", answer(told([], false)));
        const parts = point.parts ?? (yield* stage("find", partsOf(group)));
        return yield* settleAll(found, (one, i) =>
          one.image === undefined
            ? Effect.map(settle(options, wanted, one, parts[i] ?? 0n, fresh), ({ sizeBytes }) => sizeBytes)
            : Effect.succeed(one.image.sizeBytes),
        );
      });
      yield* stage("remove group", rbd.groupRemove(pool, groupName));
      return told(sizes, true);
    });
    const kept = whileKept(wanted.sourceVolumeIds.toSorted(), body);
    return yield* stage("lock", locks.withLock(groupLock(wanted.requestName), "exclusive", kept));
  });

export const groupLock = (requestName: string): string => `group snapshot name ${requestName}`;
