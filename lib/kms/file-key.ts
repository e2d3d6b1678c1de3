/**
 * The key of a volume whose files are encrypted (fscrypt): which stores have one, when it is made, and what a copy gets.
 *
 * It is made by the node that stages the volume first, and not with the volume. So a source that was never staged has
 * none, and neither has a copy of it: each gets its own when it is staged.
 *
 * Not here: how the folder is encrypted with it (lib/node/crypt-folder.ts), and keys of whole devices (./volume-key.ts).
 *
 * 1. It is kept before anything is encrypted with it, and is never replaced.
 * 2. A copy whose source had no key before its point in time is looked after once more behind it: a source that was staged
 *    meanwhile has its key in the store before it has encrypted files. If there is none then either, the copy must hold
 *    nothing: a store that finds no key may be asked in the wrong place.
 * 3. Only a store that keeps keys, or one with one passphrase for all, serves: no image has a key in its metadata.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { Rbd } from "../ceph/rbd.ts";
import { InvalidParameter } from "../config/errors.ts";
import { type KeyExists, KeyNotFound, type KmsError, KmsRefused } from "./errors.ts";
import type { ImageRef } from "./image-keys.ts";
import type { KeepingStore, Key } from "./key-store.ts";
import { Kms, type StoreRequest } from "./kms.ts";
import { isSameKey, newKey } from "./new-key.ts";

/** A store, as far as it serves the keys of files. */
export interface FileKeyStore {
  readonly kmsId: string;
  readonly name: string;
  /** What fscrypt takes the key for: `CryptFolderKey` of the host. */
  readonly source: "raw_key" | "custom_passphrase";
  /** `undefined`: it has one passphrase for all its volumes. */
  readonly keeps: KeepingStore | undefined;
  readonly read: (volumeId: string) => Effect.Effect<Key, KmsError | KeyNotFound>;
}

/** The store of a KMS ID. `KmsRefused` if it wraps keys, and has no passphrase to encrypt files with. */
export const openFileKeyStore = Effect.fn("kms.openFileKeyStore")(function* (
  request: StoreRequest,
): Effect.fn.Return<FileKeyStore, KmsError, Kms> {
  const store = yield* (yield* Kms).open(request);
  const { kmsId } = request;
  const { name } = store;
  if (store.kind === "keeping") return { kmsId, name, source: "raw_key", keeps: store, read: store.read };
  const { passphrase } = store;
  if (passphrase === undefined) {
    return yield* new KmsRefused({
      store: name,
      reason: "it only wraps keys for the metadata of an image, and encrypts no files (encryptionType file)",
      remedy: "Name a KMS of Vault, azure-kv, metadata or default as encryptionKMSID, or write encryptionType: block",
    });
  }
  const source = store.kind === "passphrase" ? "raw_key" : "custom_passphrase";
  return { kmsId, name, source, keeps: undefined, read: () => passphrase };
});

/** The key that the store has; `undefined`: it has none yet. */
export const fileKeyIn = ({ read }: FileKeyStore, volumeId: string): Effect.Effect<Key | undefined, KmsError> =>
  Effect.catchTag(read(volumeId), "KeyNotFound", () => Effect.succeed(undefined));

/** Of a volume whose files are encrypted, and whose store has no key of it. */
export const fileKeyLost = ({ keeps, name }: FileKeyStore, volumeId: string): KeyNotFound =>
  new KeyNotFound({ volumeId, place: keeps?.place(volumeId) ?? name });

/** ceph-csi's length: fscrypt takes the first 32 of the 88 characters. */
const KEY_BYTES = 64;

/** Makes the key of a volume that has none, unless another was faster; -> the key that the store has then. */
export const makeFileKey = Effect.fn("kms.makeFileKey")(function* (
  { keeps, read }: FileKeyStore,
  volumeId: string,
): Effect.fn.Return<Key, KmsError | KeyNotFound> {
  if (keeps !== undefined) {
    yield* Effect.catchTag(keeps.write(volumeId, yield* newKey("url", KEY_BYTES)), "KeyExists", () => Effect.void);
  }
  return yield* read(volumeId);
});

// -------------------------------------------------------------------------------------------------------------- copies

/** The key of what is copied. */
export interface SourceFileKey {
  readonly type: "file";
  readonly volumeId: string;
  readonly store: FileKeyStore;
  /** `undefined`: it has none yet, or its store has one passphrase for all. */
  readonly key: Key | undefined;
}

/** What is to be kept for a volume that is being made. */
export interface FileKeyToKeep {
  readonly type: "file";
  readonly volumeId: string;
  readonly store: FileKeyStore;
  /** Absent: the volume is blank. */
  readonly source: SourceFileKey | undefined;
}

export const sourceFileKey = Effect.fnUntraced(function* (
  request: StoreRequest & { readonly volumeId: string },
): Effect.fn.Return<SourceFileKey, KmsError, Kms> {
  const store = yield* openFileKeyStore(request);
  const { volumeId } = request;
  const key = store.keeps === undefined ? undefined : yield* fileKeyIn(store, volumeId);
  return { type: "file", volumeId, store, key };
});

/** Fails unless the store of the copy can have the key of the source. */
export const fileKeyToKeep = Effect.fnUntraced(function* (
  request: StoreRequest & { readonly volumeId: string },
  source: SourceFileKey | undefined,
): Effect.fn.Return<FileKeyToKeep, KmsError | InvalidParameter, Kms> {
  const store = yield* openFileKeyStore(request);
  const { volumeId } = request;
  const fits =
    source === undefined ||
    store.kmsId === source.store.kmsId ||
    (store.keeps !== undefined && source.store.keeps !== undefined);
  if (fits) {
    if (source !== undefined && store.source === "custom_passphrase")
      yield* proveSamePassphrase(request, store, source);
    return { type: "file", volumeId, store, source };
  }
  const reason = `names KMS ${store.kmsId}, and the key of ${source.volumeId} is that of KMS ${source.store.kmsId}. A copy has the key of its source: name the same, unless both keep a key for each volume`;
  return yield* new InvalidParameter({ field: "encryptionKMSID", reason });
});

/** A Secret in the namespace of the claim may be another one for the copy. */
const proveSamePassphrase = Effect.fnUntraced(function* (
  { volumeId, kmsId }: StoreRequest & { readonly volumeId: string },
  store: FileKeyStore,
  source: SourceFileKey,
): Effect.fn.Return<void, KmsError | InvalidParameter> {
  const own = yield* fileKeyIn(store, volumeId);
  const its = yield* fileKeyIn(source.store, source.volumeId);
  if (own !== undefined && its !== undefined && isSameKey(own, its)) return;
  const reason = `names KMS ${kmsId}, whose passphrase for the copy is not that of ${source.volumeId}, with which its files are encrypted. Write the same passphrase into both Secrets, or name a KMS that keeps a key for each volume`;
  return yield* new InvalidParameter({ field: "encryptionKMSID", reason });
});

/** Keeps the key of the source for a copy whose image is there. */
export const keepFileKey = Effect.fnUntraced(function* (
  { volumeId, store, source }: FileKeyToKeep,
  { pool, imageName }: ImageRef,
): Effect.fn.Return<void, CephError | KmsError | KeyExists | KeyNotFound, Rbd> {
  const { keeps } = store;
  if (keeps === undefined || source === undefined) return;
  const key = source.key ?? (yield* fileKeyIn(source.store, source.volumeId));
  if (key === undefined) {
    // An earlier call has kept it, and the source may be gone since.
    if ((yield* fileKeyIn(store, volumeId)) !== undefined) return;
    if (!(yield* (yield* Rbd).imageHasData(pool, imageName, "any"))) return;
    return yield* fileKeyLost(source.store, source.volumeId);
  }
  yield* keepCopiedKey(keeps, volumeId, key);
});

/** Keeps the key of a copy, which is that of its source: the one that is kept already must be the same. */
export const keepCopiedKey = (
  store: KeepingStore,
  volumeId: string,
  key: Key,
): Effect.Effect<void, KmsError | KeyExists | KeyNotFound> =>
  Effect.catchTag(store.write(volumeId, key), "KeyExists", (error) =>
    Effect.flatMap(
      store.read(volumeId),
      (kept): Effect.Effect<void, KeyExists> => (isSameKey(kept, key) ? Effect.void : Effect.fail(error)),
    ),
  );
