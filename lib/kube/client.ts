/**
 * Reads single objects of the Kubernetes API from inside a pod, with its service account.
 *
 * Not here: watches, writes and lists.
 *
 * 1. The token is read anew for each request, because kubelet renews it on disk. It appears in no error.
 * 2. No request waits longer than its limit.
 */
import { readFile } from "node:fs/promises";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";

export class KubeFailed extends Data.TaggedError("KubeFailed")<{ readonly path: string; readonly reason: string }> {
  override get message() {
    return `cannot read ${this.path} from the Kubernetes API: ${this.reason}`;
  }
}

export interface KubeAccess {
  /** `https://host:port`. */
  readonly url: string;
  /** The folder of `token` and `ca.crt`. */
  readonly account: string;
}

const LIMIT_MS = 10_000;
const ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount";

/** How this pod reaches the API; `undefined`: this process does not run in a pod. */
export const kubeAccess = (env: Readonly<Record<string, string | undefined>>): KubeAccess | undefined => {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = "443" } = env;
  if (host === undefined || host === "") return undefined;
  return { url: `https://${host.includes(":") ? `[${host}]` : host}:${port}`, account: ACCOUNT_FOLDER };
};

/** -> the object's JSON, unchecked. */
export const getObject = ({ url, account }: KubeAccess, path: string): Effect.Effect<unknown, KubeFailed> =>
  Effect.tryPromise({
    try: async (signal) => {
      const [token, ca] = await Promise.all(["token", "ca.crt"].map((name) => readFile(`${account}/${name}`, "utf8")));
      const response = await fetch(url + path, {
        headers: { authorization: `Bearer ${token?.trim()}`, accept: "application/json" },
        tls: { ca: ca ?? "" },
        signal: AbortSignal.any([signal, AbortSignal.timeout(LIMIT_MS)]),
      });
      if (response.ok) return await response.json();
      const hint = response.status === 403 ? '. Grant the service account the verb "get" for it' : "";
      throw new Error(`HTTP ${response.status}${hint}`);
    },
    catch: (error) => new KubeFailed({ path, reason: error instanceof Error ? error.message : String(error) }),
  });
