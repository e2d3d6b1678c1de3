/**
 * `Kms`: opens the key store that a KMS ID names, as an Effect service.
 *
 * Not here: each store (./stores), and the life of a volume's key (./volume-key.ts).
 *
 * 1. The configuration is read at each call. `default`, and no ID at all, read none.
 * 2. An unknown type is an error that names those that are known.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { DEFAULT_KMS } from "../config/encryption.ts";
import { findSection, type KmsConfigPlaces } from "./config.ts";
import { type KmsError, KmsUnknown } from "./errors.ts";
import type { KeyStore, OpenStore, Section, Texts } from "./key-store.ts";
import { openAwsStore, openAwsStsStore } from "./stores/aws.ts";
import { openAzureKeyVaultStore } from "./stores/azure-key-vault.ts";
import { defaultStore } from "./stores/default.ts";
import { openIbmKeyProtectStore } from "./stores/ibm-key-protect.ts";
import { openKmipStore } from "./stores/kmip.ts";
import { openMetadataStore } from "./stores/metadata.ts";
import { openVaultTenantAccount, openVaultTokens } from "./stores/vault-tenants.ts";
import { openVault } from "./stores/vault.ts";

/** The types of key stores, as `encryptionKMSType` (or `KMS_PROVIDER`) names them. */
const STORES: Readonly<Record<string, OpenStore>> = {
  "aws-metadata": openAwsStore,
  "aws-sts-metadata": openAwsStsStore,
  "azure-kv": openAzureKeyVaultStore,
  ibmkeyprotect: openIbmKeyProtectStore,
  kmip: openKmipStore,
  metadata: openMetadataStore,
  vault: openVault,
  vaulttokens: openVaultTokens,
  vaulttenantsa: openVaultTenantAccount,
};

/** Whose key store is asked for. */
export interface StoreRequest {
  /** "" is `default`. */
  readonly kmsId: string;
  /** Kubernetes namespace of the claim. */
  readonly owner: string | undefined;
  /** The secrets of the request. */
  readonly secrets: Texts;
}

export class Kms extends Context.Service<
  Kms,
  { readonly open: (request: StoreRequest) => Effect.Effect<KeyStore, KmsError> }
>()("csi-rbd/Kms") {
  /** By the configuration at these places. */
  static readonly layer = (places: KmsConfigPlaces): Layer.Layer<Kms> =>
    Layer.succeed(Kms, Kms.of({ open: (request) => openConfigured(request, places) }));

  /** Opens these stores by their ID, and reads nothing: for tests. */
  static readonly layerOf = (stores: Readonly<Record<string, KeyStore>>): Layer.Layer<Kms> =>
    Layer.succeed(
      Kms,
      Kms.of({
        open: ({ kmsId, secrets }) => {
          if (kmsId === "" || kmsId === DEFAULT_KMS) return Effect.succeed(defaultStore(secrets));
          const store = stores[kmsId];
          const known = Object.keys(stores);
          return store === undefined
            ? Effect.fail(new KmsUnknown({ kmsId, place: "this test", known }))
            : Effect.succeed(store);
        },
      }),
    );
}

const openConfigured = Effect.fnUntraced(function* (
  { kmsId, owner, secrets }: StoreRequest,
  places: KmsConfigPlaces,
): Effect.fn.Return<KeyStore, KmsError> {
  if (kmsId === "" || kmsId === DEFAULT_KMS) return defaultStore(secrets);
  const section = yield* findSection(kmsId, places);
  const type = yield* typeOf(section);
  const open = Object.hasOwn(STORES, type) ? STORES[type] : undefined;
  if (open === undefined) {
    const known = Object.keys(STORES).join(", ");
    return yield* section.wrong(typeKey(section), `${JSON.stringify(type)} is not a key store: write one of ${known}`);
  }
  const { podNamespace, kube, env, readFile } = places;
  return yield* open({ section, owner, secrets, podNamespace, kube, env, readFile });
});

const TYPE = "encryptionKMSType";
const PROVIDER = "KMS_PROVIDER";

const typeKey = (section: Section): string => (!section.has(TYPE) && section.has(PROVIDER) ? PROVIDER : TYPE);
const typeOf = (section: Section) => section.required(typeKey(section));
