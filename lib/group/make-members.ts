/**
 * The members of a group snapshot whose point in time is recorded: which are complete, and how the others are made.
 *
 * Not here: the point in time (./point-in-time.ts), and the answer (./create.ts).
 *
 * 1. A complete member needs neither its volume nor the group's snapshot. Its volume may be gone.
 * 2. A member that is made anew gets an image of another name. Only the call that put that name into the journal records
 *    the image as complete, and nobody removes an image that can still be recorded.
 * 3. All that can be made is made, whatever becomes of the others.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { encryptionIn } from "../config/encryption.ts";
import { DriverSettings } from "../config/settings.ts";
import { type NotReadyYet, Precondition } from "../csi/errors.ts";
import { Flatten } from "../images/flatten.ts";
import { holderSpec } from "../images/layout.ts";
import type { Purge } from "../images/purge.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { clearUnfinished, discardUnfinished } from "../images/removal.ts";
import { nextName, previousNames } from "../journal/attempt-names.ts";
import * as journal from "../journal/journal.ts";
import type { SourceKey } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { stage } from "../operations/pipeline.ts";
import { settleAll } from "../operations/settle-all.ts";
import { copySnapshotKey, readSourceKey, type SnapshotKeyError } from "../snapshot/key.ts";
import { makeReady } from "../snapshot/finish.ts";
import type { SourceVolume, SourceVolumeError } from "../snapshot/source-volume.ts";
import { memberImageName } from "./attempt.ts";
import type { Member } from "./member.ts";
import { proveMarked } from "./member-keys.ts";
import { partOf, type Parts, partsOf } from "./point-in-time.ts";
import { type Group, type GroupSpec, sourceOf } from "./request.ts";

const { imageNameOf, readAttributes, SNAPSHOTS } = journal;

export type MakeMembersError = SourceVolumeError | SnapshotKeyError | NotReadyYet;
type Needs = Ceph | DriverSettings | Flatten | Kms | Purge;

/** A group snapshot whose point in time is recorded. */
export interface TakenGroup extends Group {
  readonly createdAt: number;
  /** What this call knows of it if it has taken it itself, by member. */
  readonly known?: {
    readonly parts: Parts;
    readonly sources: readonly SourceVolume[];
    readonly keys: readonly (SourceKey | undefined)[];
  };
}

export interface MemberImage {
  readonly member: Member;
  readonly imageName: string;
  readonly isEncrypted: boolean;
  /** Absent: the image is to be made. */
  readonly status: ImageStatus | undefined;
}

export const isMade = (image: MemberImage): image is MemberImage & { readonly status: ImageStatus } =>
  image.status !== undefined;

/** Which members are complete: none of a new group. */
export const lookAtMembers = (
  spec: GroupSpec,
  { reservation, members, known }: TakenGroup,
): Effect.Effect<readonly MemberImage[], CephError | Precondition, Ceph | DriverSettings> =>
  reservation === undefined && known !== undefined
    ? Effect.succeed(
        members.map((member, i) => ({
          member,
          imageName: memberImageName(spec, member),
          isEncrypted: known.sources[i]?.encryption !== undefined,
          status: undefined,
        })),
      )
    : settleAll(members, lookAtMember);

const lookAtMember = Effect.fnUntraced(function* (
  member: Member,
): Effect.fn.Return<MemberImage, CephError | Precondition, Ceph> {
  const { pool, uuid, snapshotId } = member;
  const attributes = yield* readAttributes(SNAPSHOTS, pool, uuid);
  const imageName = imageNameOf(SNAPSHOTS, uuid, attributes);
  const isEncrypted = encryptionIn(attributes) !== undefined;
  if (attributes !== undefined && attributes.imageId === undefined) {
    return { member, imageName, isEncrypted, status: undefined };
  }
  const status = attributes && (yield* statusIfThere(pool, imageName));
  if (status !== undefined) return { member, imageName, isEncrypted, status };
  return yield* new Precondition({
    subject: `snapshot ${snapshotId}`,
    problem: "is gone, but the group snapshot that it is a member of is not",
    remedy: "Delete the group snapshot, and take another",
  });
});

/** The volume of a member that is to be made, or why it cannot be; absent for one that is made. */
export type Source = Result.Result<SourceVolume, MakeMembersError> | undefined;

export const findSources = (
  spec: GroupSpec,
  { known }: TakenGroup,
  images: readonly MemberImage[],
): Effect.Effect<readonly Source[], never, Ceph | DriverSettings> =>
  known !== undefined
    ? Effect.succeed(known.sources.map((source) => Result.succeed(source)))
    : stage(
        "find sources",
        settleAll(images, (image) =>
          isMade(image) ? Effect.succeed(undefined) : Effect.result(sourceFor(spec, image)),
        ),
      );

/** A volume that was deleted has lost its key, though its image may be back from the trash. */
const sourceFor = (spec: GroupSpec, { member, isEncrypted }: MemberImage) => {
  const { snapshotId, sourceVolumeId } = member;
  const gone = new Precondition({
    subject: `volume ${sourceVolumeId}`,
    problem: `is gone, and snapshot ${snapshotId}, a member of the group snapshot, was not made from it yet`,
    remedy: isEncrypted
      ? "Delete the group snapshot, and take another"
      : 'If its image is in the trash ("rbd trash ls"), "rbd trash restore" brings it back for the retry. Otherwise delete the group snapshot, and take another',
  });
  return sourceOf(spec, member).pipe(
    Effect.catchTag("VolumeNotFound", () => Effect.fail(gone)),
    Effect.filterOrFail(
      ({ encryption }) => (encryption !== undefined) === isEncrypted,
      () => gone,
    ),
  );
};

/** Makes the members that are missing; -> the sizes of all, in their order. */
export const makeMembers = Effect.fnUntraced(function* (
  spec: GroupSpec,
  group: TakenGroup,
  images: readonly MemberImage[],
  sources: readonly Source[],
): Effect.fn.Return<readonly bigint[], MakeMembersError, Needs> {
  const { known } = group;
  const parts = known?.parts ?? (yield* stage("look at point in time", partsOf(group)));
  // Nobody makes an image of a point in time before it is recorded.
  const isNew = known !== undefined;
  return yield* settleAll(images, (image, i) => {
    const source = sources[i];
    if (isMade(image) || source === undefined) return Effect.succeed(image.status?.sizeBytes ?? 0n);
    return Effect.gen(function* () {
      const volume = yield* Effect.fromResult(source);
      const part = yield* partOf(group, parts, image.member);
      const key = known === undefined ? yield* readSourceKey(volume, spec.secrets) : known.keys[i];
      const isSettled = isNew || (yield* stage("look at key", proveMarked(group, image.member, key)));
      const { sizeBytes } = yield* makeMember(spec, image, { source: volume, part, key, isSettled }, isNew);
      return sizeBytes;
    });
  });
});

interface ToClone {
  readonly source: SourceVolume;
  readonly part: bigint;
  readonly key: SourceKey | undefined;
  /** It is proven to be that of the point in time. */
  readonly isSettled: boolean;
}

/** Clones the member's part of the group's snapshot, and makes the clone ready. */
const makeMember = Effect.fnUntraced(function* (
  { parameters, secrets }: GroupSpec,
  { member: { pool, uuid, snapshotId }, imageName: found }: MemberImage,
  { source, part, key, isSettled }: ToClone,
  isNew: boolean,
): Effect.fn.Return<ImageStatus, MakeMembersError, Needs> {
  const rbd = yield* Rbd;
  const { minSnapshots } = yield* DriverSettings;
  const imageName = isNew ? found : yield* takeOverMember(pool, uuid, found);
  const snapshot = { pool, image: source.volume.imageName, snapshot: part };
  const clone = rbd.imageClone(snapshot, pool, imageName, holderSpec(source.image));
  yield* stage("clone", Effect.catchTag(clone, ["Exists", "ImageSnapshotNotFound"], asRaced));
  const status = yield* stage("clone", orRaced(rbd.imageStatus(pool, imageName)));
  yield* copySnapshotKey(source, key, { snapshotId, pool, imageName }, secrets, isSettled);
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
): Effect.fn.Return<string, MakeMembersError, Needs> {
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
