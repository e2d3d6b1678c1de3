/**
 * The key of an image that is being made: chosen and wrapped before the image exists, kept once it does, removed after
 * it is gone.
 *
 * A store of its own gets the key after the image, and loses it after the image. A crash in between leaves an image
 * without a key, which nobody has been given yet, so that the next call makes one; or a key without an image, which the
 * removal of the volume removes. An image that somebody may have written to has its key at every moment.
 *
 * Not here: which recipe calls when (lib/volume, lib/snapshot, lib/group), and the keys of volumes whose files are
 * encrypted, which are made later (./file-key.ts).
 *
 * 1. A key is kept once. The first of two drivers that keep one wins, by one compare: in the image's metadata, or in the
 *    store. The other goes on with what is there.
 * 2. No key is made for an image that is formatted. It must be found again (`KeyNotFound`).
 * 3. Only images that the journal does not call complete come here.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { InvalidParameter } from "../config/errors.ts";
import type { EncryptionType } from "../config/encryption.ts";
import { type KeyExists, KeyNotFound, type KmsError } from "./errors.ts";
import {
  fileKeyToKeep,
  type FileKeyToKeep,
  keepCopiedKey,
  keepFileKey,
  sourceFileKey,
  type SourceFileKey,
} from "./file-key.ts";
import {
  claimImageKeys,
  DEK_PLACE,
  type EncryptionState,
  type ImageRef,
  readImageKeys,
  stateText,
} from "./image-keys.ts";
import type { KeepingStore, Key, KeyStore, WrappingStore } from "./key-store.ts";
import { Kms, type StoreRequest } from "./kms.ts";
import { isSameKey } from "./new-key.ts";
import { keyOfImage } from "./volume-key.ts";
import type { Rbd } from "../ceph/rbd.ts";

/** Whose key is to be kept, and where. */
export interface KeyRequest extends StoreRequest {
  /** The handle that the volume or snapshot has. Keys are bound to it. */
  readonly volumeId: string;
  readonly type: EncryptionType;
}

/** The key of the volume or snapshot that is copied. */
export type SourceKey = DeviceSourceKey | SourceFileKey;

interface DeviceSourceKey {
  readonly type: "block";
  readonly volumeId: string;
  readonly store: KeyStore;
  readonly key: Key;
  /** As its image has it, and so a clone of it; absent: it is not in the image's metadata. */
  readonly wrapped: string | undefined;
  /** That of the image before the point in time that is copied. */
  readonly state: EncryptionState;
}

/** A key that is to be kept, as far as no image is needed for it. */
export type KeyToKeep = DeviceKeyToKeep | FileKeyToKeep;

interface DeviceKeyToKeep {
  readonly type: "block";
  readonly volumeId: string;
  readonly store: KeyStore;
  readonly key: Key;
  /** For a store that wraps. */
  readonly wrapped: string;
  /** Absent: the volume is blank. */
  readonly source: DeviceSourceKey | undefined;
}

export type KeepKeyError = CephError | KmsError | KeyExists | KeyNotFound;

/** A new key for a blank volume; one whose files are encrypted gets none yet. */
export const newVolumeKey = Effect.fn("kms.newVolumeKey")(function* (
  request: KeyRequest,
): Effect.fn.Return<KeyToKeep, KmsError | InvalidParameter, Kms> {
  if (request.type === "file") return yield* fileKeyToKeep(request, undefined);
  const store = yield* (yield* Kms).open(request);
  const key = yield* store.kind === "passphrase" ? store.passphrase : store.newKey;
  return yield* wrapped(request.volumeId, store, key, undefined);
});

/** The key of a volume or snapshot that is to be copied. */
export const sourceKey = Effect.fn("kms.sourceKey")(function* (
  request: KeyRequest,
  image: ImageRef,
): Effect.fn.Return<SourceKey, CephError | KmsError | KeyNotFound, Kms | Rbd> {
  if (request.type === "file") return yield* sourceFileKey(request);
  const store = yield* (yield* Kms).open(request);
  const { volumeId } = request;
  const found = yield* readImageKeys(image);
  // A clone does not inherit the older name.
  const wrapped = found.isOldName ? undefined : found.wrapped;
  return {
    type: "block",
    volumeId,
    store,
    wrapped,
    state: found.state,
    key: yield* keyOfImage(store, volumeId, found),
  };
});

/** The key of the source for a copy of it. */
export const copiedVolumeKey = Effect.fn("kms.copiedVolumeKey")(function* (
  source: SourceKey,
  request: KeyRequest,
): Effect.fn.Return<KeyToKeep, KmsError | InvalidParameter, Kms> {
  if (source.type === "file") return yield* fileKeyToKeep(request, source);
  const store = yield* (yield* Kms).open(request);
  if (store.kind === "passphrase" && !isSameKey(yield* store.passphrase, source.key)) {
    const reason = `names ${store.name}, whose passphrase is not the key of ${source.volumeId}, and a copy has the key of its source. Name a KMS that keeps keys`;
    return yield* new InvalidParameter({ field: "encryptionKMSID", reason });
  }
  return yield* wrapped(request.volumeId, store, source.key, source);
});

const wrapped = (volumeId: string, store: KeyStore, key: Key, source: DeviceSourceKey | undefined) =>
  Effect.map(
    store.kind === "wrapping" ? store.wrap(volumeId, key) : Effect.succeed(""),
    (text): KeyToKeep => ({ type: "block", volumeId, store, key, wrapped: text, source }),
  );

/** Keeps the key of an image that is there. What an earlier call kept stays. */
export const keepKey = Effect.fn("kms.keepKey")(function* (
  toKeep: KeyToKeep,
  image: ImageRef,
): Effect.fn.Return<void, KeepKeyError, Rbd> {
  if (toKeep.type === "file") return yield* keepFileKey(toKeep, image);
  const { store, source } = toKeep;
  if (store.kind === "keeping") yield* keepInStore(store, toKeep);
  const wrappedText = store.kind === "wrapping" ? toKeep.wrapped : undefined;
  const now = { wrapped: source?.wrapped ?? "", state: stateText(source?.state ?? "none") };
  // The image is as a new one, or a new clone, is: one write does.
  const claim = claimImageKeys(image, {
    ...(wrappedText !== undefined && { wrapped: { now: now.wrapped, next: wrappedText } }),
    state: { now: now.state, next: now.state || stateText("prepared") },
  });
  yield* Effect.catchTag(claim, "Raced", () => keepAgain(toKeep, image));
});

const keepInStore = (
  store: KeepingStore,
  { volumeId, key, source }: DeviceKeyToKeep,
): Effect.Effect<void, KmsError | KeyExists | KeyNotFound> =>
  source === undefined
    ? Effect.catchTag(store.write(volumeId, key), "KeyExists", () => Effect.void)
    : keepCopiedKey(store, volumeId, key);

/** An earlier call, or another driver, has kept the key, or a part of what is kept. */
const keepAgain = Effect.fnUntraced(function* (
  toKeep: DeviceKeyToKeep,
  image: ImageRef,
): Effect.fn.Return<void, KeepKeyError, Rbd> {
  const { volumeId, store, source } = toKeep;
  const found = yield* readImageKeys(image);
  const next = store.kind === "wrapping" ? yield* textToKeep(store, toKeep, found.wrapped) : undefined;
  if (next !== undefined && found.wrapped === undefined && source === undefined && found.state === "encrypted") {
    return yield* new KeyNotFound({ volumeId, place: DEK_PLACE });
  }
  // Formatted since, before or after the point in time: a node tells which, of an image that is "prepared".
  const isOpen = found.state === "none" || (source !== undefined && found.state !== source.state);
  const state = stateText(found.state);
  yield* claimImageKeys(image, {
    ...(next !== undefined && { wrapped: { now: found.wrapped ?? "", next } }),
    state: { now: state, next: isOpen ? stateText("prepared") : state },
  });
});

/** The wrapped key that belongs on the image; `undefined`: it is there. */
const textToKeep = Effect.fnUntraced(function* (
  store: WrappingStore,
  { volumeId, wrapped: own, source }: DeviceKeyToKeep,
  found: string | undefined,
): Effect.fn.Return<string | undefined, KmsError> {
  if (found === undefined || found === source?.wrapped) return own;
  const unwrapped = store.unwrap(volumeId, found);
  if (source?.store.kind !== "wrapping") return yield* Effect.as(unwrapped, undefined);
  // A clone inherits its source's text: where that has changed since, the clone was made with the older one.
  const inherited = source.store.unwrap(source.volumeId, found);
  return yield* Effect.matchEffect(unwrapped, {
    onSuccess: () => Effect.succeed(undefined),
    onFailure: () => Effect.flatMap(inherited, (key) => store.wrap(volumeId, key)),
  });
});

/**
 * Removes the key from a store that keeps it. Only for callers that have proven the image gone. `mayGo` is asked if there
 * is a key to remove.
 */
export const dropKey = Effect.fn("kms.dropKey")(function* (
  request: Omit<KeyRequest, "type">,
  mayGo: Effect.Effect<boolean, CephError, Rbd> = Effect.succeed(true),
): Effect.fn.Return<void, CephError | KmsError, Kms | Rbd> {
  const store = yield* (yield* Kms).open(request);
  if (store.kind === "keeping" && (yield* mayGo)) yield* store.remove(request.volumeId);
});
