/**
 * The key of a volume that exists, as a node needs it. Nothing is written here.
 *
 * Not here: the stores (./stores), which of them a KMS ID names (./kms.ts), and how a key is made (./keep-key.ts).
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { Rbd } from "../ceph/rbd.ts";
import { KeyNotFound, type KmsError } from "./errors.ts";
import { DEK_PLACE, type ImageKeys, type ImageRef, readImageKeys } from "./image-keys.ts";
import type { Key, KeyStore } from "./key-store.ts";
import { Kms, type StoreRequest } from "./kms.ts";

export interface VolumeKeyRequest extends StoreRequest {
  /** The handle, exactly as the request has it: keys are bound to it. */
  readonly volumeId: string;
  readonly image: ImageRef;
}

export type VolumeKeyError = CephError | KmsError | KeyNotFound;

/** The passphrase of a volume that exists: what a node opens its LUKS device with. It writes nothing. */
export const volumeKey = Effect.fn("kms.volumeKey")(function* (
  request: VolumeKeyRequest,
): Effect.fn.Return<Key, VolumeKeyError, Kms | Rbd> {
  const store = yield* (yield* Kms).open(request);
  const found = store.kind === "wrapping" ? yield* readImageKeys(request.image) : undefined;
  return yield* keyOfImage(store, request.volumeId, found);
});

/** The key, where the image's metadata is read already. */
export const keyOfImage = (
  store: KeyStore,
  volumeId: string,
  found: Pick<ImageKeys, "wrapped"> | undefined,
): Effect.Effect<Key, KmsError | KeyNotFound> => {
  if (store.kind === "passphrase") return store.passphrase;
  if (store.kind === "keeping") return store.read(volumeId);
  return found?.wrapped === undefined
    ? Effect.fail(new KeyNotFound({ volumeId, place: DEK_PLACE }))
    : store.unwrap(volumeId, found.wrapped);
};
