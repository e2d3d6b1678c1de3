/**
 * `Kms` over a configuration, a pod and a Kubernetes that a test writes down, and what one asks of a store.
 *
 * Not here: key stores in memory (./key-stores.ts), and the API of Kubernetes itself (./kube-memory.ts).
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KmsConfigPlaces } from "../../lib/kms/config.ts";
import { KmsConfigInvalid } from "../../lib/kms/errors.ts";
import type { KeepingStore, KeyStore, KubeObjects, Texts, WrappingStore } from "../../lib/kms/key-store.ts";
import { Kms, type StoreRequest } from "../../lib/kms/kms.ts";

export interface KmsPlaces {
  /** The text of the file, or what it is the JSON of; absent: there is no file. */
  readonly config?: string | object;
  /** By `namespace/name`. */
  readonly configMaps?: Readonly<Record<string, Texts>>;
  readonly secrets?: Readonly<Record<string, Texts>>;
  /** Tokens of ServiceAccounts. */
  readonly accounts?: Readonly<Record<string, string>>;
  readonly files?: Texts;
  readonly env?: Texts;
  /** "": nothing tells it. */
  readonly podNamespace?: string;
}

export const FILE = "/etc/kms/config.json";

const kubeOf = ({ configMaps = {}, secrets = {}, accounts = {} }: KmsPlaces): KubeObjects => ({
  secret: (namespace, name) =>
    Effect.sync(() => {
      const data = secrets[`${namespace}/${name}`];
      if (data === undefined) return undefined;
      const bytes = (key: string) => (data[key] === undefined ? undefined : new TextEncoder().encode(data[key]));
      const text = (key: string) => (data[key] === undefined ? undefined : Redacted.make(data[key]));
      return { place: `Secret ${namespace}/${name}`, keys: Object.keys(data), bytes, text };
    }),
  configMap: (namespace, name) => Effect.sync(() => configMaps[`${namespace}/${name}`]),
  serviceAccountToken: (namespace, name) =>
    Effect.sync(() => {
      const token = accounts[`${namespace}/${name}`];
      return token === undefined ? undefined : Redacted.make(token);
    }),
});

const placesOf = (places: KmsPlaces): KmsConfigPlaces => {
  const { config, files = {}, env = {}, podNamespace = "rook-ceph" } = places;
  const text = typeof config === "object" ? JSON.stringify(config) : config;
  return {
    file: FILE,
    readFile: (path) => Effect.sync(() => (path === FILE ? text : files[path])),
    kube: kubeOf(places),
    podNamespace:
      podNamespace === ""
        ? Effect.fail(new KmsConfigInvalid({ place: "POD_NAMESPACE", reason: "is not set" }))
        : Effect.succeed(podNamespace),
    env,
  };
};

const WHO: StoreRequest = { kmsId: "kms", owner: "tenant", secrets: {} };

export const opening = (places: KmsPlaces, request: Partial<StoreRequest> = {}) =>
  Effect.flatMap(Kms, ({ open }) => open({ ...WHO, ...request })).pipe(Effect.provide(Kms.layer(placesOf(places))));

export const opened = (places: KmsPlaces, request: Partial<StoreRequest> = {}): Promise<KeyStore> =>
  Effect.runPromise(opening(places, request));

export const openedKeeping = async (places: KmsPlaces, request: Partial<StoreRequest> = {}): Promise<KeepingStore> => {
  const store = await opened(places, request);
  if (store.kind !== "keeping") throw new Error(`the store is ${store.kind}`);
  return store;
};

export const openedWrapping = async (
  places: KmsPlaces,
  request: Partial<StoreRequest> = {},
): Promise<WrappingStore> => {
  const store = await opened(places, request);
  if (store.kind !== "wrapping") throw new Error(`the store is ${store.kind}`);
  return store;
};

/** The failure of the effect, as `tag: message`. */
export const failing = async <A, E extends { readonly _tag: string; readonly message: string }>(
  effect: Effect.Effect<A, E>,
): Promise<string> => {
  const { _tag, message } = await Effect.runPromise(Effect.flip(effect));
  return `${_tag}: ${message}`;
};
