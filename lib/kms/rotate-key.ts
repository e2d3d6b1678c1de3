/**
 * A new key for a volume that has data: both keys, and the write that keeps the new one. The caller puts it into the LUKS
 * header between the two.
 *
 * Not here: the slots of the header, the order in which the key is lost at no crash, and the lock that keeps two rotations
 * apart (lib/node/rotate-key.ts).
 *
 * 1. The new key is kept only in place of the very key that step 1 read. `Raced` or `KeyExists` if another is there.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { Rbd } from "../ceph/rbd.ts";
import { type KeyExists, type KeyNotFound, type KmsError, KmsRefused } from "./errors.ts";
import { claimImageKeys, type EncryptionState, readImageKeys } from "./image-keys.ts";
import type { Key } from "./key-store.ts";
import { Kms } from "./kms.ts";
import { keyOfImage, type VolumeKeyRequest } from "./volume-key.ts";

export interface Rotation {
  /** That of the image. */
  readonly state: EncryptionState;
  readonly old: Key;
  readonly next: Key;
  /** The store has the key, and not the image. */
  readonly isInStore: boolean;
  readonly keepNext: Effect.Effect<void, CephError | KeyExists | KeyNotFound | KmsError, Rbd>;
}

export const beginRotation = Effect.fn("kms.beginRotation")(function* (
  request: VolumeKeyRequest,
): Effect.fn.Return<Rotation, CephError | KeyNotFound | KmsError, Kms | Rbd> {
  const { volumeId, image, kmsId } = request;
  const store = yield* (yield* Kms).open(request);
  if (store.kind === "passphrase") {
    const reason = `KMS ${kmsId} has one passphrase for all volumes, so that of ${volumeId} cannot be changed alone`;
    return yield* new KmsRefused({
      store: store.name,
      reason,
      remedy: "Copy it into a class with a KMS that keeps keys",
    });
  }
  const found = yield* readImageKeys(image);
  const old = yield* keyOfImage(store, volumeId, found);
  const next = yield* store.newKey;
  const { state } = found;
  const isInStore = store.kind === "keeping";
  if (isInStore) return { state, old, next, isInStore, keepNext: store.replace(volumeId, old, next) };
  const wrapped = { now: found.isOldName ? "" : (found.wrapped ?? ""), next: yield* store.wrap(volumeId, next) };
  return { state, old, next, isInStore, keepNext: claimImageKeys(image, { wrapped }) };
});
