/**
 * The options of the Vault family, as a section gives them in ceph-csi's own names or in those of Vault's environment,
 * and as a tenant's ConfigMap overrides some of them.
 *
 * Not here: what they lead to (../stores/vault.ts, ../stores/vault-tenants.ts).
 *
 * 1. A section of the type `vaulttokens` or `vaulttenantsa` with KMS_PROVIDER has the names of Vault's environment, and
 *    no others.
 * 2. What neither the section nor the tenant says is taken from the driver's own environment (`VAULT_CACERT` …), as
 *    Vault's own client does.
 * 3. White space around a text is not part of it, as in ceph-csi.
 */
import * as Effect from "effect/Effect";
import { goBool } from "../../text/go-values.ts";
import type { KmsError } from "../errors.ts";
import type { Section, StoreContext, Texts } from "../key-store.ts";
import { sectionOf } from "../section.ts";
import type { VaultServer } from "./http.ts";
import type { KvPlace } from "./kv.ts";

export interface VaultOptions {
  readonly address: string;
  readonly backend: string;
  readonly backendPath: string;
  readonly destroys: boolean;
  readonly namespace: string;
  readonly authNamespace: string;
  readonly serverName: string | undefined;
  readonly verifies: boolean;
}

export const DEFAULT_BACKEND_PATH = "secret/";

/** Of the driver's environment; "" is as good as absent. */
export const inEnv = (env: StoreContext["env"], name: string): string => (env[name] ?? "").trim();

/** What a section says of a server and the keys in it; `env` fills what it leaves open. */
export const readVaultOptions = Effect.fnUntraced(function* (
  section: Section,
  env: StoreContext["env"],
): Effect.fn.Return<VaultOptions, KmsError> {
  const optional = (key: string) => Effect.map(section.optional(key), (text) => text?.trim());
  const address = (yield* section.required("vaultAddress")).trim();
  if (!/^https?:\/\//.test(address)) {
    return yield* section.wrong("vaultAddress", "must begin with http:// or https://");
  }
  const namespace = (yield* optional("vaultNamespace")) || inEnv(env, "VAULT_NAMESPACE") || "";
  return {
    address: address.replace(/\/+$/, ""),
    backend: (yield* optional("vaultBackend")) ?? inEnv(env, "VAULT_BACKEND"),
    backendPath: ((yield* optional("vaultBackendPath")) ?? inEnv(env, "VAULT_BACKEND_PATH")) || DEFAULT_BACKEND_PATH,
    // Exactly this text, as in ceph-csi, or JSON's true: every other one keeps what can be undeleted.
    destroys: ((yield* section.word("vaultDestroyKeys")) ?? "true") === "true",
    namespace,
    authNamespace: (yield* optional("vaultAuthNamespace")) || namespace,
    serverName: (yield* optional("vaultTLSServerName")) || inEnv(env, "VAULT_TLS_SERVER_NAME") || undefined,
    verifies: (yield* section.bool("vaultCAVerify")) ?? !(goBool(inEnv(env, "VAULT_SKIP_VERIFY")) ?? false),
  };
});

/** PEM texts of a server's authority, and of this client. */
export interface Certificates {
  readonly ca?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
}

const CERTIFICATE_FILES = { ca: "VAULT_CACERT", cert: "VAULT_CLIENT_CERT", key: "VAULT_CLIENT_KEY" } as const;

/** The server, with what the section says of certificates; those that are absent are taken from files of the environment. */
export const vaultServer = Effect.fnUntraced(function* (
  { section, env, readFile }: StoreContext,
  { address, serverName, verifies }: VaultOptions,
  given: Certificates,
): Effect.fn.Return<VaultServer, KmsError> {
  const pem = Effect.fnUntraced(function* (
    part: keyof Certificates,
  ): Effect.fn.Return<Partial<VaultServer["tls"]>, KmsError> {
    const path = inEnv(env, CERTIFICATE_FILES[part]);
    const text = given[part] ?? (path ? yield* readFile(path) : undefined);
    return text === undefined ? {} : { [part]: text };
  });
  return {
    address,
    section: { place: section.place, kmsId: section.kmsId },
    tls: {
      ...(yield* pem("ca")),
      ...(yield* pem("cert")),
      ...(yield* pem("key")),
      ...(serverName !== undefined && { serverName }),
      ...(!verifies && { rejectUnauthorized: false }),
    },
  };
});

export const kvPlace = (options: VaultOptions, keyPath: KvPlace["keyPath"]): KvPlace => ({
  namespace: options.namespace,
  authNamespace: options.authNamespace,
  backendPath: options.backendPath,
  version: options.backend === "kv-v2" ? 2 : options.backend === "kv" ? 1 : undefined,
  keyPath,
  destroys: options.destroys,
});

/** Vault's names, and ceph-csi's for the same. */
const FROM_ENV = {
  VAULT_ADDR: "vaultAddress",
  VAULT_BACKEND: "vaultBackend",
  VAULT_BACKEND_PATH: "vaultBackendPath",
  VAULT_DESTROY_KEYS: "vaultDestroyKeys",
  VAULT_CACERT: "vaultCAFromSecret",
  VAULT_CLIENT_CERT: "vaultClientCertFromSecret",
  VAULT_CLIENT_KEY: "vaultClientCertKeyFromSecret",
  VAULT_TLS_SERVER_NAME: "vaultTLSServerName",
  VAULT_NAMESPACE: "vaultNamespace",
  VAULT_AUTH_NAMESPACE: "vaultAuthNamespace",
} as const;
const SKIP_VERIFY = "VAULT_SKIP_VERIFY";

/** The section in ceph-csi's own names. */
export const inOwnNames = Effect.fnUntraced(function* (section: Section): Effect.fn.Return<Section, KmsError> {
  if (!section.has("KMS_PROVIDER")) return section;
  const options: Record<string, string> = {};
  for (const [name, own] of Object.entries(FROM_ENV)) {
    // What is absent counts as empty, for which the environment has no say; of vaultDestroyKeys "" is a text as others.
    const isWord = own === "vaultDestroyKeys";
    options[own] = (yield* isWord ? section.word(name) : section.optional(name)) ?? (isWord ? "true" : "");
  }
  const skips = yield* section.bool(SKIP_VERIFY);
  if (skips !== undefined) options["vaultCAVerify"] = String(!skips);
  if (options["vaultAddress"] === "") {
    return yield* section.wrong("VAULT_ADDR", "is missing: add it");
  }
  return sectionOf(section.place, section.kmsId, options);
});

/** The options that a tenant may set. The names of certificates are accepted, and those of the section hold. */
const TENANT_OPTIONS = [
  "vaultAddress",
  "vaultBackend",
  "vaultBackendPath",
  "vaultAuthNamespace",
  "vaultNamespace",
  "vaultDestroyKeys",
  "vaultTLSServerName",
  "vaultCAVerify",
] as const;
const TENANT_ACCOUNT_OPTIONS = ["tenantSAName", "vaultAuthPath", "vaultRole"] as const;

/**
 * The section as the tenant's ConfigMap overrides it. A tenant that sets its namespace alone takes the login there too,
 * where both were one.
 */
export const withTenant = Effect.fnUntraced(function* (
  section: Section,
  tenant: { readonly place: string; readonly data: Texts } | undefined,
  isAccount: boolean,
): Effect.fn.Return<Section, KmsError> {
  if (tenant === undefined) return section;
  const names = [...TENANT_OPTIONS, ...(isAccount ? TENANT_ACCOUNT_OPTIONS : [])].filter((name) =>
    Object.hasOwn(tenant.data, name),
  );
  const own = sectionOf(
    tenant.place,
    section.kmsId,
    Object.fromEntries(names.map((name) => [name, tenant.data[name]])),
  );
  const namespace = yield* section.optional("vaultNamespace");
  const authNamespace = yield* section.optional("vaultAuthNamespace");
  const follows =
    own.has("vaultNamespace") && !own.has("vaultAuthNamespace") && (!authNamespace || authNamespace === namespace);
  const of = (key: string): Section => {
    if (key === "vaultAuthNamespace" && follows) return own;
    return own.has(key) ? own : section;
  };
  return {
    kmsId: section.kmsId,
    place: section.place,
    has: (key) => of(key).has(key),
    required: (key) => of(key).required(key),
    optional: (key) => of(key).optional(key),
    word: (key) => of(key).word(key),
    number: (key) => of(key).number(key),
    bool: (key) => of(key).bool(key),
    wrong: (key, reason) => of(key).wrong(key, reason),
  };
});
