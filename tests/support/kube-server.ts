/**
 * The Kubernetes API in memory (./kube-memory.ts) over real HTTPS: what lib/kube's client meets on the wire.
 *
 * Not here: what the API does with a request.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JsonOperation, WatchEvent } from "../../lib/kube/kube.ts";
import { selfSigned } from "./certificates.ts";
import { KubeMemory, Refused } from "./kube-memory.ts";

export interface KubeServer {
  readonly url: string;
  readonly memory: KubeMemory;
  /** `ca.crt`, `token` and `namespace`, as kubelet mounts them, and the key of the authority. */
  readonly folder: string;
  /** Requests as they arrived: `GET /path?query`. */
  readonly requests: string[];
  /** Answers the next request in place of the API. */
  readonly answerNext: (answer: () => Response) => void;
  /** Ends the watches that are open, after this text. */
  readonly cutWatches: (lastWords: string) => void;
  readonly watches: () => number;
  readonly stop: () => Promise<void>;
}

export const TOKEN = "a-token-that-no-error-shows";

/** Writes a kubeconfig for a user of the server into the folder; -> its path. */
export const kubeconfigFor = ({ url, folder }: Pick<KubeServer, "url" | "folder">, into: string): string => {
  const file = join(into, "kubeconfig");
  const cluster = { server: url, "certificate-authority": join(folder, "ca.crt") };
  writeFileSync(
    file,
    JSON.stringify({
      "current-context": "c",
      clusters: [{ name: "c", cluster }],
      users: [{ name: "u", user: { token: TOKEN } }],
      contexts: [{ name: "c", context: { cluster: "c", user: "u", namespace: "storage" } }],
    }),
  );
  return file;
};

const certificates = (folder: string): void => {
  const { certificate, key } = selfSigned();
  writeFileSync(join(folder, "ca.key"), key);
  writeFileSync(join(folder, "ca.crt"), certificate);
};

export const kubeServer = (memory = new KubeMemory()): KubeServer => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-kube-"));
  certificates(folder);
  writeFileSync(join(folder, "token"), `${TOKEN}\n`);
  writeFileSync(join(folder, "namespace"), "storage\n");
  const requests: string[] = [];
  const answers: (() => Response)[] = [];
  const watches = new Set<ReadableStreamDefaultController<string>>();
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    tls: { key: readFileSync(join(folder, "ca.key")), cert: readFileSync(join(folder, "ca.crt")) },
    fetch: async (request) => {
      const { pathname, search } = new URL(request.url);
      requests.push(`${request.method} ${pathname}${search}`);
      const answer = answers.shift();
      if (answer !== undefined) return answer();
      const token = readFileSync(join(folder, "token"), "utf8").trim();
      if (request.headers.get("authorization") !== `Bearer ${token}`)
        return status(401, "Unauthorized", "Unauthorized");
      try {
        return await answered(memory, request, watches);
      } catch (error) {
        if (error instanceof Refused) return status(error.status, error.reason, error.message);
        throw error;
      }
    },
  });
  return {
    url: `https://127.0.0.1:${server.port}`,
    memory,
    folder,
    requests,
    answerNext: (answer) => void answers.push(answer),
    cutWatches: (lastWords) => {
      for (const watch of watches) {
        if (lastWords !== "") watch.enqueue(lastWords);
        watch.close();
      }
      watches.clear();
    },
    watches: () => watches.size,
    stop: async () => {
      await server.stop(true);
      rmSync(folder, { recursive: true });
    },
  };
};

const statusObject = (code: number, reason: string, message: string) => ({
  kind: "Status",
  apiVersion: "v1",
  status: "Failure",
  code,
  reason,
  message,
});

export const status = (code: number, reason: string, message: string, headers: Record<string, string> = {}): Response =>
  Response.json(statusObject(code, reason, message), { status: code, headers });

const answered = async (
  memory: KubeMemory,
  request: Request,
  watches: Set<ReadableStreamDefaultController<string>>,
): Promise<Response> => {
  const { pathname: path, searchParams: query } = new URL(request.url);
  const type = request.headers.get("content-type");
  if (request.method === "POST") return Response.json(memory.create(path, (await request.json()) as object));
  if (request.method === "PUT") return Response.json(memory.update(path, (await request.json()) as object));
  if (request.method === "PATCH") {
    const body: unknown = await request.json();
    if (type === "application/merge-patch+json") return Response.json(memory.merge(path, body as object));
    if (type === "application/json-patch+json") return Response.json(memory.patch(path, body as JsonOperation[]));
    throw new Refused(415, "UnsupportedMediaType", `no patch of type ${type}`);
  }
  if (query.get("watch") === "true") return watched(memory, path, query.get("resourceVersion") ?? "", watches);
  if (!query.has("limit")) return Response.json(memory.get(path));
  const { items, resourceVersion, next } = memory.page(path, Number(query.get("limit")), query.get("continue") ?? "");
  return Response.json({ metadata: { resourceVersion, ...(next !== "" && { continue: next }) }, items });
};

const watched = (
  memory: KubeMemory,
  path: string,
  version: string,
  watches: Set<ReadableStreamDefaultController<string>>,
): Response => {
  let stop: () => void = () => undefined;
  const early: WatchEvent[] = [];
  let send = (event: WatchEvent): void => void early.push(event);
  // Refuses before the head of the answer is sent.
  stop = memory.watch(path, version, (event) => send(event));
  let mine: ReadableStreamDefaultController<string> | undefined;
  const body = new ReadableStream<string>({
    start: (controller) => {
      mine = controller;
      watches.add(controller);
      send = (event) => {
        if (watches.has(controller)) controller.enqueue(`${JSON.stringify(event)}\n`);
      };
      for (const event of early) send(event);
      // A head alone is not sent until the body begins.
      controller.enqueue("\n");
    },
    cancel: () => {
      stop();
      if (mine !== undefined) watches.delete(mine);
    },
  });
  return new Response(body, { headers: { "content-type": "application/json" } });
};
