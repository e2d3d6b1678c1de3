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
 */
import * as Effect from "effect/Effect";
import { Ceph, type ImageStatus, imageSubject, type PoolRef } from "../ceph/ceph.ts";
import { FEATURE_BITS } from "../config/image-features.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import { Conflict, InvalidRequest, isDefinite, Precondition, TooMany, VolumeNotFound } from "../errors.ts";
import { Flatten } from "../flatten.ts";
import { type Found, resolveVolume } from "../handles.ts";
import { cloneThrough, discardImage, finishRemoval, holderSpec, statusIfThere } from "../images.ts";
import * as journal from "../journal.ts";
import { Locks } from "../locks.ts";
import { compensated, stage, undoable } from "../pipeline.ts";
import { encodeVolumeId } from "../volume-id.ts";
import { snapshotMetadata } from "../volume/metadata.ts";
import type { VolumeOptions } from "../volume/options.ts";
import { readSnapshotParameters } from "./parameters.ts";

export interface SnapshotRequest {
  readonly requestName: string;
  readonly sourceVolumeId: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
}

export interface TakenSnapshot {
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly ready: boolean;
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

/** The source volume, fit for a snapshot; the cluster by whose ID the snapshot will go. */
const findSource = ({ sourceVolumeId, cluster, credentials }: Wanted) =>
  Effect.gen(function* () {
    const found = yield* resolveVolume(sourceVolumeId, credentials);
    if (cluster !== undefined && !sameCluster(cluster, found.cluster)) {
      const reason = `is ${cluster.clusterId}, but the volume is in cluster ${found.cluster.clusterId}`;
      return yield* new InvalidRequest({ field: "parameters.clusterID", reason });
    }
    if (found.attributes?.encryptKms !== undefined) {
      const message = `volume ${sourceVolumeId} is encrypted, and this driver does not know its keys yet; a snapshot could not be read`;
      return yield* new Precondition({ message });
    }
    const status = yield* (yield* Ceph)
      .imageStatus(found.pool, found.imageName)
      .pipe(
        Effect.catchTag("ImageNotFound", ({ message }) =>
          Effect.fail(new VolumeNotFound({ volumeId: sourceVolumeId, reason: message })),
        ),
      );
    if ((status.features & FEATURE_BITS.layering) === 0n) {
      const reason = `image ${imageSubject(found.pool, found.imageName)} lacks the feature layering, without which it can't be cloned`;
      return yield* new InvalidRequest({ field: "source_volume_id", reason });
    }
    return { found, status, clusterId: (cluster ?? found.cluster).clusterId };
  });

type Source = Effect.Success<ReturnType<typeof findSource>>;

const sameCluster = (one: Cluster, other: Cluster): boolean =>
  one.clusterId === other.clusterId ||
  (one.monitors.join() === other.monitors.join() && one.radosNamespace === other.radosNamespace);

/** What there is of the name. `reservation` without `image`: it is to be made, or to be finished. */
const findSnapshot = ({ instanceId }: VolumeOptions, { requestName }: Wanted, { found: { pool, imageName } }: Source) =>
  Effect.gen(function* () {
    const reservation = yield* journal.lookUp(SNAPSHOTS, pool, instanceId, requestName);
    if (reservation === undefined) return { reservation, image: undefined };
    const { uuid, attributes } = reservation;
    if (attributes.source !== undefined && attributes.source !== imageName) {
      const message = `snapshot ${requestName} exists already, of image ${attributes.source}; one of ${imageName} is asked for`;
      return yield* new Conflict({ message });
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

/** An image takes only so many snapshots; those that are only there for clones go when the clones are flattened. */
const limitSnapshots = ({ maxSnapshots, minSnapshots }: VolumeOptions, { found, status }: Source) =>
  Effect.gen(function* () {
    if (status.snapshotCount <= minSnapshots) return;
    const { pool, imageName } = found;
    const flatten = yield* Flatten;
    const ceph = yield* Ceph;
    const kept = (yield* ceph.snapshots(pool, imageName)).filter(({ kind }) => kind === "trash");
    const full = status.snapshotCount > maxSnapshots;
    for (const { originalName } of full ? kept : kept.slice(Math.max(0, minSnapshots - 1))) {
      if (originalName !== undefined) yield* flatten.request(pool, originalName);
    }
    if (!full) return;
    const subject = imageSubject(pool, imageName);
    return yield* new TooMany({
      message: `image ${subject} has ${status.snapshotCount} snapshots, at most ${maxSnapshots} are allowed; ${kept.length} of them are kept by clones, which are being flattened: retry later, or delete snapshots`,
    });
  });

const reserved = (options: VolumeOptions, wanted: Wanted, source: Source, earlier: journal.Reservation | undefined) => {
  const { pool, imageName, attributes } = source.found;
  const { requestName, prefix } = wanted;
  const entry = { requestName, prefix, owner: attributes?.owner, source: imageName };
  const reserve = journal.reserve(SNAPSHOTS, pool, options.instanceId, entry, earlier);
  if (earlier !== undefined) return stage("reserve", reserve);
  return undoable("reserve", reserve, (made) =>
    Effect.gen(function* () {
      const left = yield* (yield* Ceph).imageId(pool, made.imageName);
      if (left !== undefined) {
        return yield* new Conflict({ message: `image ${imageSubject(pool, made.imageName)} is still there` });
      }
      yield* journal.unreserve(SNAPSHOTS, pool, options.instanceId, { ...made, requestName });
    }),
  );
};

/** The clone that holds the point in time; undone, neither it nor the transient snapshot is left. */
const hold = ({ found, status }: Source, image: string, fresh: boolean) => {
  const { pool, imageName } = found;
  const transient = { pool, image: imageName, snapshot: image };
  return undoable(
    "hold point in time",
    Effect.exit(cloneThrough(transient, { pool, image, spec: holderSpec(status) }, fresh)),
    () =>
      Effect.gen(function* () {
        const ceph = yield* Ceph;
        yield* ceph.snapshotRemove(pool, image, image).pipe(Effect.catchTag("ImageNotFound", () => Effect.void));
        const id = yield* ceph.imageId(pool, image);
        if (id !== undefined) yield* discardImage(pool, image, id);
        yield* ceph.snapshotRemove(pool, imageName, image);
      }),
  ).pipe(Effect.flatten);
};

/** `answer` is called once, as soon as the point in time is safe; the effect ends when the snapshot is ready. */
export const createSnapshot = (
  options: VolumeOptions,
  request: SnapshotRequest,
  answer: (taken: TakenSnapshot) => Effect.Effect<void>,
) =>
  Effect.gen(function* () {
    const wanted = yield* stage("validate", readRequest(request));
    const { requestName, sourceVolumeId } = wanted;
    const ceph = yield* Ceph;
    const locks = yield* Locks;
    const body = Effect.gen(function* () {
      const source = yield* stage("find", findSource(wanted));
      const { pool, poolId }: { pool: PoolRef; poolId: Found["poolId"] } = source.found;
      const known = yield* stage("find", findSnapshot(options, wanted, source));
      const taken = (uuid: string, { sizeBytes, createdAt }: ImageStatus, ready: boolean) =>
        Effect.map(Effect.fromResult(encodeVolumeId({ clusterId: source.clusterId, poolId, uuid })), (snapshotId) => {
          const snapshot: TakenSnapshot = { snapshotId, sourceVolumeId, sizeBytes, createdAt, ready };
          return snapshot;
        }).pipe(
          Effect.mapError(({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message })),
        );
      if (known.reservation !== undefined && known.image !== undefined) {
        return yield* taken(known.reservation.uuid, known.image, true);
      }
      yield* stage("limit snapshots", limitSnapshots(options, source));
      const { uuid, imageName } = yield* reserved(options, wanted, source, known.reservation);
      yield* hold(source, imageName, known.reservation === undefined);
      const image = yield* stage("hold point in time", ceph.imageStatus(pool, imageName));
      yield* stage("answer", Effect.flatMap(taken(uuid, image, false), answer));
      yield* stage(
        "make ready",
        ceph.snapshotCreate(pool, imageName, imageName).pipe(Effect.catchTag("Exists", () => Effect.void)),
      );
      yield* stage("commit", ceph.imageMetaSet(pool, imageName, snapshotMetadata(options, request.parameters)));
      yield* stage("commit", journal.storeImageId(SNAPSHOTS, pool, uuid, image.id));
      const { softDepth } = options.chain;
      const depth = yield* stage("limit chain", ceph.cloneDepth(pool, imageName));
      if (depth >= Math.max(1, softDepth)) yield* (yield* Flatten).request(pool, imageName);
      return yield* taken(uuid, image, true);
    });
    const owned = compensated(isDefinite, body);
    // The source may be snapshotted and cloned by others meanwhile, but not deleted.
    const kept = stage("lock", locks.withLock(`volume ${sourceVolumeId}`, "shared", owned));
    return yield* stage("lock", locks.withLock(`snapshot name ${requestName}`, "exclusive", kept));
  });
