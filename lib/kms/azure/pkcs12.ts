/**
 * Reads a PKCS #12 file (PFX, RFC 7292) that has no password: its certificates and its private keys.
 *
 * The ciphers, the derivation of keys and the ASN.1 are node-forge's, which has the old algorithms (3DES and 40 bits of RC2
 * under SHA-1) that Azure's portal and Windows write, and those of OpenSSL 3 (PBES2). The walk through the file is here:
 * node-forge's own decodes certificates and encodes them anew, which changes a few of them (those signed with RSASSA-PSS),
 * and Entra ID knows a certificate by the hash of its bytes.
 *
 * node-forge is loaded when a file needs it, as the clients are (./client.ts).
 *
 * Not here: which certificate belongs to which key (./certificate.ts).
 *
 * 1. Nothing is decrypted before the MAC of the file is verified, so a damaged file is found before.
 * 2. A file that asks for more rounds than MOST_ROUNDS is refused: the derivation holds up everything else.
 * 3. No error has a part of the file.
 */
import * as Effect from "effect/Effect";
import type * as forge from "node-forge";

/** What node-forge has, and its published types leave out. */
declare module "node-forge" {
  namespace pki {
    namespace pbe {
      function getCipher(
        oid: string,
        parameters: asn1.Asn1,
        password: string | null,
      ): { update(input: util.ByteBuffer): void; finish(): boolean; readonly output: util.ByteBuffer };
    }
  }
}

type Forge = typeof forge;
type Node = forge.asn1.Asn1;

export type Pkcs12Fault =
  /** Not PKCS #12, or cut off. */
  | "unreadable"
  /** It has a password, or is damaged: the MAC tells no more. */
  | "protected"
  | "algorithm"
  | "rounds";

/** Certificates and private keys, as DER. */
export interface CertificateFile {
  readonly certificates: readonly Uint8Array[];
  readonly keys: readonly Uint8Array[];
}

export const readPkcs12 = (bytes: Uint8Array): Effect.Effect<CertificateFile, Pkcs12Fault> =>
  Effect.tryPromise({
    try: async () => fileIn(await import("node-forge"), Buffer.from(bytes).toString("latin1")),
    catch: (error) => (error instanceof Fault ? error.fault : "unreadable"),
  });

/** As thousands take 10 ms: OpenSSL and Windows write 2048 and 2000, Java's keytool 10,000. */
const MOST_ROUNDS = 100_000;

class Fault extends Error {
  constructor(readonly fault: Pkcs12Fault) {
    super(fault);
  }
}

const fail = (fault: Pkcs12Fault): never => {
  throw new Fault(fault);
};

const OID = {
  data: "1.2.840.113549.1.7.1",
  encryptedData: "1.2.840.113549.1.7.6",
  x509Certificate: "1.2.840.113549.1.9.22.1",
  keyBag: "1.2.840.113549.1.12.10.1.1",
  shroudedKeyBag: "1.2.840.113549.1.12.10.1.2",
  certificateBag: "1.2.840.113549.1.12.10.1.3",
  pbes2: "1.2.840.113549.1.5.13",
} as const;

interface Digest {
  readonly bytes: number;
  readonly of: (loaded: Forge) => forge.md.MessageDigest;
}

const DIGESTS: Readonly<Record<string, Digest>> = {
  "1.3.14.3.2.26": { bytes: 20, of: (forge) => forge.md.sha1.create() },
  "2.16.840.1.101.3.4.2.1": { bytes: 32, of: (forge) => forge.md.sha256.create() },
  "2.16.840.1.101.3.4.2.2": { bytes: 48, of: (forge) => forge.md.sha384.create() },
  "2.16.840.1.101.3.4.2.3": { bytes: 64, of: (forge) => forge.md.sha512.create() },
};

/** No password is the empty text, which ends in two zero bytes, or, as some programs write it, nothing at all. */
const NO_PASSWORD = ["", null] as const;
type NoPassword = (typeof NO_PASSWORD)[number];

const fileIn = (forge: Forge, bytes: string): CertificateFile => {
  const [, authenticated, mac] = partsOf(forge.asn1.fromDer(bytes));
  const [type, content] = contentOf(forge, authenticated);
  if (type !== OID.data) return fail("algorithm");
  const text = octetsOf(content);
  const password = NO_PASSWORD.find((each) => isAuthentic(forge, mac, text, each));
  if (password === undefined) return fail("protected");
  const bags = partsOf(forge.asn1.fromDer(text)).flatMap((part) => bagsIn(forge, part, password));
  return {
    certificates: bags.flatMap((bag) => certificateIn(forge, bag)),
    keys: bags.flatMap((bag) => keyIn(forge, bag, password)),
  };
};

/** ContentInfo: its type, and what it holds. */
const contentOf = (forge: Forge, info: Node | undefined): readonly [type: string, content: Node | undefined] => {
  const [type, content] = partsOf(info);
  return [oidOf(forge, type), partsOf(content)[0]];
};

/** Whether the MAC is that of the text under this password. */
const isAuthentic = (forge: Forge, mac: Node | undefined, text: string, password: NoPassword): boolean => {
  if (mac === undefined) return fail("algorithm");
  const [info, salt, rounds] = partsOf(mac);
  const [algorithm, expected] = partsOf(info);
  const digest = DIGESTS[oidOf(forge, partsOf(algorithm)[0])] ?? fail("algorithm");
  const count = rounds === undefined ? 1 : roundsOf(rounds);
  const saltBytes = forge.util.createBuffer(octetsOf(salt));
  const key = forge.pkcs12.generateKey(password, saltBytes, MAC_KEY, count, digest.bytes, digest.of(forge));
  const hmac = forge.hmac.create();
  hmac.start(digest.of(forge), key);
  hmac.update(text);
  return hmac.getMac().getBytes() === octetsOf(expected);
};

/** Purpose of a derived key, RFC 7292 B.3. */
const MAC_KEY = 3;

const bagsIn = (forge: Forge, part: Node, password: NoPassword): readonly Node[] => {
  const [type, content] = contentOf(forge, part);
  if (type === OID.data) return partsOf(forge.asn1.fromDer(octetsOf(content)));
  if (type !== OID.encryptedData) return fail("algorithm");
  const [, algorithm, encrypted] = partsOf(partsOf(content)[1]);
  return partsOf(forge.asn1.fromDer(decrypted(forge, algorithm, octetsOf(encrypted), password)));
};

const decrypted = (forge: Forge, algorithm: Node | undefined, bytes: string, password: NoPassword): string => {
  const cipher = cipherOf(forge, algorithm, password);
  cipher.update(forge.util.createBuffer(bytes));
  return cipher.finish() ? cipher.output.getBytes() : fail("protected");
};

const cipherOf = (forge: Forge, algorithm: Node | undefined, password: NoPassword) => {
  const [id, parameters] = partsOf(algorithm);
  if (parameters === undefined) return fail("algorithm");
  const oid = oidOf(forge, id);
  const derivation = oid === OID.pbes2 ? partsOf(partsOf(parameters)[0])[1] : parameters;
  roundsOf(partsOf(derivation)[1]);
  try {
    return forge.pki.pbe.getCipher(oid, parameters, password);
  } catch {
    return fail("algorithm");
  }
};

/** A bag of another kind, or with a certificate that is not X.509, is passed over. */
const certificateIn = (forge: Forge, bag: Node): readonly Uint8Array[] => {
  const [type, content] = contentOf(forge, bag);
  if (type !== OID.certificateBag) return [];
  const [kind, certificate] = contentOf(forge, content);
  return kind === OID.x509Certificate ? [bytesOf(octetsOf(certificate))] : [];
};

const keyIn = (forge: Forge, bag: Node, password: NoPassword): readonly Uint8Array[] => {
  const [type, content] = contentOf(forge, bag);
  if (content === undefined) return [];
  if (type === OID.keyBag) return [bytesOf(forge.asn1.toDer(content).getBytes())];
  if (type !== OID.shroudedKeyBag) return [];
  const [algorithm, encrypted] = partsOf(content);
  return [bytesOf(decrypted(forge, algorithm, octetsOf(encrypted), password))];
};

/** Of a structure; there are none in a value. */
const partsOf = (node: Node | undefined): readonly Node[] => {
  if (node === undefined || !Array.isArray(node.value)) return fail("unreadable");
  return node.value;
};

/** Some programs write the octets in pieces. */
const octetsOf = (node: Node | undefined): string => {
  if (node === undefined) return fail("unreadable");
  return Array.isArray(node.value) ? node.value.map(octetsOf).join("") : node.value;
};

const oidOf = (forge: Forge, node: Node | undefined): string => forge.asn1.derToOid(octetsOf(node));

const roundsOf = (node: Node | undefined): number => {
  const rounds = Number.parseInt(Buffer.from(octetsOf(node), "latin1").toString("hex"), 16);
  if (!(rounds >= 1)) return fail("unreadable");
  return rounds <= MOST_ROUNDS ? rounds : fail("rounds");
};

const bytesOf = (text: string): Uint8Array => Buffer.from(text, "latin1");
