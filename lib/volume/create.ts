/**
 * CreateVolume: makes an empty image, or a copy of a snapshot or volume, under a name that keeps one UUID for ever.
 *
 * Not here: how the request is read (./create-spec.ts), what an earlier attempt left (./earlier-attempt.ts), how a copy
 * is made (./copy.ts), and the wire (services/controller.ts).
 *
 * 1. No reservation goes before its image is proven gone.
 * 2. A repeated request that asks for something else than exists is a Conflict and changes nothing.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, Raced } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rados } from "../ceph/rados.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { volumeContext } from "../config/parameters.ts";
import { DriverSettings } from "../config/settings.ts";
import type {
  Conflict,
  HalfMade,
  JournalCorrupt,
  LockHeld,
  NotReadyYet,
  Precondition,
  SnapshotNotFound,
  TooMany,
  VolumeNotFound,
} from "../csi/errors.ts";
import { newHandle } from "../csi/new-handle.ts";
import type { Flatten } from "../images/flatten.ts";
import { imageSpec } from "../images/layout.ts";
import { volumeMetadata } from "../images/metadata.ts";
import { Purge } from "../images/purge.ts";
import { orRaced } from "../images/races.ts";
import * as journal from "../journal/journal.ts";
import { orDiscard } from "../journal/making.ts";
import type { KeyChanged, KeyExists, KeyNotFound, KmsError } from "../kms/errors.ts";
import type { KeyToKeep } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { compensated, type Compensations, step } from "../operations/compensation.ts";
import { LockKey, shared } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { LIMIT_KEYS, type Metadata, metadataForNew, NO_INHERITED_LIMITS } from "../qos/image-limits.ts";
import { settleBoth } from "../operations/settle-all.ts";
import { proveFits, proveSameEncryption } from "./compare-with-request.ts";
import { type CopySource, keepSourceCloneable, type SourceRequest } from "./copy-source.ts";
import { createCopy, findSourceOrCleanUp, removeTraces } from "./copy.ts";
import {
  type CreateRequestError,
  type CreateVolumePlan,
  type CreateVolumeRequest,
  type CreateVolumeSpec,
  readCreateRequest,
} from "./create-spec.ts";
import { type EarlierAttempt, imagePoolOf, recoverEarlierAttempt } from "./earlier-attempt.ts";
import { overHalfMade } from "./half-made.ts";
import { chooseKey, keepChosenKey } from "./key.ts";
import { choosePool } from "./pool-choice.ts";
import { describeReserved, discardMade, discardNew, type ReservedVolume, reserveName } from "./reserve.ts";
import type { Segments } from "./topology.ts";

export interface CreatedVolume {
  readonly volumeId: string;
  readonly capacityBytes: bigint;
  readonly volumeContext: Record<string, string>;
  /** From where it can be reached; absent: from everywhere. */
  readonly segments: Segments | undefined;
}

export type CreateVolumeError =
  | CephError
  | Conflict
  | CreateRequestError
  | HalfMade
  | JournalCorrupt
  | KeyChanged
  | KeyExists
  | KeyNotFound
  | KmsError
  | LockHeld
  | NotReadyYet
  | Precondition
  | SnapshotNotFound
  | TooMany
  | VolumeNotFound;

type Needs = Ceph | ClusterMapping | Clusters | DriverSettings | Flatten | Kms | Purge;

const { VOLUMES } = journal;

export const createVolume = Effect.fn("volume.createVolume")(function* (
  request: CreateVolumeRequest,
): Effect.fn.Return<CreatedVolume, CreateVolumeError, Needs | Locks> {
  const plan = yield* stage("validate", readCreateRequest(request));
  const name = LockKey.volumeName(plan.clusterId, plan.requestName);
  return yield* (yield* Locks).with([sourceLock(request.source), name], createPlanned(plan));
});

/** Copies of one source run side by side; only its deletion waits for them, and they for it. */
const sourceLock = (source: SourceRequest | undefined): LockKey | undefined =>
  source && shared(source.kind === "volume" ? LockKey.volume(source.id) : LockKey.snapshot(source.id));

const createPlanned = Effect.fnUntraced(function* ({
  candidates,
  others,
}: CreateVolumePlan): Effect.fn.Return<CreatedVolume, CreateVolumeError, Needs> {
  const spec = yield* stage("choose pool", choosePool(candidates, others));
  const { dataPool } = spec.parameters;
  const poolId = yield* stage("find", (yield* Rados).poolId(spec.pool.access, spec.pool.pool, { dataPool }));
  yield* (yield* Purge).visit(spec.pool);
  const earlier = yield* stage("find", recoverEarlierAttempt(spec, poolId));
  const create = compensated(createOver(spec, poolId, earlier));
  const { reservation } = earlier;
  if (reservation === undefined) return yield* create;
  const imagePool = (yield* imagePoolOf(spec.pool, reservation.imagePoolId)) ?? spec.pool;
  const imageName = journal.imageNameOf(VOLUMES, reservation.uuid, reservation.attributes);
  return yield* overHalfMade(spec.requestName, imagePool, imageName)(create);
});

/** Makes the volume, and goes on with what an earlier call has begun. */
const createOver = Effect.fnUntraced(function* (
  spec: CreateVolumeSpec,
  poolId: bigint,
  earlier: EarlierAttempt,
): Effect.fn.Return<CreatedVolume, CreateVolumeError, Needs | Compensations> {
  yield* stage("compare", proveSameEncryption(spec, earlier.reservation));
  const source =
    earlier.image === undefined && spec.source !== undefined
      ? yield* stage("find source", findSourceOrCleanUp(spec, spec.source, earlier.reservation))
      : undefined;
  if (source !== undefined) yield* keepSourceCloneable(source);
  const reserved = yield* reserveName(spec, earlier);
  const volumeId = yield* handleOf(spec, reserved, poolId);
  const key = yield* chooseKey(spec, reserved, volumeId, source?.key);
  const image = yield* makeImage(spec, earlier, { source, key }, reserved);
  if (image.existing !== undefined) yield* stage("compare", proveFits(spec, reserved, image.existing));
  yield* keepChosenKey(key, reserved);
  yield* stage("commit", commit(spec, reserved, image, source));
  return describeCreated(spec, reserved, volumeId, image.sizeBytes);
});

/** The image of the volume. */
interface Made {
  /** Absent if it is not known yet. */
  readonly id: string | undefined;
  /** What its header says if this call did not make it. */
  readonly existing: ImageHeader | undefined;
  readonly sizeBytes: bigint;
}

const newImage = (id: string | undefined, sizeBytes: bigint): Made => ({ id, existing: undefined, sizeBytes });
const foundImage = (existing: ImageHeader): Made => ({ id: existing.id, existing, sizeBytes: existing.sizeBytes });

/** Writes the attributes of the reservation, and makes the image if it is not there. */
const makeImage = Effect.fnUntraced(function* (
  spec: CreateVolumeSpec,
  { reservation, image: existing }: EarlierAttempt,
  { source, key }: { readonly source: CopySource | undefined; readonly key: KeyToKeep | undefined },
  reserved: ReservedVolume,
): Effect.fn.Return<Made, CreateVolumeError, Needs | Compensations> {
  const isNew = reservation === undefined;
  const describe = describeReserved(spec, reserved, isNew);
  if (isNew && source === undefined && journal.namedByUuid(VOLUMES, reserved)) {
    const [, made] = yield* settleBoth(describe, createEmpty(spec, reserved));
    return made;
  }
  yield* describe;
  if (existing !== undefined) return foundImage(existing);
  if (source === undefined) return yield* createEmpty(spec, reserved);
  return newImage(undefined, yield* createCopy(spec, source, reserved, key, isNew));
});

/** Makes the image, unless another driver, or an earlier call that had timed out, was faster. */
const createEmpty = Effect.fnUntraced(function* (spec: CreateVolumeSpec, reserved: ReservedVolume) {
  const rbd = yield* Rbd;
  const { imagePool, imageName } = reserved;
  const { sizeBytes } = spec.size;
  const create = rbd.imageCreate(imagePool, imageName, imageSpec(spec.parameters, sizeBytes));
  const made = Effect.map(create, (id) => newImage(id, sizeBytes));
  const look = stage("create image", orRaced(rbd.imageHeader(imagePool, imageName, LIMIT_KEYS)));
  return yield* step("create image", made, { undo: () => discardNew(reserved) }).pipe(
    Effect.catchTag("Exists", () => Effect.map(look, foundImage)),
  );
});

/** Writes the image's metadata, then its ID into the journal, which is written last and means complete. */
const commit = Effect.fnUntraced(function* (
  spec: CreateVolumeSpec,
  { imagePool, imageName, attributes, uuid, making }: ReservedVolume,
  made: Made,
  source: CopySource | undefined,
) {
  const rbd = yield* Rbd;
  const { requestParameters } = spec;
  const copied = source !== undefined;
  const metadata = {
    ...volumeMetadata(yield* DriverSettings, requestParameters, copied),
    ...(copied && NO_INHERITED_LIMITS),
    // The limits of a complete volume may have been modified since.
    ...(attributes.imageId === undefined && limitsOf(spec, made)),
  };
  if (Object.keys(metadata).length > 0) yield* orRaced(rbd.imageMetaSet(imagePool, imageName, metadata));
  if (attributes.imageId !== undefined) return;
  const imageId = made.id ?? (yield* rbd.imageId(imagePool, imageName));
  if (imageId === undefined) {
    return yield* new Raced({ op: "rbd_create4", subject: imageLabel(imagePool, imageName) });
  }
  const discard = Effect.andThen(
    discardMade({ imagePool, imageName }, imageId),
    copied ? removeTraces(source, imagePool, imageName) : Effect.void,
  );
  yield* orDiscard(VOLUMES, spec.pool, uuid, making.complete(imageId), imageId, discard);
});

/** Without those that an earlier attempt has written for another class. */
const limitsOf = ({ limits, parameters }: CreateVolumeSpec, { existing, sizeBytes }: Made): Metadata => ({
  ...Object.fromEntries([...(existing?.metadata.keys() ?? [])].map((key) => [key, undefined])),
  ...metadataForNew(limits, sizeBytes, parameters.mappedBy),
});

const handleOf = (
  { parameters: { clusterId } }: CreateVolumeSpec,
  { imagePoolId, uuid }: ReservedVolume,
  poolId: bigint,
) => Effect.fromResult(newHandle({ clusterId, poolId: imagePoolId ?? poolId, uuid }));

const describeCreated = (
  { pool, cluster, parameters, requestParameters, segments }: CreateVolumeSpec,
  { imagePool, imageName }: ReservedVolume,
  volumeId: string,
  capacityBytes: bigint,
): CreatedVolume => ({
  volumeId,
  capacityBytes,
  volumeContext: volumeContext(requestParameters, {
    pool: imagePool.pool,
    journalPool: pool.pool,
    imageName,
    radosNamespace: cluster.radosNamespace,
    dataPool: parameters.dataPool,
  }),
  segments,
});
