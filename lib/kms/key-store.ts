/**
 * The interface of every key store. A store is opened for one request (./kms.ts) and closed with it: it keeps nothing
 * between two.
 *
 * Not here: which store a KMS ID names (./kms.ts), and what a volume's key goes through in its life (./volume-key.ts).
 *
 * 1. A store never overwrites a key: `write` fails where one is, `replace` where another is.
 * 2. Keys are Redacted: no log, span or error shows one.
 * 3. Every question to a server has a limit, and fails with KmsUnreachable past it.
 */
import type * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import type { KeyExists, KeyNotFound, KmsError } from "./errors.ts";

/** A passphrase as LUKS takes it: the text itself, without a newline. */
export type Key = Redacted.Redacted;

/** A store that wraps keys. The wrapped text is kept in the image's metadata (`rbd.csi.ceph.com/dek`). */
export interface WrappingStore {
  readonly kind: "wrapping";
  /** As messages name it, with its address: `AWS KMS in eu-central-1`. */
  readonly name: string;
  /** Makes the text of a key that the store can wrap, and asks nobody. */
  readonly newKey: Effect.Effect<Key>;
  readonly wrap: (volumeId: string, key: Key) => Effect.Effect<string, KmsError>;
  /** `KmsDenied` if the credential is not the one that wrapped it, `KeyDamaged` if the text is of another format. */
  readonly unwrap: (volumeId: string, wrapped: string) => Effect.Effect<Key, KmsError>;
  /** What it wraps with, if that is a passphrase: it encrypts files itself. Absent: it has none. */
  readonly passphrase?: Effect.Effect<Key, KmsError>;
}

/** A store that keeps keys itself, under the volume's ID. */
export interface KeepingStore {
  readonly kind: "keeping";
  /** As messages name it, with its address: `Vault https://vault:8200`. */
  readonly name: string;
  /** Where it keeps the key of a volume, for messages. */
  readonly place: (volumeId: string) => string;
  readonly newKey: Effect.Effect<Key>;
  readonly read: (volumeId: string) => Effect.Effect<Key, KmsError | KeyNotFound>;
  /** Keeps the first key of a volume. */
  readonly write: (volumeId: string, key: Key) => Effect.Effect<void, KmsError | KeyExists>;
  /** Keeps a new key in place of `old`, which is there now: key rotation. `KeyExists` if another is there. */
  readonly replace: (volumeId: string, old: Key, key: Key) => Effect.Effect<void, KmsError | KeyNotFound | KeyExists>;
  /** Succeeds if no key is there. Only for callers that have proven the image gone. */
  readonly remove: (volumeId: string) => Effect.Effect<void, KmsError>;
}

/** The passphrase in the request's secrets is the key of all volumes; nothing is kept (`default`). */
export interface PassphraseStore {
  readonly kind: "passphrase";
  readonly name: string;
  readonly passphrase: Effect.Effect<Key, KmsError>;
}

export type KeyStore = WrappingStore | KeepingStore | PassphraseStore;

/** Text keys, by the name of their key. */
export type Texts = Readonly<Record<string, string>>;

/** A Kubernetes Secret as it was read. */
export interface KubeSecret {
  /** `Secret namespace/name`, for messages. */
  readonly place: string;
  readonly keys: readonly string[];
  /** The bytes of a key; `undefined`: the Secret does not have it. */
  readonly bytes: (key: string) => Uint8Array | undefined;
  /** The bytes of a key as UTF-8, not trimmed. */
  readonly text: (key: string) => Redacted.Redacted | undefined;
}

/** The objects of Kubernetes that key stores read. Absence is `undefined`, any other failure an error. */
export interface KubeObjects {
  readonly secret: (namespace: string, name: string) => Effect.Effect<KubeSecret | undefined, KmsError>;
  readonly configMap: (namespace: string, name: string) => Effect.Effect<Texts | undefined, KmsError>;
  /** A token of the ServiceAccount, by TokenRequest, else of one of its Secrets; `undefined`: no such ServiceAccount. */
  readonly serviceAccountToken: (
    namespace: string,
    name: string,
  ) => Effect.Effect<Redacted.Redacted | undefined, KmsError>;
}

/** What a store is opened with. */
export interface StoreContext {
  /** The options of the KMS ID. */
  readonly section: Section;
  /** Kubernetes namespace of the claim, the "tenant"; `undefined`: the journal knows none. */
  readonly owner: string | undefined;
  /** The secrets of the request. */
  readonly secrets: Texts;
  /** Namespace of the driver's pod; fails if nothing tells it. */
  readonly podNamespace: Effect.Effect<string, KmsError>;
  readonly kube: KubeObjects;
  /** The environment of the driver. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Reads a small file of the pod, such as a mounted token; `undefined`: it does not exist. */
  readonly readFile: (path: string) => Effect.Effect<string | undefined, KmsError>;
}

/** Opens a store for one request: reads its options, and asks no key store yet. */
export type OpenStore = (context: StoreContext) => Effect.Effect<KeyStore, KmsError>;

/** One section of the configuration (./section.ts). Each reader fails with the place, the section and the key. */
export interface Section {
  readonly kmsId: string;
  /** The file, or the ConfigMap. */
  readonly place: string;
  readonly has: (key: string) => boolean;
  /** A text that must be there and must not be empty. */
  readonly required: (key: string) => Effect.Effect<string, KmsError>;
  /** A text; `undefined` if the key is absent. */
  readonly optional: (key: string) => Effect.Effect<string | undefined, KmsError>;
  /** A text, or the text of a JSON boolean; `undefined` if the key is absent. */
  readonly word: (key: string) => Effect.Effect<string | undefined, KmsError>;
  /** A JSON number; `undefined` if the key is absent. */
  readonly number: (key: string) => Effect.Effect<number | undefined, KmsError>;
  /** A Go boolean, as text or as JSON; `undefined` if the key is absent. */
  readonly bool: (key: string) => Effect.Effect<boolean | undefined, KmsError>;
  /** The error that names this section, and the key. */
  readonly wrong: (key: string, reason: string) => KmsError;
}
