/**
 * The client of Azure Key Vault: Microsoft's own (@azure/keyvault-secrets, @azure/identity), which get a token by a
 * certificate, answer the vault's challenge, and retry.
 *
 * They are loaded when a volume first needs them, as those of AWS are (../aws/clients.ts).
 *
 * 1. Every call has a limit; past it, it is cancelled.
 */
import type { SecretClient } from "@azure/keyvault-secrets";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { within } from "../client-calls.ts";
import type { KmsError } from "../errors.ts";

/** For all attempts together. */
const LIMIT = Duration.seconds(60);
/** That of ceph-csi. */
const API_VERSION = "7.5";

export interface VaultAccount {
  readonly vaultUrl: string;
  readonly tenantId: string;
  readonly clientId: string;
  /** A key and its certificate in PEM (./certificate.ts). */
  readonly certificate: Redacted.Redacted;
}

/** How the servers are reached; for servers other than Microsoft's. */
export interface AzureWires {
  readonly authorityHost?: string | undefined;
  /** PEM of the authority that signed the servers' certificates. */
  readonly ca?: string;
}

export type CallVault = <A>(
  act: (client: SecretClient, abortSignal: AbortSignal) => Promise<A>,
) => Effect.Effect<A, KmsError>;

/** `failed` tells what an error of the libraries means. */
export const vaultCaller = (
  { vaultUrl, tenantId, clientId, certificate }: VaultAccount,
  { authorityHost, ca }: AzureWires,
  failed: (error: unknown) => KmsError,
): Effect.Effect<CallVault, KmsError> =>
  Effect.tryPromise({
    catch: failed,
    try: async () => {
      const { ClientCertificateCredential } = await import("@azure/identity");
      const { SecretClient } = await import("@azure/keyvault-secrets");
      const wires = ca === undefined ? {} : { tlsOptions: { ca } };
      const isOwn = authorityHost !== undefined;
      const credential = new ClientCertificateCredential(
        tenantId,
        clientId,
        { certificate: Redacted.value(certificate) },
        { ...wires, ...(isOwn && { authorityHost, disableInstanceDiscovery: true }) },
      );
      const client = new SecretClient(vaultUrl, credential, {
        ...wires,
        serviceVersion: API_VERSION,
        disableChallengeResourceVerification: isOwn,
      });
      return (act) =>
        Effect.tryPromise({ try: (signal) => act(client, signal), catch: failed }).pipe(
          within(LIMIT, storeName(vaultUrl)),
        );
    },
  });

export const storeName = (vaultUrl: string): string => `Azure Key Vault ${vaultUrl}`;
