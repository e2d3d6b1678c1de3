/**
 * The options of a KMIP server: its section of the configuration, and the Secret with the certificates.
 *
 * 1. Certificates and the key are read, and proven to belong together, before anything is asked.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { SecureVersion } from "node:tls";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KmsError } from "../errors.ts";
import type { Section, StoreContext } from "../key-store.ts";
import { readStoreSecret, type StoreSecret } from "../store-secret.ts";
import type { KmipEndpoint } from "./connection.ts";

type Secret = StoreSecret<"CA_CERT" | "CLIENT_CERT" | "CLIENT_KEY" | "UNIQUE_IDENTIFIER", never>;

export interface KmipSettings {
  /** `KMIP server host:port`. */
  readonly name: string;
  readonly endpoint: KmipEndpoint;
  readonly section: Section;
  readonly secret: Secret;
  readonly keyId: string;
  /** The server encrypts, and keeps its key to itself. */
  readonly serverEncrypts: boolean;
}

export const kmipSettings = Effect.fnUntraced(function* (
  context: StoreContext,
): Effect.fn.Return<KmipSettings, KmsError> {
  const { section } = context;
  const address = yield* addressOf(section);
  const serverName = (yield* section.optional("TLS_SERVER_NAME")) ?? "";
  const minVersion = yield* minVersionOf(section);
  const readLimit = yield* limitOf(section, "READ_TIMEOUT");
  const writeLimit = yield* limitOf(section, "WRITE_TIMEOUT");
  const serverEncrypts = (yield* section.bool("USE_CRYPTO_RPC")) ?? true;
  const secret: Secret = yield* readStoreSecret(context, {
    option: "KMIP_SECRET_NAME",
    byDefault: "ceph-csi-kmip-credentials",
    namespace: context.podNamespace,
    required: ["CA_CERT", "CLIENT_CERT", "CLIENT_KEY", "UNIQUE_IDENTIFIER"],
  });
  const { CA_CERT, CLIENT_CERT, CLIENT_KEY, UNIQUE_IDENTIFIER } = secret.texts;
  yield* checkCertificates(secret);
  const [authority, certificate] = [Redacted.value(CA_CERT), Redacted.value(CLIENT_CERT)];
  const tls = { serverName, minVersion, authority, certificate, key: CLIENT_KEY };
  return {
    name: `KMIP server ${address.text}`,
    endpoint: { ...address, ...tls, readLimit, writeLimit },
    section,
    secret,
    keyId: Redacted.value(UNIQUE_IDENTIFIER),
    serverEncrypts,
  };
});

const addressOf = Effect.fnUntraced(function* (section: Section) {
  const text = yield* section.required("KMIP_ENDPOINT");
  const { host6, host, port } =
    /^(?:\[(?<host6>[^\]]+)\]|(?<host>[^:\s/]*)):(?<port>\d{1,5})$/.exec(text)?.groups ?? {};
  const number = Number(port);
  if (number > 0 && number < 65_536) return { text, host: host6 ?? (host || "localhost"), port: number };
  return yield* section.wrong("KMIP_ENDPOINT", "is not an address: write HOST:PORT, such as kmip.example.com:5696");
});

const VERSIONS: Readonly<Record<string, SecureVersion>> = { "1.2": "TLSv1.2", "1.3": "TLSv1.3" };

const minVersionOf = Effect.fnUntraced(function* (section: Section) {
  const version = VERSIONS[(yield* section.optional("TLS_MIN_VERSION")) || "1.2"];
  return version ?? (yield* section.wrong("TLS_MIN_VERSION", 'is not a version: write "1.2" or "1.3"'));
});

const DEFAULT_LIMIT_S = 10;
/** ceph-csi takes 0 for no limit, and -1 for 255; here nothing waits for longer than this. */
const LONGEST_LIMIT_S = 120;

const limitOf = Effect.fnUntraced(function* (section: Section, key: string) {
  const seconds = Math.trunc((yield* section.number(key)) ?? DEFAULT_LIMIT_S);
  return Duration.seconds(seconds > 0 ? Math.min(seconds, LONGEST_LIMIT_S) : LONGEST_LIMIT_S);
});

/** The texts of the Secret are what their names say. The engine's own words are left out: they could show a key. */
const checkCertificates = (secret: Secret): Effect.Effect<void, KmsError> => {
  const parsed = <A>(key: keyof Secret["texts"], what: string, parse: (text: string) => A) =>
    Effect.try({
      try: () => parse(Redacted.value(secret.texts[key])),
      catch: () => secret.wrong(key, `is not ${what} in PEM: correct it`),
    });
  return Effect.gen(function* () {
    yield* parsed("CA_CERT", "a certificate", (text) => new X509Certificate(text));
    const certificate = yield* parsed("CLIENT_CERT", "a certificate", (text) => new X509Certificate(text));
    const key = yield* parsed("CLIENT_KEY", "a private key without a password", createPrivateKey);
    if (!certificate.checkPrivateKey(key)) {
      return yield* secret.wrong("CLIENT_KEY", "is not the key of the certificate in CLIENT_CERT: write both anew");
    }
  });
};
