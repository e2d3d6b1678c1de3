/** Certificates for servers and clients of tests, which last a day. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Certified {
  /** PEM. */
  readonly certificate: string;
  readonly key: string;
}

/** In a folder that is removed thereafter. */
const inFolder = <A>(act: (path: (name: string) => string) => A): A => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-certificate-"));
  try {
    return act((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
};

const openssl = (...words: readonly string[]): void => {
  const made = Bun.spawnSync(["openssl", ...words]);
  if (made.exitCode !== 0) throw new Error(made.stderr.toString());
};

const REQUEST = "req -x509 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1";
const RSA = ["-newkey", "rsa:2048"];
export const EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
/** The signature is RSASSA-PSS. */
export const PSS = [...RSA, "-sigopt", "rsa_padding_mode:pss"];

/** A certificate for 127.0.0.1 that is its own authority. */
export const selfSigned = (kind: readonly string[] = RSA): Certified =>
  inFolder((path) => {
    const [key, certificate] = [path("key"), path("crt")];
    openssl(...REQUEST.split(" "), ...kind, "-keyout", key, "-out", certificate);
    return { certificate: readFileSync(certificate, "utf8"), key: readFileSync(key, "utf8") };
  });

/** A PKCS #12 file without a password, as OpenSSL writes it with these options. */
export const pkcs12 = (own: Certified, options: readonly string[] = [], chain: readonly string[] = []): Uint8Array =>
  inFolder((path) => {
    writeFileSync(path("in"), own.key + own.certificate + chain.join(""));
    openssl("pkcs12", "-export", "-passout", "pass:", "-in", path("in"), "-out", path("out"), ...options);
    return readFileSync(path("out"));
  });
