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
 * 4. A copy has the LUKS header of one moment, and its key opens that one: the key that its source had both before that
 *    moment and after it (`holdKey`). A store of its own has it from then on, so a later call asks the store and not the source,
 *    whose key may be another one by then.
 */
import { createHash } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { CephError } from "../ceph/errors.ts";
import { InvalidParameter } from "../config/errors.ts";
import type { EncryptionType } from "../config/encryption.ts";
import { KeyChanged, type KeyExists, KeyNotFound, type KmsError } from "./errors.ts";
import { fileKeyToKeep, type FileKeyToKeep, keepFileKey, sourceFileKey, type SourceFileKey } from "./file-key.ts";
import {
  claimImageKeys,
  DEK_PLACE,
  type EncryptionState,
  type ImageKeys,
  type ImageRef,
  readImageKeys,
  stateText,
} from "./image-keys.ts";
import type { KeepingStore, Key, KeyStore, WrappingStore } from "./key-store.ts";
import { Kms, type StoreRequest } from "./kms.ts";
import { isSameKey } from "./new-key.ts";
import { keyOfImage } from "./volume-key.ts";
import type { Rados } from "../ceph/rados.ts";
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
  readonly image: ImageRef;
  /** As its image has it, and so a clone of it; absent: it is not in the image's metadata. */
  readonly wrapped: string | undefined;
  /** That of the image before the point in time that is copied. */
  readonly state: EncryptionState;
  /** A snapshot keeps its key. */
  readonly isSnapshot: boolean;
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
  /** It opens the copy for certain, whatever text the copy has inherited. */
  readonly settled?: true;
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
  isSnapshot = false,
): Effect.fn.Return<SourceKey, CephError | KmsError | KeyNotFound, Kms | Rbd> {
  if (request.type === "file") return yield* sourceFileKey(request);
  const store = yield* (yield* Kms).open(request);
  const { volumeId } = request;
  const found = yield* readImageKeys(image);
  return {
    type: "block",
    volumeId,
    store,
    image,
    isSnapshot,
    wrapped: inheritable(found),
    state: found.state,
    key: yield* keyOfImage(store, volumeId, found),
  };
});

/** A clone does not inherit the older name. */
const inheritable = ({ isOldName, wrapped: text }: ImageKeys): string | undefined => (isOldName ? undefined : text);

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

/**
 * Keeps the key of a copy in a store of its own. Comes when the point in time of the copy is fixed, and before anybody takes
 * the copy for whole. `KeyChanged` if the source has another key by now. What the store has is of a copy that was taken back, and is replaced,
 * unless `proveOwn` fails because another call makes the copy.
 */
export const holdKey = Effect.fn("kms.holdKey")(function* (
  toKeep: KeyToKeep | undefined,
  proveOwn: Effect.Effect<void, CephError, Rados>,
): Effect.fn.Return<void, HoldKeyError, Rados | Rbd> {
  if (toKeep?.type !== "block" || toKeep.source === undefined) return;
  const { key, source, store, volumeId } = toKeep;
  yield* proveUnchanged(source);
  if (store.kind !== "keeping") return;
  const kept = yield* Effect.match(store.write(volumeId, key), {
    onFailure: (error) => error,
    onSuccess: () => undefined,
  });
  if (kept === undefined) return;
  if (kept._tag !== "KeyExists") return yield* Effect.fail(kept);
  const there = yield* store.read(volumeId);
  if (isSameKey(there, key)) return;
  yield* proveOwn;
  yield* store.replace(volumeId, there, key);
});

export type HoldKeyError = KeepKeyError | KeyChanged;

/** Fails if the source has got another key since this one was read. A snapshot keeps its own. */
export const proveUnchanged = Effect.fn("kms.proveUnchanged")(function* (
  source: SourceKey,
): Effect.fn.Return<void, HoldKeyError, Rbd> {
  if (source.type === "file" || source.isSnapshot || source.store.kind === "passphrase") return;
  const { image, key, store, volumeId, wrapped: text } = source;
  const isSame =
    store.kind === "wrapping"
      ? inheritable(yield* readImageKeys(image)) === text
      : isSameKey(yield* store.read(volumeId), key);
  if (!isSame) return yield* new KeyChanged({ volumeId });
});

/**
 * Tells a key from those that its volume gets later, for a copy that is made by several calls: no key follows from it. `undefined`: the
 * volume keeps its key.
 */
export const markOfKey = (source: SourceKey, copyId: string): string | undefined => {
  if (source.type === "file" || source.isSnapshot || source.store.kind === "passphrase") return undefined;
  return createHash("sha256")
    .update(`${copyId} ${Redacted.value(source.key)}`)
    .digest("hex");
};

/** Whether a copy that is whole has its key. One whose store lacks it was cut off before anybody was told of it. */
export const isHeld = (toKeep: KeyToKeep | undefined): Effect.Effect<boolean, KmsError> => {
  if (toKeep?.type !== "block" || toKeep.source === undefined || toKeep.store.kind !== "keeping") {
    return Effect.succeed(true);
  }
  return toKeep.store.read(toKeep.volumeId).pipe(
    Effect.as(true),
    Effect.catchTag("KeyNotFound", () => Effect.succeed(false)),
  );
};

/** The key, proven to be that of the copy's moment. */
export const settled = (toKeep: KeyToKeep): KeyToKeep =>
  toKeep.type === "block" ? { ...toKeep, settled: true } : toKeep;

/** `undefined`: the store keeps keys otherwise. */
const wrappedText = ({ store, wrapped: text }: DeviceKeyToKeep): string | undefined =>
  store.kind === "wrapping" ? text : undefined;

/** Keeps the key of an image that is there. What an earlier call kept stays. */
export const keepKey = Effect.fn("kms.keepKey")(function* (
  toKeep: KeyToKeep,
  image: ImageRef,
): Effect.fn.Return<void, KeepKeyError, Rbd> {
  if (toKeep.type === "file") return yield* keepFileKey(toKeep, image);
  const { store, source } = toKeep;
  if (store.kind === "keeping") yield* keepInStore(store, toKeep);
  const own = wrappedText(toKeep);
  const now = { wrapped: source?.wrapped ?? "", state: stateText(source?.state ?? "none") };
  // The image is as a new one, or a new clone, is: one write does.
  const claim = claimImageKeys(image, {
    ...(own !== undefined && { wrapped: { now: now.wrapped, next: own } }),
    state: { now: now.state, next: now.state || stateText("prepared") },
  });
  yield* Effect.catchTag(claim, "Raced", () => keepAgain(toKeep, image));
});

const keepInStore = (store: KeepingStore, { volumeId, key }: DeviceKeyToKeep): Effect.Effect<void, KmsError> =>
  Effect.catchTag(store.write(volumeId, key), "KeyExists", () => Effect.void);

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
  { volumeId, wrapped: own, source, settled: isSettled }: DeviceKeyToKeep,
  found: string | undefined,
): Effect.fn.Return<string | undefined, KmsError> {
  if (isSettled) return found === own ? undefined : own;
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
