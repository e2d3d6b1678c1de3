/**
 * A server that is true to the HTTP API of Microsoft Entra ID (OAuth client credentials by a certificate) and of Azure Key
 * Vault (secrets, 7.5), as far as they are documented: it knows a certificate by its thumbprint, verifies the signature of
 * the assertion, challenges a request without a token, and keeps deleted secrets until they are purged.
 */
import { constants, createHash, verify, X509Certificate } from "node:crypto";
import type { Certified } from "./certificates.ts";

export const TENANT = "11111111-2222-3333-4444-555555555555";
export const CLIENT = "99999999-8888-7777-6666-555555555555";
export const TOKEN = "a-token-that-nothing-shows";

export interface AzureServer {
  readonly url: string;
  readonly requests: string[];
  readonly secrets: Map<string, string>;
  readonly deleted: Set<string>;
  /** Whether the application may use the vault. */
  permits: boolean;
  /** Answers the next request in place of the service. */
  next: (() => Response | Promise<Response>) | undefined;
  readonly stop: () => void;
}

const entraError = (code: string, text: string, status: number) =>
  Response.json(
    {
      error: "invalid_client",
      error_description: `${code}: ${text} Trace ID: 1`,
      error_codes: [Number(code.slice(6))],
    },
    { status },
  );
const vaultError = (status: number, code: string, message: string) =>
  Response.json({ error: { code, message } }, { status });

/** Whether the assertion names the application's certificate, and its key signed it. */
const isSigned = (assertion: string, certificate: string): boolean => {
  const [head = "", body = "", signature = ""] = assertion.split(".");
  const header = JSON.parse(Buffer.from(head, "base64url").toString()) as Readonly<Record<string, string>>;
  const { raw, publicKey: key } = new X509Certificate(certificate);
  const thumbprint = (hash: string) => createHash(hash).update(raw).digest("base64url");
  if (header["x5t#S256"] !== thumbprint("sha256") && header["x5t"] !== thumbprint("sha1")) return false;
  const padding = header["alg"] === "PS256" ? constants.RSA_PKCS1_PSS_PADDING : constants.RSA_PKCS1_PADDING;
  return verify("sha256", Buffer.from(`${head}.${body}`), { key, padding }, Buffer.from(signature, "base64url"));
};

export const azureServer = (own: Certified, application: string): AzureServer => {
  const entra = async (request: Request, tenant: string) => {
    if (tenant !== TENANT) {
      return Response.json(
        { error: "invalid_tenant", error_description: `AADSTS90002: Tenant '${tenant}' not found.` },
        { status: 400 },
      );
    }
    if (request.method === "GET") {
      const base = `${state.url}/${tenant}`;
      return Response.json({
        issuer: `${base}/v2.0`,
        authorization_endpoint: `${base}/oauth2/v2.0/authorize`,
        token_endpoint: `${base}/oauth2/v2.0/token`,
        jwks_uri: `${base}/discovery/v2.0/keys`,
      });
    }
    const form = new URLSearchParams(await request.text());
    if (form.get("client_id") !== CLIENT)
      return entraError("AADSTS700016", "Application was not found in the directory.", 400);
    if (!isSigned(form.get("client_assertion") ?? "", application)) {
      return entraError("AADSTS700027", "The certificate with this thumbprint is not registered.", 401);
    }
    return Response.json({ token_type: "Bearer", expires_in: 3600, ext_expires_in: 3600, access_token: TOKEN });
  };
  const vault = async (request: Request, name: string) => {
    if (request.headers.get("authorization") !== `Bearer ${TOKEN}`) {
      const challenge = `Bearer authorization="${state.url}/${TENANT}", resource="https://vault.azure.net"`;
      return new Response("", { status: 401, headers: { "www-authenticate": challenge } });
    }
    if (!state.permits) return vaultError(403, "Forbidden", "Caller is not authorized to perform action on resource.");
    if (!/^[\dA-Za-z-]{1,127}$/.test(name))
      return vaultError(400, "BadParameter", "The request URI contains an invalid name");
    const id = `${state.url}/secrets/${name}/1`;
    if (request.method === "PUT") {
      if (state.deleted.has(name))
        return vaultError(409, "Conflict", `Secret ${name} is currently in a deleted but recoverable state`);
      const { value } = (await request.json()) as { value: string };
      state.secrets.set(name, value);
      return Response.json({ value, id, attributes: { enabled: true } });
    }
    const value = state.secrets.get(name);
    if (value === undefined) return vaultError(404, "SecretNotFound", `A secret with (name/id) ${name} was not found`);
    if (request.method === "DELETE") {
      state.secrets.delete(name);
      state.deleted.add(name);
      return Response.json({ id, recoveryId: `${state.url}/deletedsecrets/${name}`, attributes: { enabled: true } });
    }
    return Response.json({ value, id, attributes: { enabled: true } });
  };
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    tls: { key: own.key, cert: own.certificate },
    fetch: async (request) => {
      const { pathname, searchParams } = new URL(request.url);
      const version = searchParams.get("api-version");
      state.requests.push(`${request.method} ${pathname}${version === null ? "" : ` ${version}`}`);
      const { next } = state;
      state.next = undefined;
      if (next !== undefined) return next();
      const [, first = "", second = ""] = pathname.split("/");
      if (first === "deletedsecrets") {
        return state.deleted.has(second)
          ? Response.json({ id: `${state.url}/secrets/${second}/1`, attributes: { enabled: true } })
          : vaultError(404, "SecretNotFound", "Deleted secret not found");
      }
      return first === "secrets" ? vault(request, second) : entra(request, first);
    },
  });
  const state: AzureServer = {
    url: `https://127.0.0.1:${server.port}`,
    requests: [],
    secrets: new Map(),
    deleted: new Set(),
    permits: true,
    next: undefined,
    stop: () => void server.stop(true),
  };
  return state;
};
