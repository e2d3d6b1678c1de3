/**
 * The key of a snapshot: that of its source, wrapped anew for the snapshot's ID. Restores read it there, whatever became
 * of the source.
 *
 * Not here: where a key is kept and what a crash leaves (lib/kms/keep-key.ts).
 *
 * 1. It is kept before a caller hears of the point in time, because the source and its key may be gone afterwards.
 * 2. It goes only where the image of the snapshot is proven gone.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import type { Rbd } from "../ceph/rbd.ts";
import { type Encryption, encryptionIn } from "../config/encryption.ts";
import type { InvalidParameter } from "../config/errors.ts";
import { undoKey } from "../images/key-removal.ts";
import { asRaced } from "../images/races.ts";
import type { Attributes } from "../journal/journal.ts";
import type { Making } from "../journal/making.ts";
import type { KeyChanged, KeyExists, KeyNotFound, KmsError } from "../kms/errors.ts";
import type { ImageRef } from "../kms/image-keys.ts";
import {
  copiedVolumeKey,
  keepKey,
  type KeyRequest,
  type KeyToKeep,
  settled,
  type SourceKey,
  sourceKey,
} from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { volumeKey } from "../kms/volume-key.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import type { SourceVolume } from "./source-volume.ts";

export type SnapshotKeyError = CephError | InvalidParameter | KeyChanged | KeyExists | KeyNotFound | KmsError;

type Secrets = KeyRequest["secrets"];

/** The key of the volume; `undefined`: it is plain. */
export const readSourceKey = (
  { volume, encryption }: SourceVolume,
  secrets: Secrets,
): Effect.Effect<SourceKey | undefined, SnapshotKeyError, Kms | Rbd> =>
  encryption === undefined
    ? Effect.succeed(undefined)
    : stage("read key of source", sourceKey(requestFor(volume.handle, encryption, volume.attributes, secrets), volume));

const requestFor = (
  volumeId: string,
  encryption: Encryption,
  attributes: Attributes | undefined,
  secrets: Secrets,
): KeyRequest => ({ ...encryption, volumeId, owner: attributes?.owner, secrets });

/** A snapshot that is being made. */
export interface SnapshotToKey extends ImageRef {
  readonly snapshotId: string;
}

/** Wraps the key for the snapshot, before its image is made. `undefined`: the source is plain. */
export const chooseSnapshotKey = Effect.fn("snapshot.chooseKey")(function* (
  { volume, encryption }: SourceVolume,
  source: SourceKey | undefined,
  { snapshotId, pool, imageName }: SnapshotToKey,
  secrets: Secrets,
  making: Making,
): Effect.fn.Return<KeyToKeep | undefined, SnapshotKeyError, Compensations | Kms | Rados | Rbd> {
  if (encryption === undefined || source === undefined) return undefined;
  const request = requestFor(snapshotId, encryption, volume.attributes, secrets);
  // Undone after the image that is made next, because steps are undone the last first.
  const undo = () => undoKey(making, { pool, imageName }, request);
  return yield* step("choose key", copiedVolumeKey(source, request), { undo });
});

/** Keeps the key of a snapshot whose image is there. */
export const keepSnapshotKey = (
  key: KeyToKeep | undefined,
  image: ImageRef,
): Effect.Effect<void, SnapshotKeyError, Rbd> =>
  key === undefined ? Effect.void : stage("keep key", Effect.catchTag(keepKey(key, image), "ImageNotFound", asRaced));

/** Wraps and keeps the key of a snapshot that nothing undoes any more. `isSettled`: it is proven to be that of its moment. */
export const copySnapshotKey = Effect.fn("snapshot.copyKey")(function* (
  { volume, encryption }: SourceVolume,
  source: SourceKey | undefined,
  snapshot: SnapshotToKey,
  secrets: Secrets,
  isSettled: boolean,
): Effect.fn.Return<void, SnapshotKeyError, Kms | Rbd> {
  if (encryption === undefined || source === undefined) return;
  const request = requestFor(snapshot.snapshotId, encryption, volume.attributes, secrets);
  const key = yield* stage("choose key", copiedVolumeKey(source, request));
  yield* keepSnapshotKey(isSettled ? settled(key) : key, snapshot);
});

/**
 * The key of a snapshot whose source is gone. An earlier call has kept it, unless it was cut off just before; then the
 * clone still has what it inherited, or the store the key of the source.
 */
export const keepKeyWithoutSource = Effect.fn("snapshot.keepKeyWithoutSource")(function* (
  sourceVolumeId: string,
  attributes: Attributes,
  snapshot: SnapshotToKey,
  secrets: Secrets,
): Effect.fn.Return<void, SnapshotKeyError, Kms | Rbd> {
  const encryption = encryptionIn(attributes);
  if (encryption === undefined) return;
  const request = requestFor(snapshot.snapshotId, encryption, attributes, secrets);
  const kept = volumeKey({ ...request, image: snapshot });
  const taken = Effect.gen(function* () {
    const source = yield* sourceKey({ ...request, volumeId: sourceVolumeId }, snapshot);
    yield* keepKey(yield* copiedVolumeKey(source, request), snapshot);
  });
  // One whose source was never staged has none.
  if (encryption.type === "file") return yield* stage("keep key", taken);
  yield* stage(
    "keep key",
    // a text that was wrapped for the source is refused in as many ways as there are stores
    Effect.catchTag(Effect.asVoid(kept), ["KeyNotFound", "KeyDamaged", "KmsDenied", "KmsRefused"], () => taken),
  );
});
