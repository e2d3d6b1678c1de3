/**
 * How this process reaches the Kubernetes API: by its pod's service account, or by a kubeconfig.
 *
 * Not here: requests (./request.ts).
 *
 * 1. Files with a token, a certificate or an authority are read again, because they are renewed on disk.
 * 2. What a kubeconfig asks for and this client does not have is an error that names it, never left out silently.
 */
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import * as Effect from "effect/Effect";
import * as z from "zod";
import { KubeAccessWrong } from "./errors.ts";

/** For one request. */
export interface Credentials {
  readonly token: string | undefined;
  readonly tls: {
    readonly ca?: string;
    readonly cert?: string;
    readonly key?: string;
    readonly serverName?: string;
    readonly rejectUnauthorized?: false;
  };
}

export interface KubeAccess {
  /** `https://host:port`, perhaps with a path. */
  readonly url: string;
  /** Read at each use, from files that may have changed. */
  readonly credentials: Effect.Effect<Credentials, KubeAccessWrong>;
  /** The namespace of the pod, or of the kubeconfig's context. */
  readonly namespace: Effect.Effect<string>;
}

export const ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount";

type Env = Readonly<Record<string, string | undefined>>;

/** Chooses the file if a path is given, else the pod's account. */
export const kubeAccess = (kubeconfig: string, env: Env): Effect.Effect<KubeAccess, KubeAccessWrong> => {
  if (kubeconfig !== "") return readKubeconfig(kubeconfig);
  const access = podAccess(env);
  const message = "this process does not run in a pod: name a file with --kubeconfig";
  return access === undefined ? Effect.fail(new KubeAccessWrong({ message })) : Effect.succeed(access);
};

/** `undefined`: this process does not run in a pod. */
export const podAccess = (env: Env, folder = ACCOUNT_FOLDER): KubeAccess | undefined => {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = "443" } = env;
  if (host === undefined || host === "") return undefined;
  return accountAccess(`https://${host.includes(":") ? `[${host}]` : host}:${port}`, folder);
};

/** By the service account in that folder. */
export const accountAccess = (url: string, folder: string): KubeAccess => ({
  url,
  credentials: Effect.map(
    Effect.all([readText(`${folder}/token`), readText(`${folder}/ca.crt`)]),
    ([token, ca]): Credentials => ({ token: token.trim(), tls: { ca } }),
  ),
  namespace: readText(`${folder}/namespace`).pipe(
    Effect.map((text) => text.trim()),
    Effect.orElseSucceed(() => "default"),
  ),
});

const readText = (path: string): Effect.Effect<string, KubeAccessWrong> =>
  Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: (error) => new KubeAccessWrong({ message: `cannot read ${path}: ${errnoOf(error)}` }),
  });

const errnoOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : "unknown error";

/** Files are named as they are, or beside the kubeconfig. */
const text = z.string().optional();
const clusterShape = z.object({
  server: z.string(),
  "certificate-authority": text,
  "certificate-authority-data": text,
  "insecure-skip-tls-verify": z.boolean().optional(),
  "tls-server-name": text,
  "proxy-url": text,
});
const userShape = z.object({
  token: text,
  tokenFile: text,
  "client-certificate": text,
  "client-certificate-data": text,
  "client-key": text,
  "client-key-data": text,
});
const named = <K extends string, S extends z.ZodType>(key: K, shape: S) =>
  z.array(z.object({ name: z.string(), [key]: shape } as { name: z.ZodString } & Record<K, S>)).default([]);

const kubeconfigShape = z.object({
  "current-context": z.string(),
  clusters: named("cluster", clusterShape),
  users: named("user", z.looseObject(userShape.shape).nullish()),
  contexts: named("context", z.object({ cluster: z.string(), user: text, namespace: text })),
});

/** Fields of a user or a cluster that would change who this client is, or how it gets there. */
const UNSUPPORTED = ["exec", "auth-provider", "username", "password", "as"];

const readKubeconfig = (path: string): Effect.Effect<KubeAccess, KubeAccessWrong> =>
  Effect.gen(function* () {
    const wrong = (what: string) => Effect.fail(new KubeAccessWrong({ message: `--kubeconfig=${path}: ${what}` }));
    const content = yield* readText(path);
    const parsed = kubeconfigShape.safeParse(yaml(content));
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      return yield* wrong(`it is not a kubeconfig: ${issue?.path.join(".")}: ${issue?.message}`);
    }
    const { clusters, users, contexts, "current-context": current } = parsed.data;
    const context = contexts.find(({ name }) => name === current)?.context;
    if (context === undefined) return yield* wrong(`it has no context "${current}", which is its current one`);
    const cluster = clusters.find(({ name }) => name === context.cluster)?.cluster;
    if (cluster === undefined) return yield* wrong(`it has no cluster "${context.cluster}", which its context names`);
    const user = users.find(({ name }) => name === context.user)?.user ?? {};
    const unsupported = UNSUPPORTED.find((field) => field in user);
    if (unsupported !== undefined) {
      return yield* wrong(`this driver does not have "${unsupported}" of a user: use a token, or a client certificate`);
    }
    if (cluster["proxy-url"] !== undefined) return yield* wrong('this driver does not have "proxy-url" of a cluster');
    return {
      url: cluster.server.replace(/\/+$/, ""),
      credentials: credentialsOf(dirname(path), cluster, user),
      namespace: Effect.succeed(context.namespace ?? "default"),
    };
  });

/** Its parser's own error would show a part of the text, which holds secrets. */
const yaml = (content: string): unknown => {
  try {
    return Bun.YAML.parse(content);
  } catch {
    return undefined;
  }
};

const credentialsOf = (
  folder: string,
  cluster: z.infer<typeof clusterShape>,
  user: z.infer<typeof userShape>,
): Effect.Effect<Credentials, KubeAccessWrong> => {
  const either = (data: string | undefined, file: string | undefined) => {
    if (data !== undefined) return Effect.succeed(Buffer.from(data, "base64").toString("utf8"));
    return file === undefined ? Effect.succeed(undefined) : readText(resolve(folder, file));
  };
  return Effect.gen(function* () {
    const ca = yield* either(cluster["certificate-authority-data"], cluster["certificate-authority"]);
    const cert = yield* either(user["client-certificate-data"], user["client-certificate"]);
    const key = yield* either(user["client-key-data"], user["client-key"]);
    // As in client-go, the file wins: it is the one that somebody renews.
    const token = user.tokenFile === undefined ? user.token : yield* readText(resolve(folder, user.tokenFile));
    const serverName = cluster["tls-server-name"];
    return {
      token: token?.trim(),
      tls: {
        ...(ca !== undefined && { ca }),
        ...(cert !== undefined && { cert }),
        ...(key !== undefined && { key }),
        ...(serverName !== undefined && { serverName }),
        ...(cluster["insecure-skip-tls-verify"] === true && { rejectUnauthorized: false as const }),
      },
    };
  });
};
