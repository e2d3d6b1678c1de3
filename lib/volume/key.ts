/**
 * The key of a volume that is being made: chosen before its image is, kept after, and removed with it.
 *
 * Not here: where a key is kept and what a crash leaves (lib/kms/keep-key.ts).
 *
 * 1. A volume that the journal calls complete has its key: nothing is made or written for it.
 * 2. A key goes only where its image is proven gone, and the making of the volume is given up.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import type { Rbd } from "../ceph/rbd.ts";
import type { InvalidParameter } from "../config/errors.ts";
import { undoKey } from "../images/key-removal.ts";
import { asRaced } from "../images/races.ts";
import type { KeyExists, KeyNotFound, KmsError } from "../kms/errors.ts";
import { copiedVolumeKey, keepKey, type KeyToKeep, newVolumeKey, type SourceKey } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";
import type { ReservedVolume } from "./reserve.ts";

/** `undefined`: the volume is plain, or has its key. */
export const chooseKey = Effect.fn("volume.chooseKey")(function* (
  spec: CreateVolumeSpec,
  reserved: ReservedVolume,
  volumeId: string,
  source: SourceKey | undefined,
): Effect.fn.Return<KeyToKeep | undefined, KmsError | InvalidParameter, Compensations | Kms | Rados | Rbd> {
  const { encryption } = spec.parameters;
  if (encryption === undefined || reserved.attributes.imageId !== undefined) return undefined;
  const request = { ...encryption, volumeId, owner: spec.owner, secrets: spec.secrets };
  const key = source === undefined ? newVolumeKey(request) : copiedVolumeKey(source, request);
  // Undone after the image that is made next, because steps are undone the last first.
  const { imagePool: pool, imageName, making } = reserved;
  const undo = () => undoKey(making, { pool, imageName }, request);
  return yield* step("choose key", key, { undo });
});

/** Keeps the key of the image, which is there. */
export const keepChosenKey = (
  key: KeyToKeep | undefined,
  { imagePool: pool, imageName }: ReservedVolume,
): Effect.Effect<void, CephError | KmsError | KeyExists | KeyNotFound, Rbd> =>
  key === undefined
    ? Effect.void
    : stage("keep key", Effect.catchTag(keepKey(key, { pool, imageName }), "ImageNotFound", asRaced));
