/**
 * The keys of volumes in a KV secrets engine of Vault, of version 1 or 2: a `KeepingStore`.
 *
 * What is stored is ceph-csi's, byte for byte: `{"data":{"passphrase":"<key>"}}` as the secret, so that version 2 has
 * `data` twice. The namespace of Vault is a part of the path, not a header.
 *
 * 1. Version 2 decides by `cas` who keeps the first key of a volume. Version 1 has no such thing: the key is looked for
 *    before it is written, under the lock that the recipe holds.
 * 2. A version that was deleted softly is not overwritten: what is kept becomes a new version.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { KeyDamaged, KeyExists, KeyNotFound, KmsConfigInvalid, type KmsError, KmsRefused } from "../errors.ts";
import type { KeepingStore, Key } from "../key-store.ts";
import { keyOf, newKey } from "../new-key.ts";
import { ask, refusedAs, serverName, type VaultAnswer, type VaultCall, type VaultServer } from "./http.ts";

/** Where keys are, and how they are removed. */
export interface KvPlace {
  /** "" is the root. */
  readonly namespace: string;
  readonly authNamespace: string;
  /** The mount of the engine, as `secret/`. */
  readonly backendPath: string;
  /** `undefined`: Vault is asked. */
  readonly version: 1 | 2 | undefined;
  /** Path of the key of a volume, below the mount. */
  readonly keyPath: (volumeId: string) => string;
  /** All versions go for good; otherwise version 2 keeps what can be undeleted. */
  readonly destroys: boolean;
}

/** A token for the namespace of the keys. */
export type Login = Effect.Effect<Redacted.Redacted, KmsError>;

interface Engine {
  readonly server: VaultServer;
  readonly place: KvPlace;
  /** For the namespace in which the version is asked for. */
  readonly authToken: Login;
  readonly token: Login;
}

export const vaultStore = Effect.fnUntraced(function* (engine: Engine): Effect.fn.Return<KeepingStore> {
  const { server, place } = engine;
  // One login and one probe for the request that the store is opened for.
  const token = yield* Effect.cached(engine.token);
  const version = yield* Effect.cached(place.version === undefined ? probe(engine) : Effect.succeed(place.version));
  const mount = joined(place.namespace, place.backendPath);
  const where = (volumeId: string) => `${serverName(server)}, ${joined(mount, place.keyPath(volumeId))}`;

  const call = Effect.fnUntraced(function* (
    method: VaultCall["method"],
    part: "data" | "metadata",
    volumeId: string,
    body?: object,
  ): Effect.fn.Return<readonly [VaultCall, VaultAnswer], KmsError> {
    const path = joined(mount, (yield* version) === 2 ? part : "", place.keyPath(volumeId));
    const remedy = `Give the token a policy with "create", "read", "update" and "delete" on ${path}`;
    const request: VaultCall = { method, path, token: yield* token, remedy, ...(body && { body }) };
    return [request, yield* ask(server, request)];
  });

  const look = Effect.fnUntraced(function* (volumeId: string): Effect.fn.Return<Kept, KmsError> {
    const [request, answer] = yield* call("GET", "data", volumeId);
    if (answer.status === 400) return yield* refusedAs(server, request, answer, "Check vaultBackend");
    // A key that is not there has an empty list of errors.
    if (answer.status === 404 && answer.errors !== "") return yield* noEngine(server, request);
    return yield* keptIn(where(volumeId), volumeId, yield* version, answer);
  });
  const read = (volumeId: string): Effect.Effect<Key, KmsError | KeyNotFound> =>
    Effect.flatMap(look(volumeId), ({ key }) =>
      key === undefined ? Effect.fail(new KeyNotFound({ volumeId, place: where(volumeId) })) : Effect.succeed(key),
    );

  /** Writes where the version that is there is `over`; -> whether it was. */
  const put = Effect.fnUntraced(function* (
    volumeId: string,
    key: Key,
    over: number,
  ): Effect.fn.Return<boolean, KmsError> {
    const secret = { data: { passphrase: Redacted.value(key) } };
    const body = (yield* version) === 2 ? { data: secret, options: { cas: over } } : secret;
    const [request, answer] = yield* call("PUT", "data", volumeId, body);
    if (answer.status < 300) return true;
    if (answer.status === 400 && answer.errors.includes("check-and-set")) return false;
    return yield* answer.status === 404
      ? noEngine(server, request)
      : Effect.fail(refusedAs(server, request, answer, "Check vaultBackend"));
  });

  const write = Effect.fnUntraced(function* (volumeId: string, key: Key): Effect.fn.Return<void, KmsError | KeyExists> {
    const exists = new KeyExists({ volumeId, place: where(volumeId) });
    if ((yield* version) === 2 && (yield* put(volumeId, key, 0))) return;
    const there = yield* look(volumeId);
    if (there.key !== undefined || !(yield* put(volumeId, key, there.version))) return yield* exists;
  });

  const replace = Effect.fnUntraced(function* (
    volumeId: string,
    old: Key,
    key: Key,
  ): Effect.fn.Return<void, KmsError | KeyNotFound | KeyExists> {
    const there = yield* look(volumeId);
    if (there.key === undefined) return yield* new KeyNotFound({ volumeId, place: where(volumeId) });
    const isOld = Redacted.value(there.key) === Redacted.value(old);
    if (!isOld || !(yield* put(volumeId, key, there.version))) {
      return yield* new KeyExists({ volumeId, place: where(volumeId) });
    }
  });

  const remove = Effect.fnUntraced(function* (volumeId: string): Effect.fn.Return<void, KmsError> {
    const [request, answer] = yield* call("DELETE", place.destroys ? "metadata" : "data", volumeId);
    if (answer.status === 404 && answer.errors !== "") return yield* noEngine(server, request);
    if (answer.status === 400) return yield* refusedAs(server, request, answer, "Check vaultBackend");
  });

  return {
    kind: "keeping",
    name: serverName(server),
    place: where,
    newKey: newKey("url"),
    read,
    write,
    replace,
    remove,
  };
});

const noEngine = (server: VaultServer, { path }: VaultCall): KmsRefused =>
  new KmsRefused({
    store: serverName(server),
    reason: `${path}: there is no secrets engine`,
    remedy: "Correct vaultBackendPath and vaultNamespace, or enable the engine",
  });

/** Parts of a path, without double slashes. */
export const joined = (...parts: readonly string[]): string =>
  parts
    .flatMap((part) => part.split("/"))
    .filter((part) => part !== "")
    .join("/");

interface Kept {
  /** `undefined`: there is none, or its last version is deleted. */
  readonly key: Key | undefined;
  /** Of version 2: the last version; 0 where there is none. */
  readonly version: number;
}

const secretShape = z.object({ data: z.object({ passphrase: z.string().min(1) }) });
const v1Shape = z.object({ data: z.unknown() });
const v2Shape = z.object({
  data: z.object({ data: z.unknown(), metadata: z.object({ version: z.number() }).optional() }).nullish(),
});

const keptIn = (
  place: string,
  volumeId: string,
  version: 1 | 2,
  answer: VaultAnswer,
): Effect.Effect<Kept, KmsError> => {
  const { data } = v2Shape.safeParse(answer.body).data ?? {};
  const last = version === 2 ? (data?.metadata?.version ?? 0) : 0;
  const secret = version === 2 ? data?.data : v1Shape.safeParse(answer.body).data?.data;
  if (answer.status === 404 || (version === 2 && (secret === null || secret === undefined))) {
    return Effect.succeed({ key: undefined, version: last });
  }
  const found = secretShape.safeParse(secret).data;
  if (found !== undefined) return Effect.succeed({ key: keyOf(found.data.passphrase), version: last });
  const reason = 'the secret there is not {"data":{"passphrase":"…"}}';
  return Effect.fail(new KeyDamaged({ volumeId, place, reason }));
};

const mountsShape = z.looseObject({ data: z.record(z.string(), z.unknown()).optional() });
const mountShape = z.object({ options: z.object({ version: z.string().optional() }).nullish() });

/** The version of the engine that is mounted there. */
const probe = Effect.fnUntraced(function* ({ server, place, authToken }: Engine): Effect.fn.Return<1 | 2, KmsError> {
  const path = "sys/mounts";
  const remedy = `Set vaultBackend to kv or kv-v2, or give the token a policy with "read" on ${path}`;
  const call: VaultCall = { method: "GET", path, token: yield* authToken, namespace: place.authNamespace, remedy };
  const { body } = yield* ask(server, call);
  const answer = mountsShape.safeParse(body).data ?? {};
  const mounts = Object.entries({ ...answer, ...answer.data });
  const found = mounts.find(([name]) => joined(name) === joined(place.backendPath))?.[1];
  const mount = mountShape.safeParse(found).data;
  if (mount !== undefined) return mount.options?.version === "2" ? 2 : 1;
  const { place: file, kmsId: section } = server.section;
  const reason = `${serverName(server)} has no secrets engine at ${joined(place.backendPath)}: correct it, or enable the engine`;
  return yield* new KmsConfigInvalid({ place: file, section, key: "vaultBackendPath", reason });
});
