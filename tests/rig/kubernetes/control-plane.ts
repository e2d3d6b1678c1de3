/**
 * A real Kubernetes without nodes: etcd, API server, controller-manager and, where asked for, scheduler; ready in some
 * six seconds, 350 to 720 MiB of memory.
 *
 * Not here: a node (./node.ts). Who starts it passes its file on (CSI_RBD_KUBERNETES); whoever opens it can end and start
 * the API server, too.
 * Invariants:
 * 1. Everything it writes lives in `dir`; tokens and keys are readable by the owner alone.
 * 2. It listens on the rig's own loopback address, on ports that were free: two of them run side by side.
 * 3. Processes are ended by their pids on file (./processes.ts).
 *
 * By hand: bun tests/rig/kubernetes/control-plane.ts up DIR | down DIR
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { clusterAddress } from "../address.ts";
import { freePort } from "../ceph.ts";
import { must } from "../place.ts";
import { canUnpack, unpacked } from "../unpacked.ts";
import { makeAuthority, makeCertificate, makeTokenKey } from "./certificates.ts";
import { endProcess, startProcess, whenReady } from "./processes.ts";
import { kubeLacks, kubeProgram } from "./program.ts";

export interface ControlPlaneOptions {
  /** Folder for all its files; made where missing, must not hold one yet. */
  readonly dir: string;
  /** Pods need it; attaching and claims do not. */
  readonly scheduler?: boolean;
  /** Users besides admin (who may do all) and the node node1, each with a token and the groups that it is in. */
  readonly users?: Readonly<Record<string, ReadonlyArray<string>>>;
  /** Further flags of the API server and of the controller-manager. */
  readonly apiServerFlags?: ReadonlyArray<string>;
  readonly managerFlags?: ReadonlyArray<string>;
  /** Port of clusterAddress at which the node's kubelet is reached, for `kubectl logs` and `kubectl exec`. */
  readonly kubeletPort?: number;
  /** It outlives this process. */
  readonly detached?: boolean;
}

/** What is on file, for whoever opens it. */
const Facts = z.object({
  dir: z.string(),
  /** Path of the program of ./program.ts. */
  program: z.string(),
  url: z.string(),
  etcdUrl: z.string(),
  detached: z.boolean(),
  commands: z.record(z.string(), z.array(z.string())),
});
type Facts = z.infer<typeof Facts>;

export interface ControlPlane {
  readonly dir: string;
  /** For whoever opens it: openControlPlane reads this file. */
  readonly file: string;
  /** https://ADDRESS:PORT */
  readonly url: string;
  /** The authority's certificate, as a file. */
  readonly caFile: string;
  /** kubeconfig of the admin, with a token; admin-certificate.kubeconfig beside it has a client certificate instead. */
  readonly kubeconfig: string;
  /** kubeconfig of a user that the options name, or of node1. */
  readonly kubeconfigOf: (user: string) => string;
  /** The token of such a user, or of admin. */
  readonly tokenOf: (user: string) => string;
  /** A new token of a service account that exists. */
  readonly serviceAccountToken: (namespace: string, name: string) => Promise<string>;
  /** Writes a kubeconfig with such a token, which lasts a day; -> its path. */
  readonly serviceAccountKubeconfig: (namespace: string, name: string) => Promise<string>;
  /** Runs kubectl as admin; rejects unless it exits with 0. `input` is its standard input, as for `apply -f -`. */
  readonly kubectl: (args: ReadonlyArray<string>, input?: string) => Promise<string>;
  /** Ends the API server: SIGKILL by default, as a machine that dies; SIGTERM lets it finish its requests. */
  readonly endApiServer: (signal?: "SIGTERM" | "SIGKILL") => Promise<void>;
  /** Starts it again, at the same address, and waits until it is ready. */
  readonly startApiServer: () => Promise<void>;
  /** The same for the controller-manager, which nobody waits for. */
  readonly endManager: () => Promise<void>;
  readonly startManager: () => void;
  /**
   * Makes etcd forget every revision but the newest. An API server that runs still has recent events in memory: only one
   * that starts afterwards, or has --watch-cache=false, answers a watch from an older revision with "expired" (410).
   */
  readonly compact: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

/** Why there can be none here; undefined where there can. */
export const controlPlaneLacks = (): string | undefined => {
  if (!canUnpack("etcd-server")) return "no etcd, and no apt-get and dpkg to fetch Debian's with";
  if (Bun.which("openssl") === null) return "no openssl";
  return kubeLacks();
};

const NAMES = ["scheduler", "controller-manager", "apiserver", "egress", "etcd"];
const tokenFile = (dir: string): string => join(dir, "tokens.csv");
const kubeconfigFile = (dir: string, user: string): string => join(dir, `${user}.kubeconfig`);

const writeKubeconfig = (dir: string, file: string, server: string, user: Readonly<Record<string, string>>): void => {
  const authority = readFileSync(join(dir, "ca.crt")).toString("base64");
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "rig", cluster: { server, "certificate-authority-data": authority } }],
    users: [{ name: "user", user }],
    contexts: [{ name: "rig", context: { cluster: "rig", user: "user" } }],
    "current-context": "rig",
  };
  writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
};

/** Tokens, and a kubeconfig for each. */
const writeUsers = (dir: string, url: string, more: NonNullable<ControlPlaneOptions["users"]>): void => {
  const users = { admin: ["system:masters"], node1: ["system:nodes"], ...more };
  const lines = Object.entries(users).map(([name, groups]) => {
    const token = crypto.randomUUID();
    writeKubeconfig(dir, kubeconfigFile(dir, name), url, { token });
    const user = name === "node1" ? "system:node:node1" : name;
    return `${token},${user},${name},"${groups.join(",")}"\n`;
  });
  writeFileSync(tokenFile(dir), lines.join(""), { mode: 0o600 });
  writeKubeconfig(dir, kubeconfigFile(dir, "admin-certificate"), url, {
    "client-certificate-data": readFileSync(join(dir, "admin.crt")).toString("base64"),
    "client-key-data": readFileSync(join(dir, "admin.key")).toString("base64"),
  });
};

const tokenOf = (dir: string, name: string): string => {
  const line = readFileSync(tokenFile(dir), "utf8")
    .split("\n")
    .find((each) => each.split(",")[2] === name);
  if (line === undefined) throw new Error(`no user ${name}: name it when the control plane is started`);
  return line.split(",")[0] ?? "";
};

const writeEgress = (dir: string): string => {
  const file = join(dir, "egress.json");
  const uds = { udsName: join(dir, "egress.sock") };
  const connection = { proxyProtocol: "HTTPConnect", transport: { uds } };
  const egressSelections = [{ name: "cluster", connection }];
  const kind = "EgressSelectorConfiguration";
  writeFileSync(file, JSON.stringify({ apiVersion: "apiserver.k8s.io/v1beta1", kind, egressSelections }));
  return file;
};

const apiServerCommand = (program: string, etcdUrl: string, port: number, options: ControlPlaneOptions) => [
  program,
  "apiserver",
  `--etcd-servers=${etcdUrl}`,
  `--bind-address=${clusterAddress}`,
  `--advertise-address=${clusterAddress}`,
  `--secure-port=${port}`,
  "--tls-cert-file=apiserver.crt",
  "--tls-private-key-file=apiserver.key",
  "--client-ca-file=ca.crt",
  "--token-auth-file=tokens.csv",
  "--authorization-mode=Node,RBAC",
  "--service-account-issuer=https://kubernetes.default.svc",
  "--service-account-signing-key-file=sa.key",
  "--service-account-key-file=sa.key",
  "--service-cluster-ip-range=10.96.0.0/16",
  // a Service has no endpoint on a loopback address
  "--endpoint-reconciler-type=none",
  "--allow-privileged=true",
  "--kubelet-preferred-address-types=InternalIP",
  ...(options.kubeletPort === undefined ? [] : [`--egress-selector-config-file=${writeEgress(options.dir)}`]),
  ...(options.apiServerFlags ?? []),
];

const commandsOf = (
  program: string,
  etcd: string,
  [port, etcdPort, peerPort]: readonly [number, number, number],
  options: ControlPlaneOptions,
): Facts["commands"] => {
  const etcdUrl = `http://${clusterAddress}:${etcdPort}`;
  const peerUrl = `http://${clusterAddress}:${peerPort}`;
  const own = [`--kubeconfig=${kubeconfigFile(options.dir, "admin")}`, "--leader-elect=false", "--secure-port=0"];
  const commands: Facts["commands"] = {
    etcd: [
      etcd,
      "--data-dir=etcd",
      `--listen-client-urls=${etcdUrl}`,
      `--advertise-client-urls=${etcdUrl}`,
      `--listen-peer-urls=${peerUrl}`,
      `--initial-advertise-peer-urls=${peerUrl}`,
      `--initial-cluster=default=${peerUrl}`,
    ],
    apiserver: apiServerCommand(program, etcdUrl, port, options),
    "controller-manager": [
      program,
      "controller-manager",
      ...own,
      "--service-account-private-key-file=sa.key",
      "--root-ca-file=ca.crt",
      ...(options.managerFlags ?? []),
    ],
  };
  if (options.scheduler === true) commands["scheduler"] = [program, "scheduler", ...own];
  if (options.kubeletPort !== undefined) {
    const egress = join(import.meta.dir, "egress.ts");
    const socket = join(options.dir, "egress.sock");
    commands["egress"] = [process.execPath, egress, socket, clusterAddress, String(options.kubeletPort)];
  }
  return commands;
};

const isReady = async ({ dir, url }: Facts): Promise<boolean> => {
  const ca = readFileSync(join(dir, "ca.crt"), "utf8");
  const headers = { authorization: `Bearer ${tokenOf(dir, "admin")}` };
  return fetch(`${url}/readyz`, { headers, tls: { ca } }).then(
    ({ ok }) => ok,
    () => false,
  );
};

const etcdAsk = async (etcdUrl: string, path: string, body: object): Promise<unknown> => {
  const answer = await fetch(`${etcdUrl}/v3/kv/${path}`, { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`etcd ${path}: ${await answer.text()}`);
  return answer.json();
};

const compact = async (etcdUrl: string): Promise<void> => {
  const key = btoa("\0");
  const found = await etcdAsk(etcdUrl, "range", { key, limit: 1 });
  const { revision } = z.object({ header: z.object({ revision: z.string() }) }).parse(found).header;
  await etcdAsk(etcdUrl, "compaction", { revision, physical: true });
};

/** Ends the control plane of a folder, whoever started it. */
export const stopControlPlane = async (dir: string): Promise<void> => {
  // nothing here is worth a clean shutdown
  for (const name of NAMES) await endProcess(resolve(dir), name);
};

const start = (facts: Facts, name: string): void => {
  const command = facts.commands[name];
  if (command !== undefined) startProcess(facts.dir, name, command, { detached: facts.detached });
};

const opened = (facts: Facts): ControlPlane => {
  const { dir } = facts;
  const kubeconfig = kubeconfigFile(dir, "admin");
  const kubectl = (args: ReadonlyArray<string>, input?: string): Promise<string> =>
    must({ env: { KUBECONFIG: kubeconfig } }, [facts.program, "kubectl", ...args], {
      timeoutMs: 10 * 60_000,
      ...(input === undefined ? {} : { input }),
    });
  return {
    dir,
    file: join(dir, "kubernetes.json"),
    url: facts.url,
    caFile: join(dir, "ca.crt"),
    kubeconfig,
    kubeconfigOf: (user) => kubeconfigFile(dir, user),
    tokenOf: (user) => tokenOf(dir, user),
    serviceAccountToken: async (namespace, name) => (await kubectl(["create", "token", "-n", namespace, name])).trim(),
    serviceAccountKubeconfig: async (namespace, name) => {
      const token = (await kubectl(["create", "token", "-n", namespace, name, "--duration=24h"])).trim();
      const file = kubeconfigFile(dir, `${namespace}.${name}`);
      writeKubeconfig(dir, file, facts.url, { token });
      return file;
    },
    kubectl,
    endApiServer: (signal = "SIGKILL") => endProcess(dir, "apiserver", signal),
    startApiServer: async () => {
      start(facts, "apiserver");
      await whenReady(dir, "apiserver", () => isReady(facts), 120_000);
    },
    endManager: () => endProcess(dir, "controller-manager"),
    startManager: () => start(facts, "controller-manager"),
    compact: () => compact(facts.etcdUrl),
    stop: () => stopControlPlane(dir),
  };
};

/** A control plane that runs, from its file: by default the one that CSI_RBD_KUBERNETES names. */
export const openControlPlane = (file = process.env["CSI_RBD_KUBERNETES"] ?? ""): ControlPlane => {
  if (file === "") {
    throw new Error(
      "no Kubernetes for this test: run `npm test -- apiserver`, or `bun tests/rig/kubernetes/control-plane.ts up DIR` " +
        "and set CSI_RBD_KUBERNETES=DIR/kubernetes.json",
    );
  }
  return opened(Facts.parse(JSON.parse(readFileSync(file, "utf8"))));
};

export const startControlPlane = async (given: ControlPlaneOptions): Promise<ControlPlane> => {
  const options = { ...given, dir: resolve(given.dir) };
  const { dir } = options;
  if (existsSync(join(dir, "kubernetes.json"))) throw new Error(`${dir} already holds a control plane`);
  const program = await kubeProgram();
  const etcd = join(await unpacked("etcd-server"), "usr/bin/etcd");
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const ports = [await freePort(), await freePort(), await freePort()] as const;
  const url = `https://${clusterAddress}:${ports[0]}`;
  await makeAuthority(dir);
  const names = `IP:${clusterAddress},IP:10.96.0.1,DNS:kubernetes.default,DNS:kubernetes.default.svc`;
  await makeCertificate(dir, "apiserver", "/CN=kube-apiserver", names);
  await makeCertificate(dir, "admin", "/O=system:masters/CN=admin");
  makeTokenKey(dir);
  writeUsers(dir, url, options.users ?? {});
  const commands = commandsOf(program, etcd, ports, options);
  const etcdUrl = `http://${clusterAddress}:${ports[1]}`;
  const facts: Facts = { dir, program, url, etcdUrl, detached: options.detached === true, commands };
  writeFileSync(join(dir, "kubernetes.json"), `${JSON.stringify(facts, null, 2)}\n`, { mode: 0o600 });
  const plane = opened(facts);
  try {
    start(facts, "etcd");
    start(facts, "egress");
    await plane.startApiServer();
    start(facts, "controller-manager");
    start(facts, "scheduler");
    return plane;
  } catch (error) {
    await plane.stop();
    throw error;
  }
};

const main = async (): Promise<void> => {
  const [verb, dir] = process.argv.slice(2);
  if (dir === undefined || (verb !== "up" && verb !== "down")) {
    throw new Error("usage: bun tests/rig/kubernetes/control-plane.ts up DIR | down DIR");
  }
  if (verb === "down") return stopControlPlane(dir);
  const started = Date.now();
  const plane = await startControlPlane({ dir, scheduler: true, detached: true });
  console.log(`Kubernetes without nodes is up in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  console.log(`KUBECONFIG=${plane.kubeconfig}\nCSI_RBD_KUBERNETES=${plane.file}`);
};

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  });
}
