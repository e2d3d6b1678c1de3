/**
 * PyKMIP, a KMIP server of its own makers, with one client certificate that it accepts, and keys in it.
 *
 * Not here: the driver's client.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeAuthority, makeCertificate } from "../rig/kubernetes/certificates.ts";
import { must } from "../rig/place.ts";
import { pythonPackages } from "../rig/python.ts";
import { freePort, untilListening } from "./listening.ts";

const PACKAGES = ["pykmip==0.11.0"];

const SERVER = `
import sys
from kmip.services.server.server import KmipServer
folder, port = sys.argv[1:]
server = KmipServer(hostname="127.0.0.1", port=int(port), certificate_path=folder + "/server.crt",
  key_path=folder + "/server.key", ca_path=folder + "/ca.crt", auth_suite="TLS1.2", config_path=None,
  log_path=folder + "/server.log", policy_path=folder + "/policy", enable_tls_client_auth=True,
  logging_level="DEBUG", database_path=folder + "/kmip.db")
with server: server.serve()
`;

/** Registers AES keys, given in hex, and prints their IDs. A key after "-" stays inactive. */
const REGISTER = `
import json, sys
from kmip import enums
from kmip.pie.client import ProxyKmipClient
from kmip.pie.objects import SymmetricKey
folder, port, *keys = sys.argv[1:]
masks = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
ids = []
with ProxyKmipClient(hostname="127.0.0.1", port=int(port), cert=folder + "/client.crt", key=folder + "/client.key",
    ca=folder + "/ca.crt", kmip_version=enums.KMIPVersion.KMIP_1_4) as client:
  for key in keys:
    material = bytes.fromhex(key.lstrip("-"))
    id = client.register(SymmetricKey(enums.CryptographicAlgorithm.AES, len(material) * 8, material, masks=masks))
    if not key.startswith("-"): client.activate(id)
    ids.append(id)
print(json.dumps(ids))
`;

export interface PyKmip {
  readonly address: string;
  /** The text of a file: `ca.crt`, `client.crt`, `client.key`, the same of `stranger`, whom it does not know. */
  readonly file: (name: string) => string;
  readonly register: (...keys: readonly string[]) => Promise<readonly string[]>;
  /** What the server has written into its log. */
  readonly log: () => string;
  readonly stop: () => Promise<void>;
}

export const startPyKmip = async (): Promise<PyKmip> => {
  const env = { PYTHONPATH: await pythonPackages(PACKAGES), PYTHONWARNINGS: "ignore" };
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-kmip-"));
  mkdirSync(join(folder, "policy"));
  await makeAuthority(folder);
  await makeCertificate(folder, "server", "/CN=kmip", "IP:127.0.0.1,DNS:kmip.example.com");
  await makeCertificate(folder, "client", "/CN=csi-rbd", "", "extendedKeyUsage=clientAuth\n");
  const other = join(folder, "other");
  mkdirSync(other);
  await makeAuthority(other);
  await makeCertificate(other, "stranger", "/CN=csi-rbd", "", "extendedKeyUsage=clientAuth\n");
  const port = freePort();
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", "python3", "-c", SERVER, folder, String(port)], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  await untilListening(child, port);
  return {
    address: `127.0.0.1:${port}`,
    file: (name) => readFileSync(join(folder, name), "utf8"),
    register: async (...keys) =>
      JSON.parse(await must({ env }, ["python3", "-c", REGISTER, folder, String(port), ...keys])) as readonly string[],
    log: () => readFileSync(join(folder, "server.log"), "utf8"),
    stop: async () => {
      child.kill("SIGKILL");
      await child.exited;
      rmSync(folder, { recursive: true });
    },
  };
};
