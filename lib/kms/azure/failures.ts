/**
 * What the failures of Microsoft Entra ID and of Key Vault mean to an administrator.
 *
 * 1. Of an error only its code, its status and the first line of its text are taken.
 */
import * as z from "zod";
import { fieldsOf } from "../client-calls.ts";
import { KmsConfigInvalid, KmsDenied, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";
import type { CertificateFault } from "./certificate.ts";

export interface AzureNames {
  readonly store: string;
  /** `FILE, section ID`. */
  readonly section: string;
  /** `Secret namespace/name`. */
  readonly secret: string;
}

const shape = z.object({
  name: z.string(),
  message: z.string(),
  code: z.string().optional(),
  statusCode: z.number().optional(),
});

type Failure = z.infer<typeof shape>;

const failureIn = (error: unknown): Failure =>
  shape.safeParse(fieldsOf(error)).data ?? { name: "Error", message: "it gives no reason" };

/** The vault names its tenant, and the client refuses to ask another than its own for a token. */
const VAULT_TENANT = /not configured to acquire tokens for tenant ([\da-f-]+)/i;

/** HTTP status of Key Vault's answer; `undefined`: the error is not one. */
export const statusOf = (error: unknown): number | undefined => failureIn(error).statusCode;

export const azureFailure = (names: AzureNames, error: unknown): KmsError => {
  const failure = failureIn(error);
  const tenant = VAULT_TENANT.exec(failure.message)?.[1];
  if (tenant !== undefined) {
    const remedy = `Write it as AZURE_TENANT_ID into ${names.section}`;
    return new KmsDenied({ store: names.store, reason: `it belongs to the tenant ${tenant}`, remedy });
  }
  const entra = /AADSTS\d+/.exec(failure.message)?.[0];
  return entra === undefined ? vaultFailure(names, failure) : entraFailure(names, entra, failure);
};

/** Numbers of Entra ID: no such tenant, no such application. */
const NO_TENANT = new Set(["AADSTS90002", "AADSTS900023"]);
const NO_APPLICATION = new Set(["AADSTS700016"]);

const entraFailure = ({ store, section, secret }: AzureNames, code: string, failure: Failure): KmsError => {
  const reason = `no token: ${lineOf(failure.message, code)}`;
  if (NO_TENANT.has(code)) return new KmsDenied({ store, reason, remedy: `Correct AZURE_TENANT_ID in ${section}` });
  if (NO_APPLICATION.has(code)) {
    return new KmsDenied({ store, reason, remedy: `Correct AZURE_CLIENT_ID or AZURE_TENANT_ID in ${section}` });
  }
  const remedy = `Write a certificate of the application AZURE_CLIENT_ID (${section}), and its key, as CLIENT_CERT into ${secret}`;
  return new KmsDenied({ store, reason, remedy });
};

/** From the code on, where the text has it: what is before it is the library's own. */
const lineOf = (message: string, code = ""): string =>
  (message.slice(Math.max(0, message.indexOf(code))).split("\n")[0] ?? "").slice(0, 300).replace(/\.$/, "");

const vaultFailure = ({ store, section, secret }: AzureNames, failure: Failure): KmsError => {
  const { code, statusCode: status, message } = failure;
  const reason = status === undefined ? lineOf(message) : `HTTP ${status}, ${code ?? "no code"}: ${lineOf(message)}`;
  if (status === 401 || status === 403) {
    const remedy = `Grant the application AZURE_CLIENT_ID (${section}; its certificate is in ${secret}) the role Key Vault Secrets Officer, and let the vault's firewall pass this pod`;
    return new KmsDenied({ store, reason, remedy });
  }
  if (status === 409) {
    const remedy =
      "A secret of that name was deleted and not purged: recover it, or purge it (az keyvault secret purge)";
    return new KmsRefused({ store, reason, remedy });
  }
  const isDefinite = status !== undefined && status < 500 && status !== 408 && status !== 429;
  return isDefinite
    ? new KmsRefused({ store, reason, remedy: `Check AZURE_VAULT_URL in ${section}` })
    : new KmsUnreachable({ store, reason });
};

const TO_PEM = "write it as PEM, which this makes: openssl pkcs12 -in FILE -nodes -out cert.pem";

const CERTIFICATE_FAULTS: Readonly<Record<CertificateFault, string>> = {
  unreadable: "is neither PEM nor PKCS #12: write a certificate and its private key, in one of these forms",
  protected: `is PKCS #12 with a password, or is damaged: write it without a password, or ${TO_PEM} (it asks for the password)`,
  algorithm: `is PKCS #12 without a MAC, or whose encryption or MAC is not known here: ${TO_PEM}`,
  rounds: `is PKCS #12 that takes more than 100,000 rounds to open, which are in vain without a password: ${TO_PEM}`,
  base64:
    "is the base64 of a file: write the file itself, as kubectl create secret generic --from-file=CLIENT_CERT=FILE does, which encodes it once",
  "no certificate": "is a file without a certificate: add that of the private key",
  "no key": "is a file without a private key that has no password: add that of the certificate, as PKCS #8 or PKCS #1",
  "several keys": "is a file with more than one private key: leave that of the application alone",
  "no key of RSA":
    "is a file whose private key is not one of RSA, which is what Entra ID takes: make another certificate",
  "other key": "is a file whose private key belongs to none of its certificates: write both anew",
};

/** A certificate that cannot be used. `place`: the Secret. */
export const badCertificate = (place: string, fault: CertificateFault): KmsConfigInvalid =>
  new KmsConfigInvalid({ place, key: "CLIENT_CERT", reason: CERTIFICATE_FAULTS[fault] });
