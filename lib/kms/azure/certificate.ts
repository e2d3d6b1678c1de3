/**
 * The certificate of an application of Entra ID and its private key, as ceph-csi takes them (`ParseCertificates` of Azure's
 * Go library): PEM, or PKCS #12 without a password, in any order and with a chain. Gives them as Azure's client for
 * JavaScript takes them.
 *
 * 1. The client takes the first certificate of a file for the application's. So that of the key is put first; of several
 *    the last, as ceph-csi does.
 * 2. No error has a part of the file.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { type CertificateFile, type Pkcs12Fault, readPkcs12 } from "./pkcs12.ts";

export type CertificateFault =
  | Pkcs12Fault
  /** Text that is the base64 of a file. */
  | "base64"
  | "no certificate"
  | "no key"
  | "several keys"
  | "no key of RSA"
  | "other key";

/** PEM: the key (PKCS #8), its certificate, and what else the file has of certificates. */
export const readCertificate = Effect.fnUntraced(function* (
  bytes: Uint8Array,
): Effect.fn.Return<Redacted.Redacted, CertificateFault> {
  const file = yield* fileIn(bytes);
  const certificates = file.certificates.flatMap(certificateIn);
  const key = yield* keyIn(file.keys);
  if (certificates.length === 0) return yield* Effect.fail("no certificate" as const);
  const own = certificates.findLast((each) => each.checkPrivateKey(key));
  if (own === undefined) return yield* Effect.fail("other key" as const);
  const chain = certificates.filter((each) => each !== own);
  const parts = [
    pem("PRIVATE KEY", key.export({ type: "pkcs8", format: "der" })),
    ...[own, ...chain].map(({ raw }) => pem("CERTIFICATE", raw)),
  ];
  return Redacted.make(parts.join(""), { label: "CLIENT_CERT" });
});

const fileIn = (bytes: Uint8Array): Effect.Effect<CertificateFile, CertificateFault> => {
  const text = Buffer.from(bytes).toString("latin1");
  const blocks = [...text.matchAll(BLOCK)].map(({ groups: { label = "", body = "" } = {} }) => ({
    label,
    der: Buffer.from(body, "base64"),
  }));
  if (blocks.length === 0) return BASE64_OF_SEQUENCE.test(text) ? Effect.fail("base64") : readPkcs12(bytes);
  return Effect.succeed({
    certificates: blocks.filter(({ label }) => label === "CERTIFICATE").map(({ der }) => der),
    keys: blocks.filter(({ label }) => KEYS.includes(label)).map(({ der }) => der),
  });
};

/** Of PEM. The body of a key with a password, in the old form, begins with lines that are not base64: no key is in it. */
const BLOCK = /-----BEGIN (?<label>[A-Z0-9 ]+)-----(?<body>[^-]*)-----END \k<label>-----/g;
const KEYS: readonly string[] = ["PRIVATE KEY", "RSA PRIVATE KEY"];

/** Of a file of 256 bytes and more. */
const BASE64_OF_SEQUENCE = /^\s*MI[I-L][\dA-Za-z+/\s]{100,}={0,2}\s*$/;

const certificateIn = (der: Uint8Array): readonly X509Certificate[] => {
  try {
    return [new X509Certificate(der)];
  } catch {
    return [];
  }
};

const keyIn = (keys: readonly Uint8Array[]): Effect.Effect<KeyObject, CertificateFault> => {
  const [der, another] = keys;
  if (der === undefined) return Effect.fail("no key");
  if (another !== undefined) return Effect.fail("several keys");
  const key = parsedKey(der, "pkcs8") ?? parsedKey(der, "pkcs1");
  if (key === undefined) return Effect.fail("no key");
  return key.asymmetricKeyType === "rsa" ? Effect.succeed(key) : Effect.fail("no key of RSA");
};

const parsedKey = (der: Uint8Array, type: "pkcs8" | "pkcs1"): KeyObject | undefined => {
  try {
    return createPrivateKey({ key: Buffer.from(der), format: "der", type });
  } catch {
    return undefined;
  }
};

const pem = (label: string, der: Uint8Array): string => {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
};
