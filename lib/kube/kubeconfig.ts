/**
 * How this process reaches the Kubernetes API: by its pod's service account, or by a kubeconfig.
 *
 * Not here: requests (./request.ts).
 *
 * 1. Files with a token, a certificate or an authority are read again, because they are renewed on disk.
 * 2. What a kubeconfig asks for and this client does not have is an error that names it, never left out silently.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import * as Effect from "effect/Effect";
import * as z from "zod";
import { isObject } from "../text/go-json.ts";
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

/** Variables that name a kubeconfig in place of the flag, the first one first. */
export type KubeconfigVariable = "KUBERNETES_CONFIG_PATH" | "KUBECONFIG";

/** Chooses the file that the flag names, or else the first variable that is set, or else the pod's account. */
export const kubeAccess = (
  kubeconfig: string,
  env: Env,
  variables: readonly KubeconfigVariable[] = [],
): Effect.Effect<KubeAccess, KubeAccessWrong> => {
  const source = sourceOf(kubeconfig, env, variables);
  if (source !== undefined) return readKubeconfig(source);
  const access = podAccess(env);
  const places = ["--kubeconfig", ...variables].join(" or ");
  const message = `this process does not run in a pod: name a file with ${places}`;
  return access === undefined ? Effect.fail(new KubeAccessWrong({ message })) : Effect.succeed(access);
};

/** Where a kubeconfig is, and who says so. */
interface Source {
  readonly said: string;
  /** Of several files each adds what those before it lack, and one that does not exist adds nothing. */
  readonly paths: readonly [string, ...string[]];
}

const sourceOf = (kubeconfig: string, env: Env, variables: readonly KubeconfigVariable[]): Source | undefined => {
  if (kubeconfig !== "") return { said: `--kubeconfig=${kubeconfig}`, paths: [kubeconfig] };
  const variable = variables.find((each) => env[each]);
  const value = variable === undefined ? undefined : env[variable];
  if (value === undefined) return undefined;
  const [first, ...others] = variable === "KUBECONFIG" ? value.split(":").filter((path) => path !== "") : [value];
  return first === undefined ? undefined : { said: `${variable}=${value}`, paths: [first, ...others] };
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

const text = z.string().optional();
const clusterShape = z.object({
  server: z.string().default(""),
  "certificate-authority": text,
  "certificate-authority-data": text,
  "insecure-skip-tls-verify": z.boolean().optional(),
  "tls-server-name": text,
  "proxy-url": text,
});
const userShape = z.looseObject({
  token: text,
  tokenFile: text,
  "client-certificate": text,
  "client-certificate-data": text,
  "client-key": text,
  "client-key-data": text,
});
const contextShape = z.object({ cluster: z.string().default(""), user: text, namespace: text });
type Cluster = z.infer<typeof clusterShape>;
type User = z.infer<typeof userShape>;

/** Go does not tell a field that is null or empty from one that is absent. */
const isEmpty = (value: unknown): boolean =>
  value === null || value === "" || (typeof value === "object" && Object.keys(value).length === 0);
const filledIn = (value: unknown): unknown =>
  isObject(value) ? Object.fromEntries(Object.entries(value).filter(([, each]) => !isEmpty(each))) : value;
const fields = <S extends z.ZodType>(shape: S) => z.preprocess((value) => filledIn(value ?? {}), shape);

const listed = <S extends z.ZodType>(entry: S) => z.preprocess((value) => value ?? [], z.array(entry));
const name = z.string();
const kubeconfigShape = z.preprocess(
  filledIn,
  z.object({
    "current-context": z.string().default(""),
    clusters: listed(z.object({ name, cluster: fields(clusterShape) })),
    users: listed(z.object({ name, user: fields(userShape) })),
    contexts: listed(z.object({ name, context: fields(contextShape) })),
  }),
);

/** Fields of a user or a cluster that would change who this client is, or how it gets there. */
const UNSUPPORTED = ["exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra"];

/** Fields of a cluster and of a user that name a file, perhaps beside the kubeconfig. */
const FILES = ["certificate-authority", "client-certificate", "client-key", "tokenFile"];
const besideFile = <F extends object>(path: string, fields: F): F => {
  const entries = Object.entries(fields).map(([field, value]): [string, unknown] => [
    field,
    FILES.includes(field) ? resolve(dirname(path), String(value)) : value,
  ]);
  return { ...fields, ...Object.fromEntries(entries) };
};

const readFileOf = (said: string, path: string) =>
  Effect.gen(function* () {
    const content = yield* readText(path);
    const parsed = kubeconfigShape.safeParse(yaml(content));
    if (parsed.success) {
      const { clusters, users, contexts, "current-context": current } = parsed.data;
      return {
        current,
        clusters: clusters.map((each) => ({ ...each, cluster: besideFile(path, each.cluster) })),
        users: users.map((each) => ({ ...each, user: besideFile(path, each.user) })),
        contexts,
      };
    }
    const issue = parsed.error.issues[0];
    const message = `it is not a kubeconfig: ${issue?.path.join(".")}: ${issue?.message}`;
    return yield* new KubeAccessWrong({ message });
  }).pipe(Effect.mapError(({ message }) => new KubeAccessWrong({ message: `${said}: ${message}` })));

const readKubeconfig = ({ said, paths }: Source): Effect.Effect<KubeAccess, KubeAccessWrong> =>
  Effect.gen(function* () {
    const wrong = (what: string) => Effect.fail(new KubeAccessWrong({ message: `${said}: ${what}` }));
    const there = paths.filter((path) => existsSync(path));
    const files = yield* Effect.forEach(there.length === 0 ? [paths[0]] : there, (path) => readFileOf(said, path));
    const current = files.find((file) => file.current !== "")?.current;
    if (current === undefined) return yield* wrong("it has no current-context");
    const context = files.flatMap(({ contexts }) => contexts).find((each) => each.name === current)?.context;
    if (context === undefined) return yield* wrong(`it has no context "${current}", which is its current one`);
    const cluster = files.flatMap(({ clusters }) => clusters).find((each) => each.name === context.cluster)?.cluster;
    if (cluster === undefined) return yield* wrong(`it has no cluster "${context.cluster}", which its context names`);
    const user = files.flatMap(({ users }) => users).find((each) => each.name === context.user)?.user ?? {};
    const unsupported = UNSUPPORTED.find((field) => field in user);
    if (unsupported !== undefined) {
      return yield* wrong(`this driver does not have "${unsupported}" of a user: use a token, or a client certificate`);
    }
    if (cluster["proxy-url"] !== undefined) return yield* wrong('this driver does not have "proxy-url" of a cluster');
    if (cluster.server === "") return yield* wrong(`its cluster "${context.cluster}" has no server`);
    return {
      url: urlOf(cluster, user),
      credentials: credentialsOf(cluster, user),
      namespace: Effect.succeed(context.namespace ?? "default"),
    };
  });

/** As client-go, it takes a server without a scheme for one with TLS if there is anything to do with TLS. */
const urlOf = (cluster: Cluster, user: User): string => {
  const server = cluster.server.replace(/\/+$/, "");
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(server)) return server;
  const hasTls =
    cluster["insecure-skip-tls-verify"] === true ||
    [cluster["certificate-authority"], cluster["certificate-authority-data"]].some((each) => each !== undefined) ||
    [user["client-certificate"], user["client-certificate-data"]].some((each) => each !== undefined);
  return `${hasTls ? "https" : "http"}://${server}`;
};

/** Its parser's own error would show a part of the text, which holds secrets. */
const yaml = (content: string): unknown => {
  try {
    return Bun.YAML.parse(content);
  } catch {
    return undefined;
  }
};

const credentialsOf = (cluster: Cluster, user: User): Effect.Effect<Credentials, KubeAccessWrong> => {
  const either = (data: string | undefined, file: string | undefined) => {
    if (data !== undefined) return Effect.succeed(Buffer.from(data, "base64").toString("utf8"));
    return file === undefined ? Effect.succeed(undefined) : readText(file);
  };
  return Effect.gen(function* () {
    const ca = yield* either(cluster["certificate-authority-data"], cluster["certificate-authority"]);
    const cert = yield* either(user["client-certificate-data"], user["client-certificate"]);
    const key = yield* either(user["client-key-data"], user["client-key"]);
    const token = yield* tokenOf(user);
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

/** As in client-go, the file wins, because it is the one that somebody renews. The text does where it cannot be read. */
const tokenOf = ({ token, tokenFile }: User): Effect.Effect<string | undefined, KubeAccessWrong> => {
  if (tokenFile === undefined) return Effect.succeed(token);
  const inFile = readText(tokenFile);
  return token === undefined ? inFile : Effect.orElseSucceed(inFile, () => token);
};
