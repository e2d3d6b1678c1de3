/**
 * `vaulttokens` and `vaulttenantsa`: keys in Vault, which the tenant opens, the namespace of the claim: with a token in
 * one of its Secrets, or with one of its ServiceAccounts.
 *
 * 1. Options come from the section, then from a ConfigMap in the tenant's namespace. The section `tenants` that ceph-csi
 *    documents has no effect there, and none here: volumes that exist depend on it. It is named in the log.
 * 2. Names of certificates come from the section alone. Each is looked for in the tenant's namespace, then in the
 *    driver's.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { KmsConfigInvalid, type KmsError } from "../errors.ts";
import type { KeepingStore, OpenStore, Section, StoreContext } from "../key-store.ts";
import { type Login, vaultStore } from "../vault/kv.ts";
import { mountIn } from "../vault/login.ts";
import { inOwnNames, kvPlace, readVaultOptions, vaultServer, withTenant } from "../vault/options.ts";
import { orDefault, storeOf } from "./vault.ts";

const DEFAULT_CONFIG_MAP = "ceph-csi-kms-config";
const DEFAULT_TOKEN_SECRET = "ceph-csi-kms-token";
const DEFAULT_ACCOUNT = "ceph-csi-vault-sa";
const DEFAULT_MOUNT = "kubernetes";
const DEFAULT_ROLE = "csi-kubernetes";

export const openVaultTokens: OpenStore = Effect.fnUntraced(function* (
  context: StoreContext,
): Effect.fn.Return<KeepingStore, KmsError> {
  const { section, server, place, tenant } = yield* openTenant(context, false);
  const name = yield* orDefault(section, "tenantTokenName", DEFAULT_TOKEN_SECRET);
  const token = tokenOf(context, section, tenant, name);
  return yield* vaultStore({ server, place, authToken: token, token });
});

export const openVaultTenantAccount: OpenStore = Effect.fnUntraced(function* (
  context: StoreContext,
): Effect.fn.Return<KeepingStore, KmsError> {
  const { section, server, place, tenant } = yield* openTenant(context, true);
  const account = yield* orDefault(section, "tenantSAName", DEFAULT_ACCOUNT);
  const mount = mountIn(yield* orDefault(section, "vaultAuthPath", DEFAULT_MOUNT));
  const role = (yield* orDefault(section, "vaultRole", DEFAULT_ROLE)).trim();
  const jwt = Effect.flatMap(context.kube.serviceAccountToken(tenant, account), (token) =>
    token === undefined
      ? Effect.fail(
          section.wrong("tenantSAName", `names ServiceAccount ${tenant}/${account}, which does not exist: create it`),
        )
      : Effect.succeed(token),
  );
  return yield* storeOf(context, server, place, { mount, role, jwt });
});

/** What both have in common. */
const openTenant = Effect.fnUntraced(function* (context: StoreContext, isAccount: boolean) {
  const central = yield* inOwnNames(context.section);
  const { kube, owner: tenant } = context;
  if (tenant === undefined) {
    const reason =
      "needs the namespace of the claim, which the journal does not know: add --extra-create-metadata to the provisioner";
    return yield* central.wrong("encryptionKMSType", reason);
  }
  if (context.section.has("tenants")) {
    yield* Effect.logWarning(
      `${central.place}, section ${central.kmsId}: "tenants" has no effect, here as in ceph-csi. Write what a tenant overrides into a ConfigMap of its namespace`,
    );
  }
  // "" leaves the tenant nothing to override
  const name = (yield* central.optional("tenantConfigName")) ?? DEFAULT_CONFIG_MAP;
  const data = name === "" ? undefined : yield* kube.configMap(tenant, name);
  const section = yield* withTenant(central, data && { place: `ConfigMap ${tenant}/${name}`, data }, isAccount);
  const options = yield* readVaultOptions(section, context.env);
  const pem = (option: string, key: string) => certificate(context, central, tenant, option, key);
  const server = yield* vaultServer(context, options, {
    ca: yield* pem("vaultCAFromSecret", "cert"),
    cert: yield* pem("vaultClientCertFromSecret", "cert"),
    key: yield* pem("vaultClientCertKeyFromSecret", "key"),
  });
  return { section, server, place: kvPlace(options, (id) => id), tenant };
});

const certificate = Effect.fnUntraced(function* (
  { kube, podNamespace }: StoreContext,
  central: Section,
  tenant: string,
  option: string,
  key: string,
): Effect.fn.Return<string | undefined, KmsError> {
  const name = yield* central.optional(option);
  if (!name) return undefined;
  const secret = (yield* kube.secret(tenant, name)) ?? (yield* kube.secret(yield* podNamespace, name));
  if (secret === undefined) {
    const reason = `names Secret ${name}, which exists neither in the namespace ${tenant} nor in the driver's own: create it`;
    return yield* central.wrong(option, reason);
  }
  const pem = secret.text(key);
  if (pem !== undefined) return Redacted.value(pem);
  return yield* new KmsConfigInvalid({ place: secret.place, key, reason: "is missing: add it, as PEM" });
});

const tokenOf = ({ kube }: StoreContext, section: Section, tenant: string, name: string): Login =>
  Effect.flatMap(kube.secret(tenant, name), (secret): Effect.Effect<Redacted.Redacted, KmsError> => {
    if (secret === undefined) {
      const reason = `names Secret ${tenant}/${name}, which does not exist: create it with a token of Vault as the key token`;
      return Effect.fail(section.wrong("tenantTokenName", reason));
    }
    const token = secret.text("token");
    return token === undefined
      ? Effect.fail(new KmsConfigInvalid({ place: secret.place, key: "token", reason: "is missing: add it" }))
      : Effect.succeed(Redacted.make(Redacted.value(token).trim(), { label: "token of Vault" }));
  });
