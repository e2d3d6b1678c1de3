/**
 * The keys and certificates of a Kubernetes: one authority, the API server's certificate, and those of users.
 *
 * All of them last a month: no cluster of the rig lives longer.
 */
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { must } from "../place.ts";

const request = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"];

/** Makes ca.crt and ca.key. */
export const makeAuthority = async (dir: string): Promise<void> => {
  await must({ cwd: dir }, [
    ...request,
    "-x509",
    "-days",
    "30",
    "-subj",
    "/CN=rig",
    "-keyout",
    "ca.key",
    "-out",
    "ca.crt",
  ]);
};

/** Makes NAME.crt and NAME.key, signed by the folder's authority. `more`: further extensions, one a line. */
export const makeCertificate = async (
  dir: string,
  name: string,
  subject: string,
  altNames = "",
  more = "",
): Promise<void> => {
  await must({ cwd: dir }, [...request, "-subj", subject, "-keyout", `${name}.key`, "-out", `${name}.csr`]);
  writeFileSync(`${dir}/${name}.ext`, `${altNames === "" ? "" : `subjectAltName=${altNames}\n`}${more}`);
  await must({ cwd: dir }, [
    ..."openssl x509 -req -days 30 -CA ca.crt -CAkey ca.key".split(" "),
    "-set_serial",
    `0x${crypto.randomUUID().replaceAll("-", "").slice(0, 15)}`,
    "-in",
    `${name}.csr`,
    "-out",
    `${name}.crt`,
    "-extfile",
    `${name}.ext`,
  ]);
};

/** Makes sa.key: what the tokens of service accounts are signed with. */
export const makeTokenKey = (dir: string): void => {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(`${dir}/sa.key`, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
};
