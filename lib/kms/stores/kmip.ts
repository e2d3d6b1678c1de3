/**
 * `kmip`: wraps keys with a key of a KMIP 1.4 server (also IBM GKLM), over TLS with a client certificate.
 *
 * Own code (../kmip), because npm has no maintained KMIP client: what is needed are four messages of a documented format.
 *
 * The wrapped text is ceph-csi's: `{"dek":"<base64>","nonce":"<base64>"}`. The server encrypts (AES-CBC, PKCS5, 16 bytes of
 * nonce), or, with USE_CRYPTO_RPC "false", gives its key, and the driver encrypts (AES-GCM, 12 bytes of nonce).
 *
 * 1. Each request has a connection of its own, and nothing of it is kept.
 * 2. The length of the nonce tells who wrapped a key, so a change of USE_CRYPTO_RPC leaves all earlier volumes readable.
 */
import { randomBytes } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { KeyDamaged, KmsDenied, type KmsError, KmsUnreachable } from "../errors.ts";
import { DEK_PLACE } from "../image-keys.ts";
import type { Key, OpenStore, WrappingStore } from "../key-store.ts";
import { ask, refused } from "../kmip/ask.ts";
import { dataIn, decrypt, encrypt, getKey, keyMaterialIn } from "../kmip/messages.ts";
import { type KmipSettings, kmipSettings } from "../kmip/settings.ts";
import type { Item } from "../kmip/ttlv.ts";
import { keyFrom, newKey } from "../new-key.ts";
import { GCM_NONCE_BYTES, gcmFor, parseSealed, printSealed, type Sealed, seal, unseal } from "../sealed.ts";
import { wrappingOnUse } from "../wrapping-store.ts";

const CBC_NONCE_BYTES = 16;

export const openKmipStore: OpenStore = (context) =>
  wrappingOnUse(context, newKey("url"), Effect.map(kmipSettings(context), kmipStore));

const kmipStore = (settings: KmipSettings): Pick<WrappingStore, "wrap" | "unwrap"> => ({
  wrap: (_volumeId, key) =>
    Effect.map(settings.serverEncrypts ? wrapByServer(settings, key) : wrapHere(settings, key), printSealed),
  unwrap: (volumeId, wrapped) => {
    const sealed = parseSealed(wrapped);
    if (sealed?.nonce.length === CBC_NONCE_BYTES) return unwrapByServer(settings, volumeId, sealed);
    if (sealed?.nonce.length === GCM_NONCE_BYTES) return unwrapHere(settings, volumeId, sealed);
    return Effect.fail(damaged(volumeId, 'it is not the JSON {"dek":…,"nonce":…} of the store "kmip"'));
  },
});

const damaged = (volumeId: string, reason: string) => new KeyDamaged({ volumeId, place: DEK_PLACE, reason });

const wrapByServer = Effect.fnUntraced(function* (
  settings: KmipSettings,
  key: Key,
): Effect.fn.Return<Sealed, KmsError> {
  const nonce = randomBytes(CBC_NONCE_BYTES);
  const payload = yield* ask(settings, encrypt(settings.keyId, Buffer.from(Redacted.value(key)), nonce));
  return { text: yield* dataOf(settings, "Encrypt", payload), nonce };
});

const unwrapByServer = Effect.fnUntraced(function* (
  settings: KmipSettings,
  volumeId: string,
  { text, nonce }: Sealed,
): Effect.fn.Return<Key, KmsError> {
  const payload = yield* ask(settings, decrypt(settings.keyId, text, nonce));
  const key = keyFrom(yield* dataOf(settings, "Decrypt", payload));
  return key ?? (yield* otherKey(settings, volumeId));
});

const wrapHere = Effect.fnUntraced(function* (settings: KmipSettings, key: Key): Effect.fn.Return<Sealed, KmsError> {
  const { cipher, material } = yield* serverKey(settings);
  return seal(cipher, material, key);
});

const unwrapHere = Effect.fnUntraced(function* (
  settings: KmipSettings,
  volumeId: string,
  sealed: Sealed,
): Effect.fn.Return<Key, KmsError> {
  const { cipher, material } = yield* serverKey(settings);
  return unseal(cipher, material, sealed) ?? (yield* otherKey(settings, volumeId));
});

/** The key of the server itself. */
const serverKey = Effect.fnUntraced(function* (settings: KmipSettings) {
  const material = keyMaterialIn(yield* ask(settings, getKey(settings.keyId)));
  const cipher = gcmFor(material?.length ?? 0);
  if (material !== undefined && cipher !== undefined) return { cipher, material };
  const reason = `its object ${settings.keyId} is not an AES key in plain bytes`;
  return yield* refused(settings, reason, `Write the ID of one as UNIQUE_IDENTIFIER into ${settings.secret.place}`);
});

const dataOf = ({ name }: KmipSettings, operation: string, payload: Item | undefined) => {
  const data = dataIn(payload);
  if (data !== undefined) return Effect.succeed(data);
  return Effect.fail(new KmsUnreachable({ store: name, reason: `its answer to ${operation} has no data` }));
};

const otherKey = ({ name, secret }: KmipSettings, volumeId: string) =>
  new KmsDenied({
    store: name,
    reason: `its key does not open the key of ${volumeId}, which was wrapped with another`,
    remedy: `Write the ID of the key with which the volume was made as UNIQUE_IDENTIFIER into ${secret.place}`,
  });
