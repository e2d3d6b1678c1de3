/**
 * CreateSnapshot: an image of its own that holds a point in time of a volume, in ceph-csi's layout: `csi-snap-U`, a
 * clone of the source, with a snapshot `csi-snap-U` on it, which restores clone from.
 *
 * It is quick: making a snapshot waits for the monitors, about a second, and the layout needs two, one after the other.
 * The first fixes the point in time. Once the clone of it exists, the answer goes out with `ready_to_use` false, and
 * the second is made behind it. The caller asks again, as CSI has it, and joins what still runs or finds it done. So an
 * answer costs one wait; nothing is restored from before the second is there.
 *
 * 1. A name has at most one snapshot ID, as for volumes; the image ID in the journal is written last, and means ready.
 * 2. A name that was given to a snapshot of another volume is a Conflict.
 * 3. Nothing of the source is kept but its data: the transient snapshot goes as soon as the clone exists.
 * 4. A point in time that a caller may have been told of is never undone, and never taken anew: what fails from then on
 *    is finished by the next call.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Clusters } from "../config/clusters.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { Conflict, InvalidRequest, type VolumeNotFound } from "../csi/errors.ts";
import type { TakenSnapshot } from "../csi/messages.ts";
import { encodeVolumeId } from "../csi/volume-id.ts";
import { cloneThrough, resumeClone } from "../images/clone.ts";
import { removeLeftOverTemp } from "../images/intermediate.ts";
import { holderSpec } from "../images/layout.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { discardUnfinished, finishRemoval } from "../images/removal.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import * as journal from "../journal/journal.ts";
import { type LocatedVolume, locateVolume } from "../journal/locate.ts";
import { compensated, undoable } from "../operations/compensation.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { makeReady, undoReservation } from "./finish.ts";
import { readSnapshotParameters } from "./parameters.ts";
import { findSourceVolume, type SourceVolume } from "./source-volume.ts";

export interface SnapshotRequest {
  readonly requestName: string;
  readonly sourceVolumeId: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
}

const { SNAPSHOTS } = journal;

const readRequest = (request: SnapshotRequest) =>
  Effect.gen(function* () {
    const { prefix, clusterId } = yield* Effect.fromResult(readSnapshotParameters(request.parameters));
    const credentials: Credentials = yield* Effect.fromResult(
      parseCredentials(request.secrets, { allowMigration: false }),
    );
    const cluster = clusterId === undefined ? undefined : yield* (yield* Clusters).get(clusterId);
    return { ...request, prefix, cluster, credentials };
  });

type Wanted = Effect.Success<ReturnType<typeof readRequest>>;

/** What there is of the name. `reservation` without `image`: it is to be made, or to be finished. */
const findSnapshot = (
  { instanceId }: VolumeOptions,
  { requestName }: Wanted,
  { found: { pool, imageName } }: SourceVolume,
) =>
  Effect.gen(function* () {
    const reservation = yield* journal.lookUp(SNAPSHOTS, pool, instanceId, requestName);
    if (reservation === undefined) return { reservation, image: undefined };
    const { uuid, attributes } = reservation;
    if (attributes.source !== undefined && attributes.source !== imageName) {
      const message = `snapshot ${requestName} exists already, of image ${attributes.source}; one of ${imageName} is asked for`;
      return yield* new Conflict({ subject: "", problem: message });
    }
    if (attributes.imageId === undefined) return { reservation, image: undefined };
    const snapImage = attributes.imageName ?? SNAPSHOTS.defaultImagePrefix + uuid;
    const image = yield* statusIfThere(pool, snapImage);
    if (image !== undefined) return { reservation, image };
    // It was complete and is gone: its deletion was cut off.
    yield* finishRemoval(pool, snapImage, attributes.imageId);
    yield* journal.unreserve(SNAPSHOTS, pool, instanceId, { ...reservation, requestName });
    return { reservation: undefined, image: undefined };
  });

const reserved = (
  options: VolumeOptions,
  wanted: Wanted,
  source: SourceVolume,
  earlier: journal.Reservation | undefined,
) => {
  const { pool, imageName, attributes } = source.found;
  const { requestName, prefix } = wanted;
  const entry = { requestName, prefix, owner: attributes?.owner, source: imageName };
  const reserve = journal.reserve(SNAPSHOTS, pool, options.instanceId, entry, earlier);
  if (earlier !== undefined) return stage("reserve", reserve);
  return undoable("reserve", reserve, (made) => undoReservation(options, { ...made, pool }, requestName));
};

/**
 * The clone that holds the point in time; -> its status. What an earlier call made of it stays: its caller may have been
 * answered. What this one makes is undone when it fails.
 */
const hold = ({ found, status }: SourceVolume, image: string, fresh: boolean) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { pool, imageName } = found;
    const transient = { pool, image: imageName, snapshot: image };
    const target = { pool, image, spec: holderSpec(status), snapshots: [image] };
    const held = orRaced(rbd.imageStatus(pool, image));
    if (!fresh && (yield* stage("clear", resumeClone(transient, target)))) return yield* stage("find", held);
    const made = Effect.exit(Effect.andThen(cloneThrough(transient, target), held));
    const undo = Effect.andThen(discardUnfinished(pool, image, [image]), rbd.snapshotRemove(pool, imageName, image));
    return yield* yield* undoable("hold point in time", made, () => undo);
  });

const taken = (
  { cluster, sourceVolumeId }: Wanted,
  found: LocatedVolume,
  uuid: string,
  { sizeBytes, createdAt }: ImageStatus,
  ready: boolean,
) => {
  const { clusterId } = cluster ?? found.cluster;
  return Effect.fromResult(encodeVolumeId({ clusterId, poolId: found.poolId, uuid })).pipe(
    Effect.map((snapshotId): TakenSnapshot => ({ snapshotId, sourceVolumeId, sizeBytes, createdAt, ready })),
    Effect.mapError(({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message })),
  );
};

/**
 * The source is gone. A snapshot that was taken before needs it no more, and is finished; of one that was not, what is
 * left goes.
 */
const withoutSource = (options: VolumeOptions, wanted: Wanted, gone: VolumeNotFound) =>
  Effect.gen(function* () {
    const { requestName, sourceVolumeId, credentials, parameters } = wanted;
    const found = yield* stage("find", locateVolume(sourceVolumeId, credentials));
    const { pool } = found;
    const reservation = yield* stage("find", journal.lookUp(SNAPSHOTS, pool, options.instanceId, requestName));
    if (reservation === undefined || reservation.attributes.source !== found.imageName) return yield* gone;
    const { uuid, attributes } = reservation;
    const imageName = attributes.imageName ?? SNAPSHOTS.defaultImagePrefix + uuid;
    const image = yield* stage("find", statusIfThere(pool, imageName));
    if (attributes.imageId !== undefined && image !== undefined) return yield* taken(wanted, found, uuid, image, true);
    // Neither a parent nor data of its own: its clone was cut off at the beginning.
    const hasData = (yield* Rbd).imageHasData(pool, imageName, "own");
    if (image !== undefined && (image.parent !== undefined || (yield* stage("find", hasData)))) {
      yield* makeReady(options, { pool, uuid, imageName }, image, parameters);
      return yield* taken(wanted, found, uuid, image, true);
    }
    yield* stage("clear", discardUnfinished(pool, imageName, [imageName]));
    yield* stage("clear", journal.unreserve(SNAPSHOTS, pool, options.instanceId, { ...reservation, requestName }));
    return yield* gone;
  });

/** `answer` is called once, as soon as the point in time is safe; the effect ends when the snapshot is ready. */
export const createSnapshot = (
  options: VolumeOptions,
  request: SnapshotRequest,
  answer: (taken: TakenSnapshot) => Effect.Effect<void>,
) =>
  Effect.gen(function* () {
    const wanted = yield* stage("validate", readRequest(request));
    const { requestName, sourceVolumeId } = wanted;
    const locks = yield* Locks;
    const body = Effect.gen(function* () {
      const looked = yield* stage("find", Effect.result(findSourceVolume(wanted)));
      if (Result.isFailure(looked)) {
        if (looked.failure._tag !== "VolumeNotFound") return yield* looked.failure;
        return yield* withoutSource(options, wanted, looked.failure);
      }
      const source = looked.success;
      const { pool } = source.found;
      const known = yield* stage("find", findSnapshot(options, wanted, source));
      if (known.reservation !== undefined && known.image !== undefined) {
        return yield* taken(wanted, source.found, known.reservation.uuid, known.image, true);
      }
      const { uuid, imageName, image } = yield* compensated(
        Effect.gen(function* () {
          yield* stage("limit snapshots", limitSnapshots(source.found, source.status));
          const reservation = yield* reserved(options, wanted, source, known.reservation);
          const held = hold(source, reservation.imageName, known.reservation === undefined);
          return { ...reservation, image: yield* Effect.catchTag(held, "ImageNotFound", asRaced) };
        }),
      );
      yield* stage("answer", Effect.flatMap(taken(wanted, source.found, uuid, image, false), answer));
      // From here on nothing is undone: the caller counts on this point in time.
      yield* makeReady(options, { pool, uuid, imageName }, image, request.parameters);
      yield* stage("remove left-over copy", removeLeftOverTemp(source.found, source.status));
      return yield* taken(wanted, source.found, uuid, image, true);
    });
    const named = stage("lock", locks.withLock(`snapshot name ${requestName}`, "exclusive", body));
    // The source may be snapshotted and cloned by others meanwhile, but not deleted. IDs before names, as whoever
    // deletes does: no two wait for each other.
    return yield* stage("lock", locks.withLock(`volume ${sourceVolumeId}`, "shared", named));
  });
