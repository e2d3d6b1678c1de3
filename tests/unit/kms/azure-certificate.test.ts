/**
 * The certificates that the key store `azure-kv` takes: PEM and PKCS #12 as OpenSSL writes them, and what other programs
 * wrote (tests/golden/kms/azure-pkcs12.json). What comes out is compared by its bytes: Entra ID knows a certificate by
 * their hash.
 */
import { beforeAll, expect, test } from "bun:test";
import { createPrivateKey, X509Certificate } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as fc from "fast-check";
import { readCertificate } from "../../../lib/kms/azure/certificate.ts";
import golden from "../../golden/kms/azure-pkcs12.json";
import { type Certified, EC, PSS, pkcs12, selfSigned } from "../../support/certificates.ts";

let own: Certified;
let other: Certified;
let signedByPss: Certified;
let elliptic: Certified;
beforeAll(() => {
  [own, other, signedByPss, elliptic] = [selfSigned(), selfSigned(), selfSigned(PSS), selfSigned(EC)];
});

const bytes = (file: string | Uint8Array) => (typeof file === "string" ? Buffer.from(file) : file);
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;
const rawOf = (certificate: string) => new X509Certificate(certificate).raw.toString("base64");
/** The certificates in their order, of which the first belongs to the key. */
const read = async (file: string | Uint8Array) => {
  const text = Redacted.value(await Effect.runPromise(readCertificate(bytes(file))));
  const certificates = text.match(CERTIFICATE) ?? [];
  expect(new X509Certificate(certificates[0] ?? "").checkPrivateKey(createPrivateKey(text))).toBe(true);
  return certificates.map(rawOf);
};
const faultOf = (file: string | Uint8Array) => Effect.runPromise(Effect.flip(readCertificate(bytes(file))));
const edited = (file: Uint8Array, at: number) => file.map((byte, index) => (index === at ? byte ^ 0x55 : byte));

const FORMS: ReadonlyArray<readonly [options: string, what: string]> = [
  ["", "as OpenSSL 3 writes it (PBES2, AES-256, HMAC-SHA-256)"],
  [
    "-certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1",
    "with 3DES and SHA-1, as Windows and Azure's portal do",
  ],
  ["-certpbe AES-128-CBC -keypbe AES-192-CBC -macalg sha512", "with shorter keys of AES, and SHA-512"],
  ["-macalg sha384", "with SHA-384"],
  ["-certpbe NONE", "whose certificate is not encrypted"],
  ["-certpbe NONE -keypbe NONE", "of which nothing is encrypted"],
  ["-noiter -nomaciter", "with one round"],
  ["-iter 10000", "with ten thousand rounds, as Java's keytool does"],
  ["-name application -CSP Microsoft", "with names"],
];

test.each(FORMS)("PKCS #12 with the options %p is read: %s", async (options) => {
  const words = options === "" ? [] : options.split(" ");
  expect(await read(pkcs12(own, words))).toEqual([rawOf(own.certificate)]);
});

test.each(["portal", "noBytes"] as const)("The golden file %p is read, its own certificate first", async (name) => {
  const certificates = await read(Buffer.from(golden[name], "base64"));
  expect(certificates[0]).toBe(rawOf(golden.certificate));
  expect(certificates).toHaveLength(2);
});

test("The certificate of the key comes first, wherever it is in the file", async () => {
  const expected = [own, other, elliptic].map(({ certificate }) => rawOf(certificate));
  expect(await read(pkcs12(own, [], [other.certificate, elliptic.certificate]))).toEqual(expected);
  expect(await read(other.certificate + elliptic.certificate + own.certificate + own.key)).toEqual(expected);
});

test("A certificate signed with RSASSA-PSS keeps its bytes", async () => {
  expect(await read(pkcs12(signedByPss))).toEqual([rawOf(signedByPss.certificate)]);
});

test("PEM is read with the lines between that OpenSSL writes, with CRLF, and with a key in PKCS #1", async () => {
  const pkcs1 = createPrivateKey(own.key).export({ type: "pkcs1", format: "pem" });
  const files = [
    `Bag Attributes\n    localKeyID: 01 02\nsubject=CN = app\n${own.certificate}Key Attributes: <No Attributes>\n${own.key}`,
    (own.key + own.certificate).replaceAll("\n", "\r\n"),
    pkcs1 + own.certificate,
    (pkcs1 + own.certificate).replaceAll("RSA PRIVATE KEY", "PRIVATE KEY"),
  ];
  for (const file of files) expect(await read(file)).toEqual([rawOf(own.certificate)]);
});

const encryptedKey = (type: "pkcs1" | "pkcs8") =>
  createPrivateKey(own.key).export({ type, format: "pem", cipher: "aes-256-cbc", passphrase: "secret" });

test("A file that cannot be used is told apart by what is wrong with it", async () => {
  expect(await faultOf("text")).toBe("unreadable");
  expect(await faultOf(Uint8Array.of(0x30, 0x03, 0x02, 0x01, 0x03))).toBe("unreadable");
  expect(await faultOf(pkcs12(own).subarray(0, 900))).toBe("unreadable");
  expect(await faultOf(Buffer.concat([pkcs12(own), Buffer.from("\n")]))).toBe("unreadable");
  expect(await faultOf(Buffer.from(pkcs12(own)).toString("base64"))).toBe("base64");
  expect(await faultOf(pkcs12(own, ["-passout", "pass:secret"]))).toBe("protected");
  expect(await faultOf(edited(pkcs12(own), 700))).toBe("protected");
  expect(await faultOf(pkcs12(own, ["-nomac"]))).toBe("algorithm");
  expect(await faultOf(pkcs12(own, ["-macalg", "sha3-256"]))).toBe("algorithm");
  expect(await faultOf(pkcs12(own, ["-keypbe", "CAMELLIA-256-CBC"]))).toBe("algorithm");
  expect(await faultOf(pkcs12(own, ["-iter", "100001", "-nomaciter"]))).toBe("rounds");
  expect(await faultOf(pkcs12(own, ["-nokeys"]))).toBe("no key");
  expect(await faultOf(pkcs12(own, ["-nocerts"]))).toBe("no certificate");
  expect(await faultOf(pkcs12(elliptic))).toBe("no key of RSA");
  expect(await faultOf(own.certificate)).toBe("no key");
  expect(await faultOf(own.certificate + encryptedKey("pkcs1"))).toBe("no key");
  expect(await faultOf(own.certificate + encryptedKey("pkcs8"))).toBe("no key");
  expect(await faultOf(own.key)).toBe("no certificate");
  expect(await faultOf(own.key + other.key + own.certificate)).toBe("several keys");
  expect(await faultOf(elliptic.key + elliptic.certificate)).toBe("no key of RSA");
  expect(await faultOf(own.key + other.certificate)).toBe("other key");
});

test("A damaged PKCS #12 file is a fault and never a defect, wherever the damage is", async () => {
  const file = pkcs12(own, ["-noiter", "-nomaciter"]);
  const known = rawOf(own.certificate);
  const spot = fc.integer({ min: 0, max: file.length - 1 });
  await fc.assert(
    fc.asyncProperty(spot, fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const damaged = file.map((byte, index) => (index === at ? byte ^ change : byte));
      const read = await Effect.runPromise(Effect.result(readCertificate(damaged)));
      if (read._tag === "Success") expect(rawOf(Redacted.value(read.success))).toBe(known);
    }),
    { numRuns: 200 },
  );
});
