/**
 * `metadata`: wraps keys with a passphrase, from the Secret that the section names, or from the request's secrets.
 *
 * The wrapped text is ceph-csi's: `{"dek":"<base64>","nonce":"<base64>"}`, AES-256-GCM with a random nonce of 12 bytes,
 * the tag after the ciphertext, under scrypt(passphrase, salt = volume ID, N = 32768, r = 8, p = 1).
 */
import { scrypt } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Semaphore from "effect/Semaphore";
import { KeyDamaged, KmsConfigInvalid, KmsDenied, type KmsError } from "../errors.ts";
import { DEK_PLACE } from "../image-keys.ts";
import type { Key, OpenStore, StoreContext, WrappingStore } from "../key-store.ts";
import { keyFrom, keyOf, newKey } from "../new-key.ts";
import { PASSPHRASE_KEY, requestPassphrase } from "../passphrase.ts";
import { GCM_NONCE_BYTES, parseSealed, printSealed, type Sealed, seal, unseal } from "../sealed.ts";
import { wrappingOnUse } from "../wrapping-store.ts";

const KEY_BYTES = 32;
const CIPHER = "aes-256-gcm";
const SCRYPT = { N: 32_768, r: 8, p: 1, maxmem: 64 << 20 };

export const openMetadataStore: OpenStore = (context) =>
  wrappingOnUse(
    context,
    newKey("url"),
    Effect.map(passphraseOf(context), ({ passphrase, place }) => metadataStore(passphrase, place)),
    Effect.flatMap(passphraseOf(context), ({ passphrase, place }) => asText(passphrase, place)),
  );

/** A Secret may have bytes that are no text; ceph-csi wraps with them as they are. */
type Words = Redacted.Redacted<string | Uint8Array>;

interface Passphrase {
  readonly passphrase: Words;
  /** Where it came from. */
  readonly place: string;
}

const passphraseOf = Effect.fnUntraced(function* ({
  section,
  owner,
  secrets,
  kube,
}: StoreContext): Effect.fn.Return<Passphrase, KmsError> {
  const name = yield* section.optional("secretName");
  if (name === undefined) {
    return { passphrase: yield* requestPassphrase(secrets, true), place: "the secrets of the request" };
  }
  const namespace = (yield* section.optional("secretNamespace")) ?? owner;
  if (namespace === undefined) {
    const reason = "is missing, and the namespace of the claim is not known: add it";
    return yield* section.wrong("secretNamespace", reason);
  }
  const secret = yield* kube.secret(namespace, name);
  if (secret === undefined) {
    const reason = `names Secret ${namespace}/${name}, which does not exist: create it with the key ${PASSPHRASE_KEY}`;
    return yield* section.wrong("secretName", reason);
  }
  const bytes = secret.bytes(PASSPHRASE_KEY);
  if (bytes !== undefined) {
    return { passphrase: keyFrom(bytes) ?? Redacted.make(bytes, { label: secret.place }), place: secret.place };
  }
  return yield* new KmsConfigInvalid({ place: secret.place, key: PASSPHRASE_KEY, reason: "is missing: add it" });
});

/** What encrypts files is handed to a tool as text. */
const asText = (passphrase: Words, place: string): Effect.Effect<Key, KmsError> => {
  const words = Redacted.value(passphrase);
  if (typeof words === "string") return Effect.succeed(keyOf(words));
  const reason =
    "is not UTF-8, and encrypts no files (encryptionType file). Name a Secret with a text, or write encryptionType: block";
  return Effect.fail(new KmsConfigInvalid({ place, key: PASSPHRASE_KEY, reason }));
};

export const metadataStore = (passphrase: Words, place: string): WrappingStore => {
  const name = `the passphrase in ${place}`;
  return {
    kind: "wrapping",
    name,
    newKey: newKey("url"),
    passphrase: asText(passphrase, place),
    wrap: (volumeId, key) =>
      Effect.map(deriveKey(passphrase, volumeId), (wrapping) => printSealed(seal(CIPHER, wrapping, key))),
    unwrap: (volumeId, wrapped) =>
      Effect.gen(function* () {
        const parts = yield* parse(volumeId, wrapped);
        const key = unseal(CIPHER, yield* deriveKey(passphrase, volumeId), parts);
        if (key !== undefined) return key;
        const reason = `it does not open the key of ${volumeId}, which was wrapped with another`;
        const remedy = `Write the passphrase with which the volume was made as ${PASSPHRASE_KEY} into ${place}`;
        return yield* new KmsDenied({ store: name, reason, remedy });
      }),
  };
};

const parse = (volumeId: string, wrapped: string): Effect.Effect<Sealed, KeyDamaged> => {
  const sealed = parseSealed(wrapped);
  if (sealed?.nonce.length === GCM_NONCE_BYTES) return Effect.succeed(sealed);
  const reason = 'it is not the JSON {"dek":…,"nonce":…} of the store "metadata"';
  return Effect.fail(new KeyDamaged({ volumeId, place: DEK_PLACE, reason }));
};

/** Each takes 32 MiB while it runs. */
const derivations = Semaphore.makeUnsafe(2);

const deriveKey = (passphrase: Words, volumeId: string): Effect.Effect<Buffer> =>
  derivations.withPermit(
    Effect.callback((resume) => {
      scrypt(Redacted.value(passphrase), volumeId, KEY_BYTES, SCRYPT, (error, key) =>
        // Bun gives undefined where Node gives null.
        resume(error ? Effect.die(error) : Effect.succeed(key)),
      );
    }),
  );
