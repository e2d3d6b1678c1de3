/** Certificates for servers and clients of tests, which last a day. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Certified {
  /** PEM. */
  readonly certificate: string;
  readonly key: string;
}

/** A certificate for 127.0.0.1 that is its own authority. */
export const selfSigned = (): Certified => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-certificate-"));
  const [key, certificate] = [join(folder, "key"), join(folder, "crt")];
  const words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1";
  try {
    const made = Bun.spawnSync(["openssl", ...words.split(" "), "-keyout", key, "-out", certificate]);
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
    return { certificate: readFileSync(certificate, "utf8"), key: readFileSync(key, "utf8") };
  } finally {
    rmSync(folder, { recursive: true });
  }
};
