/**
 * `azure-kv`: keeps keys as secrets of an Azure Key Vault, under the ID of the volume, through Microsoft's own client
 * (../azure/client.ts). The value is the text of the key, as ceph-csi has it.
 *
 * 1. A secret that is there is not written: it is read before. Two that write at once are kept apart by the reservation of
 *    the volume's name, and the vault keeps earlier versions of a secret.
 * 2. Deleted secrets stay in the vault until they are purged, by the vault's own rule: nothing is purged here.
 */
import type { SecretClient } from "@azure/keyvault-secrets";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { readCertificate } from "../azure/certificate.ts";
import { type AzureWires, type CallVault, storeName, type VaultAccount, vaultCaller } from "../azure/client.ts";
import { type AzureNames, azureFailure, badCertificate, statusOf } from "../azure/failures.ts";
import { KeyDamaged, KeyExists, KeyNotFound, type KmsError, KmsRefused } from "../errors.ts";
import type { KeepingStore, Key, OpenStore, StoreContext } from "../key-store.ts";
import { keyOf, newKey } from "../new-key.ts";
import { readStoreSecret, sectionPlace } from "../store-secret.ts";

export const openAzureKeyVaultStore: OpenStore = (context) =>
  azureKeyVaultStore(context, { authorityHost: context.env["AZURE_AUTHORITY_HOST"] || undefined });

export const azureKeyVaultStore = Effect.fnUntraced(function* (
  context: StoreContext,
  wires: AzureWires,
): Effect.fn.Return<KeepingStore, KmsError> {
  const { account, names } = yield* accountOf(context);
  const call = vaultCaller(account, wires, (error) => azureFailure(names, error));
  return storeOf(names.store, account.vaultUrl, yield* Effect.cached(call));
});

interface Account {
  readonly account: VaultAccount;
  readonly names: AzureNames;
}

const accountOf = Effect.fnUntraced(function* (context: StoreContext): Effect.fn.Return<Account, KmsError> {
  const { section } = context;
  const vaultUrl = (yield* section.required("AZURE_VAULT_URL")).replace(/\/+$/, "");
  if (!/^https:\/\//i.test(vaultUrl) || !URL.canParse(vaultUrl)) {
    return yield* section.wrong("AZURE_VAULT_URL", "is not an address: write one such as https://NAME.vault.azure.net");
  }
  const clientId = (yield* section.required("AZURE_CLIENT_ID")).trim();
  const tenantId = (yield* section.required("AZURE_TENANT_ID")).trim();
  if (!TENANT.test(tenantId)) {
    return yield* section.wrong("AZURE_TENANT_ID", "is no tenant: write its ID, or a domain such as example.com");
  }
  const { place, bytes } = yield* readStoreSecret(context, {
    option: "AZURE_CERT_SECRET_NAME",
    byDefault: "ceph-csi-azure-credentials",
    namespace: context.podNamespace,
    required: ["CLIENT_CERT"],
  });
  const certificate = yield* Effect.mapError(readCertificate(bytes("CLIENT_CERT")), (fault) =>
    badCertificate(place, fault),
  );
  return {
    account: { vaultUrl, clientId, tenantId, certificate },
    names: { store: storeName(vaultUrl), section: sectionPlace(section), secret: place },
  };
});

/** What the client takes for one. */
const TENANT = /^[\dA-Za-z.-]+$/;

/** Names of secrets, by the rules of Key Vault. */
const NAME = /^[\dA-Za-z-]{1,127}$/;

const storeOf = (store: string, vaultUrl: string, caller: Effect.Effect<CallVault, KmsError>): KeepingStore => {
  const place = (volumeId: string) => `${vaultUrl}/secrets/${volumeId}`;
  const call = <A>(
    volumeId: string,
    act: (client: SecretClient, abortSignal: AbortSignal) => Promise<A>,
  ): Effect.Effect<A, KmsError> =>
    NAME.test(volumeId)
      ? Effect.flatMap(caller, (ask) => ask(act))
      : Effect.fail(new KmsRefused({ store, reason: `no secret can have the name ${volumeId}`, remedy: NAME_REMEDY }));
  const find = (volumeId: string) =>
    call(volumeId, (client, abortSignal) =>
      ifThere(client.getSecret(volumeId, { abortSignal }).then(({ value }) => value ?? "")),
    );
  const set = (volumeId: string, key: Key) =>
    call(volumeId, (client, abortSignal) => client.setSecret(volumeId, Redacted.value(key), { abortSignal }));
  const read = Effect.fnUntraced(function* (volumeId: string): Effect.fn.Return<Key, KmsError | KeyNotFound> {
    const found = yield* find(volumeId);
    if (found === undefined) return yield* new KeyNotFound({ volumeId, place: place(volumeId) });
    if (found === "") return yield* new KeyDamaged({ volumeId, place: place(volumeId), reason: "its secret is empty" });
    return keyOf(found);
  });
  return {
    kind: "keeping",
    name: store,
    place,
    newKey: newKey("url"),
    read,
    write: Effect.fnUntraced(function* (volumeId, key) {
      if ((yield* find(volumeId)) !== undefined) return yield* new KeyExists({ volumeId, place: place(volumeId) });
      yield* set(volumeId, key);
    }),
    replace: Effect.fnUntraced(function* (volumeId, old, key) {
      const now = Redacted.value(yield* read(volumeId));
      if (now !== Redacted.value(old)) return yield* new KeyExists({ volumeId, place: place(volumeId) });
      yield* set(volumeId, key);
    }),
    remove: (volumeId) =>
      Effect.asVoid(
        call(volumeId, (client, abortSignal) => ifThere(client.beginDeleteSecret(volumeId, { abortSignal }))),
      ),
  };
};

const NAME_REMEDY =
  "Key Vault takes letters, digits and dashes, up to 127: give the cluster a clusterID of these, or name another KMS";

/** `undefined`: the vault has no such secret. */
const ifThere = <A>(answer: Promise<A>): Promise<A | undefined> =>
  answer.catch((error: unknown) => {
    if (statusOf(error) === 404) return undefined;
    throw error;
  });
