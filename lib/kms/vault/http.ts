/**
 * Requests to a Vault server, by Bun's `fetch`.
 *
 * Own code: Vault's clients for Node bring an HTTP library of their own, to which Bun's certificates do not reach, and
 * six requests are all that is asked (./kv.ts, ./login.ts).
 *
 * 1. A request waits no longer than LIMIT.
 * 2. No token, key or body of a request is in an error. Of an answer, only Vault's own "errors" are.
 * 3. A request goes with its token to the server that is configured, and to the one to which that sends it.
 * 4. Denied, refused and out of reach are told apart: only the last may have taken effect.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { jsonOf } from "../../text/json.ts";
import { oneLine } from "../../text/printable.ts";
import { within } from "../client-calls.ts";
import { KmsConfigInvalid, KmsDenied, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";

const LIMIT = Duration.seconds(30);
const MESSAGE_CHARACTERS = 300;

/** How a server is reached. PEM texts. */
export interface VaultServer {
  /** `https://host:port`, without a slash at its end. */
  readonly address: string;
  readonly tls: {
    readonly ca?: string;
    readonly cert?: string;
    readonly key?: string;
    readonly serverName?: string;
    readonly rejectUnauthorized?: boolean;
  };
  /** The configuration that names it, for errors about certificates. */
  readonly section: { readonly place: string; readonly kmsId: string };
}

export interface VaultCall {
  readonly method: "GET" | "PUT" | "DELETE";
  /** Behind `/v1/`, unescaped. */
  readonly path: string;
  readonly token?: Redacted.Redacted;
  /** For the header; "" for none. */
  readonly namespace?: string;
  readonly body?: object;
  /** What to change where the server refuses the credential. */
  readonly remedy: string;
}

export interface VaultAnswer {
  /** 2xx, 400 or 404: what each means is the caller's to know. */
  readonly status: number;
  readonly body: unknown;
  readonly errors: string;
}

export const serverName = ({ address }: VaultServer): string => `Vault ${address}`;

export const ask = (server: VaultServer, call: VaultCall): Effect.Effect<VaultAnswer, KmsError> =>
  Effect.tryPromise({
    try: async (signal): Promise<VaultAnswer> => {
      const asked = new URL(`${server.address}/v1/${escaped(call.path)}`);
      const init = {
        method: call.method,
        headers: {
          accept: "application/json",
          "user-agent": "csi-rbd",
          "x-vault-request": "true",
          ...(call.token && { "x-vault-token": Redacted.value(call.token) }),
          ...(call.namespace && { "x-vault-namespace": call.namespace }),
        },
        ...(call.body && { body: JSON.stringify(call.body) }),
        tls: server.tls,
        signal,
        redirect: "manual",
      } as RequestInit;
      const first = await fetch(asked.href, init);
      const active = redirected(asked, first);
      const response = active === undefined ? first : await fetch(active.href, init);
      const body = jsonOf(await response.text());
      return { status: response.status, body, errors: errorsIn(body) };
    },
    catch: (error) => failure(server, error),
  }).pipe(
    within(LIMIT, serverName(server)),
    Effect.flatMap((answer) => explained(server, call, answer)),
  );

/** A server that stands by sends to the active one. As Vault's own client: once, and not from HTTPS to HTTP. */
const redirected = (asked: URL, { status, headers }: Response): URL | undefined => {
  const location = headers.get("location");
  if (![301, 302, 307].includes(status) || location === null) return undefined;
  const to = URL.parse(location, asked.href);
  if (to === null || !/^https?:$/.test(to.protocol)) return undefined;
  return asked.protocol === "https:" && to.protocol === "http:" ? undefined : to;
};

const escaped = (path: string): string =>
  path
    .split("/")
    .filter((part) => part !== "")
    .map(encodeURIComponent)
    .join("/");

const errorsShape = z.object({ errors: z.array(z.string()) });

/** Vault's own words, which name policies and paths, never a secret. */
const errorsIn = (body: unknown): string =>
  (errorsShape.safeParse(body).data?.errors ?? [])
    .join("; ")
    .replaceAll(/\s+/g, " ")
    .trim()
    .slice(0, MESSAGE_CHARACTERS);

const unreachable = (server: VaultServer, reason: string) => new KmsUnreachable({ store: serverName(server), reason });

/** Of OpenSSL and Bun: the certificate of the other side, or ours, is at fault; nothing was sent. */
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO|LEAF_SIGNATURE|ALTNAME|SSL|TLS|PEM/i;

const failure = (server: VaultServer, error: unknown): KmsError => {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const reason = `${error instanceof Error ? error.message : String(error)}${code === "" ? "" : ` (${code})`}`;
  if (!CERTIFICATE.test(code)) return unreachable(server, oneLine(reason, MESSAGE_CHARACTERS));
  const { place, kmsId } = server.section;
  return new KmsConfigInvalid({
    place,
    section: kmsId,
    key: "vaultCAFromSecret",
    reason: `${serverName(server)} is not trusted: ${oneLine(reason, MESSAGE_CHARACTERS)}. Name the certificate authority that signed its certificate, and a vaultTLSServerName that the certificate has`,
  });
};

/** What Vault answers itself. */
const vaultShape = z.union([errorsShape, z.object({ data: z.unknown() })]);

/** A standby that lags behind the active server (412), one of replication (472, 473), a limit of requests (429). */
const PASSING: readonly number[] = [412, 429, 472, 473];

const explained = (
  server: VaultServer,
  { method, path, remedy }: VaultCall,
  answer: VaultAnswer,
): Effect.Effect<VaultAnswer, KmsError> => {
  const { status, errors, body } = answer;
  // A proxy, an ingress without its backend: nothing of it says that there is no key.
  if (status === 404 && !vaultShape.safeParse(body).success) {
    return Effect.fail(unreachable(server, `${method} ${path}: HTTP status 404, and not by Vault`));
  }
  if ((status >= 200 && status < 300) || status === 400 || status === 404) return Effect.succeed(answer);
  const reason = `${method} ${path}: ${errors || `HTTP status ${status}`}`;
  const store = serverName(server);
  if (status === 401 || status === 403) return Effect.fail(new KmsDenied({ store, reason, remedy }));
  if (PASSING.includes(status) || status >= 500) return Effect.fail(unreachable(server, reason));
  return Effect.fail(new KmsRefused({ store, reason, remedy: "Check the address, and what runs there" }));
};

/** The error for a status 400, which says what is wrong with the request. */
export const refusedAs = (
  server: VaultServer,
  { path }: VaultCall,
  { errors }: VaultAnswer,
  remedy: string,
): KmsError => new KmsRefused({ store: serverName(server), reason: `${path}: ${errors || "HTTP status 400"}`, remedy });
