/**
 * The chart's controller, as processes of this machine: each has the program, the arguments and the environment of its
 * container in the Deployment, and the rights of the Deployment's service account.
 *
 * Not in pods, because the node is emulated: there the driver takes two minutes to start (./controller-pods.ts).
 *
 * 1. Instead of a pod's folders they are told a kubeconfig, the socket's folder, the one of config.json and the one of
 *    credentials.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import type { ControlPlane } from "../rig/kubernetes/control-plane.ts";
import { endProcess, startProcess } from "../rig/kubernetes/processes.ts";
import { sidecarFolder } from "../rig/kubernetes/sidecars.ts";
import { NAMESPACE } from "./objects.ts";

const Deployment = z.object({
  metadata: z.object({ name: z.string() }),
  spec: z.object({
    template: z.object({
      spec: z.object({
        serviceAccountName: z.string(),
        containers: z.array(
          z.object({
            name: z.string(),
            args: z.array(z.string()),
            volumeMounts: z.array(z.object({ name: z.string(), mountPath: z.string() })),
          }),
        ),
        volumes: z.array(z.object({ name: z.string(), secret: z.object({ secretName: z.string() }).optional() })),
      }),
    }),
  }),
});
type Deployment = z.infer<typeof Deployment>;

const PLUGIN = "csi-rbdplugin";

/** What the chart's fields of the pod are here. */
const variables = (pod: string): Readonly<Record<string, string>> => ({
  NODE_ID: "controller",
  POD_NAME: pod,
  POD_NAMESPACE: NAMESPACE,
  // the sidecars' name for it
  NAMESPACE,
  CEPH_CONF: "",
  CEPH_ARGS: "",
});

const expand = (text: string, env: Readonly<Record<string, string>>): string =>
  text.replaceAll(/\$\((\w+)\)/g, (reference, name: string) => env[name] ?? reference);

export interface ControllerFiles {
  readonly dir: string;
  /** The driver. */
  readonly program: string;
}

export interface ControllerOptions extends ControllerFiles {
  readonly plane: ControlPlane;
  /** Name of the Deployment. */
  readonly deployment: string;
}

export interface Controller {
  /** Returns once it is ready. */
  readonly rolledOut: () => Promise<void>;
  /** Starts it anew, as the Deployment is now. */
  readonly restart: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

const read = async ({ plane, deployment }: ControllerOptions): Promise<Deployment> =>
  Deployment.parse(JSON.parse(await plane.kubectl(["get", deployment, "-n", NAMESPACE, "-o", "json"])));

const writeConfig = async ({ dir, plane }: ControllerOptions): Promise<string> => {
  const folder = join(dir, "config");
  mkdirSync(folder, { recursive: true });
  const what = ["configmap/ceph-csi-config", "-o", String.raw`jsonpath={.data.config\.json}`];
  writeFileSync(join(folder, "config.json"), await plane.kubectl(["get", "-n", NAMESPACE, ...what]));
  return folder;
};

const Secret = z.object({ data: z.record(z.string(), z.base64()) });

/** Writes the Secrets that the driver's container mounts, each into a folder that has the name of the one in the pod. */
const writeSecrets = async (
  { dir, plane }: ControllerOptions,
  { containers, volumes }: Deployment["spec"]["template"]["spec"],
): Promise<string> => {
  const folder = join(dir, "secrets");
  for (const { name, mountPath } of containers.find((each) => each.name === PLUGIN)?.volumeMounts ?? []) {
    const secret = volumes.find((volume) => volume.name === name)?.secret;
    if (secret === undefined) continue;
    const into = join(folder, basename(mountPath));
    mkdirSync(into, { recursive: true, mode: 0o700 });
    const found = await plane.kubectl(["get", "secret", secret.secretName, "-n", NAMESPACE, "-o", "json"]);
    for (const [key, value] of Object.entries(Secret.parse(JSON.parse(found)).data)) {
      writeFileSync(join(into, key), Buffer.from(value, "base64"), { mode: 0o600 });
    }
  }
  return folder;
};

const start = async (options: ControllerOptions): Promise<ReadonlyArray<string>> => {
  const { dir, plane, program } = options;
  const { metadata, spec } = await read(options);
  const { serviceAccountName, containers } = spec.template.spec;
  const sidecars = await sidecarFolder();
  const env = variables(`${metadata.name}-0`);
  const access = `--kubeconfig=${await plane.serviceAccountKubeconfig(NAMESPACE, serviceAccountName)}`;
  const config = await writeConfig(options);
  const folders = [`--config-dir=${config}`, `--secrets-dir=${await writeSecrets(options, spec.template.spec)}`];
  for (const { name, args } of containers) {
    const given = args.map((arg) => expand(arg, env).replace("unix:///csi/", `unix://${dir}/`));
    const command =
      name === PLUGIN
        ? [program, ...given, access, ...folders, `--ceph-conf=${join(dir, "no-ceph.conf")}`]
        : [join(sidecars, name), ...given, access, `--leader-election-namespace=${NAMESPACE}`];
    startProcess(dir, name, command, { env });
  }
  return containers.map(({ name }) => name);
};

export const startController = async (options: ControllerOptions): Promise<Controller> => {
  mkdirSync(options.dir, { recursive: true });
  let running = await start(options);
  const stop = async (): Promise<void> => {
    for (const name of running) await endProcess(options.dir, name);
    running = [];
  };
  return {
    // who asks before it answers asks again
    rolledOut: () => Promise.resolve(),
    restart: async () => {
      // as a pod that is replaced
      for (const name of running) await endProcess(options.dir, name, "SIGTERM", 30_000);
      running = await start(options);
    },
    stop,
  };
};
