/**
 * CreateSnapshot: makes an image that holds a point in time of a volume, in ceph-csi's layout: `csi-snap-U`, a clone of
 * the volume's image, with a snapshot `csi-snap-U` on it that restores clone from.
 *
 * It answers early, because each of the two snapshots that the layout needs waits about a second for the monitors. The
 * first one fixes the point in time. Once the clone of it exists, the answer goes out with `ready_to_use` false, and the
 * second one is made after the answer. The caller asks again, as CSI says, and joins the running call or finds the
 * snapshot ready. So an answer costs one wait, and nothing is restored from the image before the second snapshot exists.
 *
 * Not here: the UUID and the name of the image (lib/journal/journal.ts), the image after its data is safe (./finish.ts),
 * which volumes can be the source (./source-volume.ts), and that in a burst the answers come first (./answers-first.ts).
 *
 * 1. A name has at most one snapshot ID, as for volumes; the image ID in the journal is written last, and means ready.
 * 2. A name that was given to a snapshot of another volume is a Conflict.
 * 3. The source keeps no trace of the snapshot but its data: the transient snapshot goes as soon as the clone exists.
 * 4. A point in time that a caller may know of is never undone, and never taken anew: the next call finishes it.
 * 5. What another call has begun is taken over before this one goes on with it, so that that one undoes nothing any more.
 * 6. A snapshot that could not be used from where the request asks for is refused before anything is written.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, Raced } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import {
  Conflict,
  type InvalidRequest,
  type JournalCorrupt,
  type LockHeld,
  type NotReadyYet,
  type TooMany,
  type Unplaceable,
  type VolumeNotFound,
} from "../csi/errors.ts";
import type { CsiSnapshot } from "../csi/messages.ts";
import { newHandle } from "../csi/new-handle.ts";
import { cloneThrough, dropIfUnneeded, resumeClone } from "../images/clone.ts";
import type { Flatten } from "../images/flatten.ts";
import { removeLeftOverTemp } from "../images/intermediate.ts";
import { holderSpec } from "../images/layout.ts";
import { Purge } from "../images/purge.ts";
import { removeKey } from "../images/key-removal.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { clearUnfinished, discardUnfinished, finishRemoval } from "../images/removal.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import * as journal from "../journal/journal.ts";
import { type LocatedVolume, locateVolume } from "../journal/locate.ts";
import { begin, type Begun, describeBegun, type Making, makingOf, orDiscard, takenOver } from "../journal/making.ts";
import { holdKey, isHeld, type KeyToKeep } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { compensated, type Compensations, step } from "../operations/compensation.ts";
import { LockKey, shared } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import type { Requirement } from "../volume/topology.ts";
import { AnswersFirst } from "./answers-first.ts";
import {
  chooseSnapshotKey,
  keepKeyWithoutSource,
  keepSnapshotKey,
  readSourceKey,
  type SnapshotKeyError,
} from "./key.ts";
import { makeReady, type SnapshotImage, undoReservation } from "./finish.ts";
import { readSnapshotParameters } from "./parameters.ts";
import { findSourceVolume, type SourceVolume, type SourceVolumeError } from "./source-volume.ts";
import { type SnapshotTopology, usableFrom } from "./topology.ts";

export interface SnapshotRequest {
  readonly requestName: string;
  readonly sourceVolumeId: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
  /** From where the snapshot has to be usable; absent: the caller does not say. */
  readonly topology: Requirement | undefined;
}

/** A request whose fields are checked. */
interface SnapshotSpec {
  readonly requestName: string;
  readonly sourceVolumeId: string;
  /** Those of the request: the metadata of the image comes from them. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly snapshotPrefix: string;
  readonly cluster: Cluster | undefined;
  readonly credentials: Credentials;
  readonly secrets: Readonly<Record<string, string>>;
  readonly topology: SnapshotTopology;
}

export type CreateSnapshotError =
  | SourceVolumeError
  | SnapshotKeyError
  | InvalidParameter
  | InvalidSecret
  | Conflict
  | NotReadyYet
  | TooMany
  | JournalCorrupt
  | LockHeld
  | Unplaceable;
type Needs = AnswersFirst | Ceph | Clusters | ClusterMapping | DriverSettings | Kms | Purge | Flatten;

const { SNAPSHOTS, imageNameOf } = journal;

/** `answerEarly` is called once, as soon as the point in time is safe; the recipe ends when the snapshot is ready. */
export const createSnapshot = Effect.fn("snapshot.createSnapshot")(function* (
  request: SnapshotRequest,
  answerEarly: (snapshot: CsiSnapshot) => Effect.Effect<void>,
): Effect.fn.Return<CsiSnapshot, CreateSnapshotError, Needs | Locks> {
  const spec = yield* stage("validate", readSpec(request));
  const locks = yield* Locks;
  // Others may snapshot and clone the source meanwhile, but not delete it.
  const held = [shared(LockKey.volume(spec.sourceVolumeId)), LockKey.snapshotName(spec.requestName)];
  const { unanswered } = yield* AnswersFirst;
  const create = unanswered((answered) =>
    Effect.matchEffect(stage("find source", findSourceVolume(spec)), {
      onSuccess: (source) => snapshotOf(spec, source, (early) => Effect.andThen(answerEarly(early), answered)),
      onFailure: (error) => (error._tag === "VolumeNotFound" ? finishWithoutSource(spec, error) : Effect.fail(error)),
    }),
  );
  return yield* locks.with(held, create);
});

const readSpec = Effect.fnUntraced(function* ({ secrets, topology: requirement, ...request }: SnapshotRequest) {
  const {
    clusterId,
    snapshotPrefix,
    constrainedPools: pools,
  } = yield* Effect.fromResult(readSnapshotParameters(request.parameters));
  const credentials = yield* Effect.fromResult(parseCredentials(secrets, { allowMigration: false }));
  const cluster = clusterId === undefined ? undefined : yield* (yield* Clusters).get(clusterId);
  const { driverName } = yield* DriverSettings;
  const topology = { pools, requirement, driverName };
  const spec: SnapshotSpec = { ...request, snapshotPrefix, cluster, credentials, secrets, topology };
  return spec;
});

/** The snapshot of the name: the one that an earlier call completed, or a new one. */
const snapshotOf = Effect.fnUntraced(function* (
  spec: SnapshotSpec,
  source: SourceVolume,
  answerEarly: (snapshot: CsiSnapshot) => Effect.Effect<void>,
): Effect.fn.Return<CsiSnapshot, CreateSnapshotError, Needs> {
  yield* (yield* Purge).visit(source.volume.pool);
  yield* stage("check topology", Effect.fromResult(usableFrom(source.volume.pool.pool, spec.topology)));
  const earlier = yield* stage("recover earlier attempt", recoverEarlierAttempt(spec, source));
  if (earlier?.image !== undefined) {
    return yield* describe(spec, source.volume, earlier.reservation.uuid, earlier.image, true);
  }
  const { image, making, ...snapshot } = yield* compensated(holdPointInTime(spec, source, earlier?.reservation));
  const early = yield* describe(spec, source.volume, snapshot.uuid, image, false);
  yield* stage("answer", answerEarly(early));
  // From here on nothing is undone: the caller counts on this point in time.
  yield* makeReady(snapshot, ownMaking(snapshot, making), image.id, spec.parameters);
  yield* stage("remove left-over copy", removeLeftOverTemp(source.volume, source.image));
  return { ...early, ready: true };
});

interface EarlierAttempt {
  readonly reservation: journal.Reservation;
  /** Absent: it has to be made, or to be finished. */
  readonly image: ImageStatus | undefined;
}

/**
 * How far earlier calls for the name came; absent: the name is free. A snapshot that was complete and is gone is being
 * deleted: this finishes its deletion and frees the name.
 */
const recoverEarlierAttempt = Effect.fnUntraced(function* (
  spec: SnapshotSpec,
  { volume }: SourceVolume,
): Effect.fn.Return<EarlierAttempt | undefined, CreateSnapshotError, Needs> {
  const { requestName } = spec;
  const { pool, imageName: source, cluster } = volume;
  const { instanceId } = yield* DriverSettings;
  const reservation = yield* journal.lookUp(SNAPSHOTS, pool, instanceId, requestName);
  if (reservation === undefined) return undefined;
  const { uuid, attributes } = reservation;
  const imageName = imageNameOf(SNAPSHOTS, uuid, attributes);
  if (attributes.imageId === undefined && attributes.maker === journal.GIVEN_UP) {
    yield* clearUnfinished(pool, imageName, Effect.void, [imageName], cluster.mirrorDaemonCount);
    yield* Effect.catchTag(
      (yield* Rbd).snapshotRemove(pool, attributes.source ?? source, imageName),
      "ImageNotFound",
      () => Effect.void,
    );
    yield* removeKey({ pool, attributes, handle: yield* handleOf(spec, volume, uuid) }, spec.secrets);
    yield* journal.unreserve(SNAPSHOTS, pool, instanceId, { ...reservation, requestName });
    return undefined;
  }
  if (attributes.source !== undefined && attributes.source !== source) {
    return yield* new Conflict({
      subject: `snapshot ${requestName}`,
      problem: `exists and is of image ${attributes.source}; the request asks for one of image ${source}`,
      remedy: "Delete that snapshot, or use another name",
    });
  }
  if (attributes.imageId === undefined) {
    const taken = yield* takenOver(SNAPSHOTS, pool, uuid, attributes);
    return { reservation: { ...reservation, attributes: taken }, image: undefined };
  }
  const image = yield* statusIfThere(pool, imageName);
  if (image !== undefined) return { reservation, image };
  yield* finishDeletion({ pool, attributes, handle: yield* handleOf(spec, volume, uuid) }, imageName, spec.secrets);
  yield* journal.unreserve(SNAPSHOTS, pool, instanceId, { ...reservation, requestName });
  return undefined;
});

/** A person may have put the image into the trash, and want it back: then it stays, and its key with it. */
const finishDeletion = Effect.fnUntraced(function* (
  deleted: Pick<LocatedVolume, "attributes" | "handle" | "pool">,
  imageName: string,
  secrets: SnapshotSpec["secrets"],
): Effect.fn.Return<void, CephError, Needs> {
  const { pool, attributes } = deleted;
  const imageId = attributes?.imageId;
  const trashed = imageId === undefined ? undefined : yield* (yield* Rbd).trashGet(pool, imageId);
  yield* finishRemoval(pool, imageName, imageId, { onlyMarked: true });
  if (trashed === undefined || trashed.byDriver !== undefined) yield* removeKey(deleted, secrets);
});

interface HeldPointInTime extends SnapshotImage {
  readonly image: PointInTime;
  readonly making: Making;
}

/** Reserves the name and clones the source; on failure undoes what this call did, but nothing of earlier calls. */
const holdPointInTime = Effect.fnUntraced(function* (
  spec: SnapshotSpec,
  source: SourceVolume,
  earlier: journal.Reservation | undefined,
): Effect.fn.Return<HeldPointInTime, CreateSnapshotError, Needs | Compensations> {
  const { pool } = source.volume;
  yield* stage("limit snapshots", limitSnapshots(source.volume, source.image));
  const sourceKey = yield* readSourceKey(source, spec.secrets);
  const { uuid, imageName, making } = yield* reserve(spec, source, earlier);
  const snapshotId = yield* handleOf(spec, source.volume, uuid);
  const key = yield* chooseSnapshotKey(source, sourceKey, { snapshotId, pool, imageName }, spec.secrets, making);
  const image = yield* Effect.catchTag(
    cloneSource(source, { uuid, imageName, making }, key, earlier === undefined),
    "ImageNotFound",
    asRaced,
  );
  yield* keepSnapshotKey(key, { pool, imageName });
  // Another driver that has seen the transient snapshot may be about to make the clone anew.
  yield* stage("hold point in time", ownMaking({ pool, uuid, imageName }, making).proveOwn(image.id));
  return { pool, uuid, imageName, image, making };
});

const reserve = Effect.fnUntraced(function* (
  { requestName, snapshotPrefix: prefix }: SnapshotSpec,
  { volume: { pool, imageName, attributes }, encryption }: SourceVolume,
  earlier: journal.Reservation | undefined,
) {
  const { instanceId } = yield* DriverSettings;
  const entry = { requestName, prefix, owner: attributes?.owner, source: imageName, encryption };
  const isNew = earlier === undefined;
  const begun = begin(SNAPSHOTS, pool, instanceId, entry, earlier);
  const undo = ({ making, ...made }: Begun) =>
    Effect.andThen(making.giveUp, undoReservation({ ...made, pool }, requestName));
  const claimed = yield* isNew ? step("reserve", begun, { undo }) : stage("reserve", begun);
  yield* stage("reserve", describeBegun(SNAPSHOTS, pool, instanceId, requestName, claimed, isNew));
  return claimed;
});

/** What the answer says of the image that holds a snapshot. */
type PointInTime = Pick<ImageStatus, "id" | "sizeBytes" | "createdAt">;

/** From the header: opening a clone opens its parents, too. */
const lookAtClone = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
): Effect.fn.Return<PointInTime, CephError, Rbd> {
  const [brief] = yield* (yield* Rbd).imageBriefs(pool, [imageName], []);
  return brief ?? (yield* new Raced({ op: "rbd_clone", subject: imageLabel(pool, imageName) }));
});

/**
 * Makes the clone that holds the point in time, and answers what its header says. A clone that an earlier call made stays, because
 * the caller of that call may know of it. A clone that this call makes is undone when the call fails.
 */
const cloneSource = Effect.fnUntraced(function* (
  { volume: { pool, imageName: source }, image }: SourceVolume,
  { uuid, imageName, making: { proveOwn, takeOver, undo } }: Pick<HeldPointInTime, "uuid" | "imageName" | "making">,
  key: KeyToKeep | undefined,
  isNew: boolean,
): Effect.fn.Return<PointInTime, CreateSnapshotError, Needs | Compensations> {
  const rbd = yield* Rbd;
  const transient = { pool, image: source, snapshot: imageName };
  const forgotten = journal.isForgotten(SNAPSHOTS, pool, uuid);
  const target = { pool, image: imageName, spec: holderSpec(image), snapshots: [imageName], forgotten, takeOver };
  const look = lookAtClone(pool, imageName);
  if (!isNew && (yield* stage("resume clone", resumeClone(transient, target)))) {
    if (yield* stage("look at key", isHeld(key))) return yield* stage("look at clone", look);
    yield* stage("take back clone without key", clearUnfinished(pool, imageName, takeOver, [imageName]));
  }
  const taken = cloneThrough(transient, target, stage("keep key", holdKey(key, proveOwn)));
  return yield* step("hold point in time", Effect.andThen(taken, look), {
    when: "started",
    undo: undo(
      Effect.andThen(
        discardUnfinished(pool, imageName, Effect.void, [imageName]),
        rbd.snapshotRemove(pool, source, imageName),
      ),
      dropIfUnneeded(transient, target),
    ),
  });
});

/**
 * The source is gone. A snapshot whose clone was made before no longer needs it, and is finished; what is left of one
 * whose clone was not made is removed.
 */
const finishWithoutSource = Effect.fnUntraced(function* (
  spec: SnapshotSpec,
  gone: VolumeNotFound,
): Effect.fn.Return<CsiSnapshot, CreateSnapshotError, Needs> {
  const { requestName, sourceVolumeId, credentials } = spec;
  const { instanceId } = yield* DriverSettings;
  const source = yield* stage("find source", locateVolume(sourceVolumeId, credentials));
  const { pool } = source;
  yield* stage("check topology", Effect.fromResult(usableFrom(pool.pool, spec.topology)));
  const reservation = yield* stage("look up name", journal.lookUp(SNAPSHOTS, pool, instanceId, requestName));
  if (reservation === undefined || reservation.attributes.source !== source.imageName) return yield* gone;
  const { uuid, attributes } = reservation;
  const imageName = imageNameOf(SNAPSHOTS, uuid, attributes);
  const making = yield* makingOf(SNAPSHOTS, pool, uuid, attributes);
  const complete = attributes.imageId !== undefined;
  const image = yield* stage("look at clone", statusIfThere(pool, imageName));
  if (image !== undefined && (complete || attributes.maker !== journal.GIVEN_UP)) {
    if (complete || (yield* stage("look at clone", holdsPointInTime(source, imageName, image)))) {
      if (!complete) yield* finish(spec, source, { pool, uuid, imageName, making }, attributes, image.id);
      return yield* describe(spec, source, uuid, image, true);
    }
  }
  if (!complete) yield* stage("remove unfinished snapshot", orRaced(making.giveUp));
  const deleted = { pool, attributes, handle: yield* handleOf(spec, source, uuid) };
  yield* stage(
    "remove unfinished snapshot",
    complete
      ? finishDeletion(deleted, imageName, spec.secrets)
      : Effect.andThen(discardUnfinished(pool, imageName, Effect.void, [imageName]), removeKey(deleted, spec.secrets)),
  );
  yield* stage("free name", journal.unreserve(SNAPSHOTS, pool, instanceId, { ...reservation, requestName }));
  return yield* gone;
});

const finish = Effect.fnUntraced(function* (
  spec: SnapshotSpec,
  source: LocatedVolume,
  { making, ...snapshot }: SnapshotImage & { readonly making: Making },
  attributes: journal.Attributes,
  imageId: string,
): Effect.fn.Return<void, CreateSnapshotError, Needs> {
  const snapshotId = yield* handleOf(spec, source, snapshot.uuid);
  yield* keepKeyWithoutSource(spec.sourceVolumeId, attributes, { ...snapshot, snapshotId }, spec.secrets);
  yield* makeReady(snapshot, ownMaking(snapshot, making), imageId, spec.parameters);
});

/** As `making`; and what this call has made goes where it is of no use, because another driver has deleted the snapshot. */
const ownMaking = ({ pool, uuid, imageName }: SnapshotImage, { complete, proveOwn }: Making) => {
  const discard = discardUnfinished(pool, imageName, Effect.void, [imageName]);
  return {
    complete: (imageId: string) => orDiscard(SNAPSHOTS, pool, uuid, complete(imageId), imageId, discard),
    proveOwn: (imageId: string) => orDiscard(SNAPSHOTS, pool, uuid, proveOwn, imageId, discard),
  };
};

/** A clone with neither a parent nor data of its own was cut off at the beginning. */
const holdsPointInTime = ({ pool }: LocatedVolume, imageName: string, { parent }: ImageStatus) =>
  parent !== undefined
    ? Effect.succeed(true)
    : Effect.flatMap(Rbd, (rbd): Effect.Effect<boolean, CephError> => rbd.imageHasData(pool, imageName, "own"));

const handleOf = ({ cluster }: SnapshotSpec, source: LocatedVolume, uuid: string) => {
  const { clusterId } = cluster ?? source.cluster;
  return Effect.fromResult(newHandle({ clusterId, poolId: source.poolId, uuid }));
};

const describe = (
  spec: SnapshotSpec,
  source: LocatedVolume,
  uuid: string,
  { sizeBytes, createdAt }: PointInTime,
  ready: boolean,
): Effect.Effect<CsiSnapshot, InvalidRequest | Unplaceable> => {
  const { sourceVolumeId, topology } = spec;
  return Effect.gen(function* () {
    const snapshotId = yield* handleOf(spec, source, uuid);
    const from = yield* Effect.fromResult(usableFrom(source.pool.pool, topology));
    return { snapshotId, sourceVolumeId, sizeBytes, createdAt, ready, usableFrom: from };
  });
};
