/**
 * A server that answers as Vault does, as far as the driver asks: the Kubernetes login, `sys/mounts`, and the
 * secrets engines KV 1 and 2 with check-and-set, versions, deletion and destruction, and namespaces, in the path or in
 * the header. Its answers are those of OpenBao 2.7.2, with which the same stores are tested (tests/kms/vault.test.ts).
 *
 * Not here: what else Vault is: policies are lists of paths, tokens do not expire, nothing is sealed.
 */

interface Version {
  secret: unknown;
  deleted: boolean;
}

export interface VaultRequest {
  readonly method: string;
  readonly path: string;
  readonly namespace: string;
  readonly token: string;
  readonly body: unknown;
}

export interface VaultOptions {
  /** By their path, namespace included: `secret`, `ns/secret`. */
  readonly mounts?: Readonly<Record<string, 1 | 2>>;
  /** What a token may reach, by the beginnings of paths; `undefined` in a login: any role is refused. */
  readonly tokens?: Readonly<Record<string, readonly string[]>>;
  /** By `mount role jwt`, the token that a login gives. */
  readonly logins?: Readonly<Record<string, string>>;
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca?: string; readonly requestCert?: boolean };
}

export interface VaultServerMemory {
  readonly url: string;
  readonly requests: VaultRequest[];
  /** The secrets by the path under which they are read, the newest version of each. */
  readonly secrets: () => Readonly<Record<string, unknown>>;
  /** Writes a secret as another client would. */
  readonly seed: (path: string, secret: unknown) => void;
  readonly answerNext: (answer: () => Response) => void;
  readonly stop: () => Promise<void>;
}

const errors = (status: number, ...texts: readonly string[]) => Response.json({ errors: texts }, { status });

export const vaultServer = (options: VaultOptions = {}): VaultServerMemory => {
  const { mounts = { secret: 2 }, tokens = { root: [""] }, logins = {} } = options;
  const kept = new Map<string, Version[]>();
  const requests: VaultRequest[] = [];
  let next: (() => Response) | undefined;

  const mountOf = (path: string) => Object.keys(mounts).find((mount) => path.startsWith(`${mount}/`));

  const v1 = ({ method, path, body }: VaultRequest): Response => {
    const there = kept.get(path)?.at(-1);
    if (method === "GET") return there === undefined ? errors(404) : Response.json({ data: there.secret });
    if (method === "DELETE") kept.delete(path);
    else kept.set(path, [{ secret: body, deleted: false }]);
    return new Response(null, { status: 204 });
  };

  const v2 = ({ method, path, body }: VaultRequest, mount: string): Response => {
    const [part = "", ...rest] = path.slice(mount.length + 1).split("/");
    const name = `${mount}/data/${rest.join("/")}`;
    const versions = kept.get(name) ?? [];
    const last = versions.at(-1);
    const metadata = {
      version: versions.length,
      destroyed: false,
      deletion_time: last?.deleted ? "2026-01-01T00:00:00Z" : "",
    };
    if (part === "metadata" && method === "DELETE") {
      kept.delete(name);
      return new Response(null, { status: 204 });
    }
    if (part !== "data") return errors(404, "no handler for route");
    if (method === "GET") {
      if (last === undefined) return errors(404);
      if (last.deleted) return Response.json({ data: { data: null, metadata } }, { status: 404 });
      return Response.json({ data: { data: last.secret, metadata } });
    }
    if (method === "DELETE") {
      if (last !== undefined) last.deleted = true;
      return new Response(null, { status: 204 });
    }
    const { data, options: given } = body as { readonly data?: unknown; readonly options?: { readonly cas?: number } };
    if (data === undefined) return errors(400, "no data provided");
    if (given?.cas !== undefined && given.cas !== versions.length) {
      return errors(400, "check-and-set parameter did not match the current version");
    }
    kept.set(name, [...versions, { secret: data, deleted: false }]);
    return Response.json({ data: { version: versions.length + 1 } });
  };

  const login = ({ path, body, namespace }: VaultRequest): Response => {
    const { jwt, role } = body as { readonly jwt: string; readonly role: string };
    const mount = path.slice("auth/".length, -"/login".length);
    if (!Object.keys(logins).some((each) => each.split(" ")[0] === mount)) return errors(403, "permission denied");
    const token = logins[`${mount} ${role} ${jwt}`];
    if (token !== undefined)
      return Response.json({ auth: { client_token: namespace === "" ? token : `${token}@${namespace}` } });
    const hasRole = Object.keys(logins).some((each) => each.startsWith(`${mount} ${role} `));
    return hasRole ? errors(403, "permission denied") : errors(400, `invalid role name "${role}"`);
  };

  const answer = (request: VaultRequest): Response => {
    const path = request.namespace === "" ? request.path : `${request.namespace}/${request.path}`;
    if (/^auth\/.+\/login$/.test(request.path)) return login(request);
    const [name = "", within = ""] = request.token.split("@");
    const reaches = tokens[name];
    if (reaches === undefined) return errors(403, "permission denied", "invalid token");
    if (!reaches.some((beginning) => path.startsWith(beginning)))
      return errors(403, "1 error occurred:\n\t* permission denied\n\n");
    if (within !== "" && !path.startsWith(`${within}/`)) return errors(403, "permission denied");
    if (request.path === "sys/mounts") {
      const beginning = request.namespace === "" ? "" : `${request.namespace}/`;
      const own = Object.entries(mounts).filter(([mount]) => mount.startsWith(beginning));
      const list = own.map(([mount, version]) => [
        `${mount.slice(beginning.length)}/`,
        { type: "kv", options: version === 2 ? { version: "2" } : null },
      ]);
      return Response.json({ ...Object.fromEntries(list), data: Object.fromEntries(list) });
    }
    const mount = mountOf(path);
    if (mount === undefined) return errors(404, `no handler for route "${path}". route entry not found.`);
    return mounts[mount] === 2 ? v2({ ...request, path }, mount) : v1({ ...request, path });
  };

  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    ...(options.tls && { tls: options.tls }),
    fetch: async (request) => {
      const text = await request.text();
      const asked: VaultRequest = {
        method: request.method,
        path: decodeURIComponent(new URL(request.url).pathname.replace(/^\/v1\//, "")),
        namespace: request.headers.get("x-vault-namespace") ?? "",
        token: request.headers.get("x-vault-token") ?? "",
        body: text === "" ? undefined : JSON.parse(text),
      };
      requests.push(asked);
      const first = next;
      next = undefined;
      return first?.() ?? answer(asked);
    },
  });

  return {
    url: `${options.tls ? "https" : "http"}://127.0.0.1:${server.port}`,
    requests,
    secrets: () =>
      Object.fromEntries(
        [...kept].flatMap(([path, versions]) => {
          const last = versions.at(-1);
          return last === undefined || last.deleted ? [] : [[path, last.secret]];
        }),
      ),
    seed: (path, secret) => void kept.set(path, [...(kept.get(path) ?? []), { secret, deleted: false }]),
    answerNext: (make) => void (next = make),
    stop: () => server.stop(true),
  };
};
