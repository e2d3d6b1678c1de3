/**
 * `vault`: keys in Vault, which the driver's own ServiceAccount opens. One role serves all namespaces.
 *
 * 1. `VAULT_TOKEN` of the driver's environment takes the place of the login, as in ceph-csi.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { ACCOUNT_FOLDER } from "../../kube/kubeconfig.ts";
import { KmsConfigInvalid, type KmsError } from "../errors.ts";
import type { KeepingStore, OpenStore, Section, StoreContext } from "../key-store.ts";
import type { VaultServer } from "../vault/http.ts";
import { joined, type KvPlace, type Login, vaultStore } from "../vault/kv.ts";
import { type KubernetesLogin, kubernetesLogin, mountIn } from "../vault/login.ts";
import { DEFAULT_BACKEND_PATH, inEnv, kvPlace, readVaultOptions, vaultServer } from "../vault/options.ts";

const TOKEN_FILE = `${ACCOUNT_FOLDER}/token`;

export const openVault: OpenStore = Effect.fnUntraced(function* (
  context: StoreContext,
): Effect.fn.Return<KeepingStore, KmsError> {
  const { section } = context;
  const options = yield* readVaultOptions(section, context.env);
  const mount = mountIn(yield* section.required("vaultAuthPath"));
  const role = (yield* section.required("vaultRole")).trim();
  const prefix = yield* section.optional("vaultPassphrasePath");
  if (prefix === undefined) {
    return yield* section.wrong("vaultPassphrasePath", 'is missing: add it, "" for none');
  }
  const root = (yield* section.optional("vaultPassphraseRoot"))?.replace(/^\/v1\//, "");
  const ca = yield* authorityOf(context);
  const server = yield* vaultServer(context, options, { ca });
  const backendPath = root === undefined ? options.backendPath : root.trim() || DEFAULT_BACKEND_PATH;
  const place = kvPlace({ ...options, backendPath }, (id) => joined(prefix, id));
  return yield* storeOf(context, server, place, { mount, role, jwt: accountToken(context) });
});

/** A store whose tokens a Kubernetes login gives: a second one where the keys are in another namespace than the login. */
export const storeOf = (
  { env }: StoreContext,
  server: VaultServer,
  place: KvPlace,
  login: KubernetesLogin,
): Effect.Effect<KeepingStore> => {
  const given = inEnv(env, "VAULT_TOKEN");
  const loginIn = (namespace: string): Login =>
    given ? Effect.succeed(Redacted.make(given)) : kubernetesLogin(server, login, namespace);
  return Effect.flatMap(Effect.cached(loginIn(place.authNamespace)), (authToken) => {
    const token = place.namespace === place.authNamespace ? authToken : loginIn(place.namespace);
    return vaultStore({ server, place, authToken, token });
  });
};

/** A key of the request's own secrets. */
const authorityOf = Effect.fnUntraced(function* ({ section, secrets }: StoreContext) {
  const key = yield* section.optional("vaultCAFromSecret");
  if (!key) return undefined;
  const pem = Object.hasOwn(secrets, key) ? secrets[key] : undefined;
  if (pem !== undefined) return pem;
  const reason = `names ${key}, which the secrets of the request do not have: add it to the Secret of the StorageClass`;
  return yield* section.wrong("vaultCAFromSecret", reason);
});

const accountToken = ({ readFile }: StoreContext): Login =>
  Effect.flatMap(readFile(TOKEN_FILE), (token): Effect.Effect<Redacted.Redacted, KmsError> => {
    if (token !== undefined) return Effect.succeed(Redacted.make(token, { label: "token of the ServiceAccount" }));
    const reason = "does not exist: give this pod the token of its ServiceAccount (automountServiceAccountToken)";
    return Effect.fail(new KmsConfigInvalid({ place: TOKEN_FILE, reason }));
  });

/** What a missing option is worth. */
export const orDefault = (section: Section, key: string, value: string): Effect.Effect<string, KmsError> =>
  Effect.map(section.optional(key), (found) => found || value);
