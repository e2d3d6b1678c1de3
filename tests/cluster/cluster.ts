/**
 * A Kubernetes of one node with the driver on it, on a Ceph that runs: the control plane, the controller plugin and the
 * Kubernetes project's sidecars are processes of this machine, and only what needs a kernel (kubelet, containerd, the node
 * plugin) is in the virtual machine, which is slow.
 *
 * Not here: what is done with it (./steps.ts).
 *
 * 1. Everything that it starts ends with it, and with the process that started it.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Driver, startDriver } from "../ceph/driver.ts";
import { buildExecutable } from "../rig/build.ts";
import { freePort } from "../rig/ceph.ts";
import { rig } from "../rig/cluster.ts";
import { type ControlPlane, startControlPlane } from "../rig/kubernetes/control-plane.ts";
import { type ClusterNode, NODE, nodeLacks, startNode } from "../rig/kubernetes/node.ts";
import { endProcess, startProcess } from "../rig/kubernetes/processes.ts";
import { sidecarFolder, sidecarsLack } from "../rig/kubernetes/sidecars.ts";
import { outputOf, run } from "../rig/place.ts";
import { OUT } from "../rig/vm.ts";
import { executable } from "../support/driver-command.ts";
import { CLUSTER_ID, DRIVER, driverObjects, type Fields, NAMESPACE, NODE_PLUGIN } from "./objects.ts";

/** Why there can be none here; undefined where there can. */
export const clusterLacks = (): string | undefined => sidecarsLack() ?? nodeLacks();

export interface Cluster {
  readonly plane: ControlPlane;
  readonly node: ClusterNode;
  readonly controller: () => Driver;
  /** As plane.kubectl, and rejects as soon as the node has ended. */
  readonly kubectl: (...args: ReadonlyArray<string>) => Promise<string>;
  readonly apply: (...objects: ReadonlyArray<Fields>) => Promise<void>;
  /** Waits for a condition, `condition=Ready` or `jsonpath={.status.phase}=Bound`, in the default namespace. */
  readonly until: (condition: string, ...objects: ReadonlyArray<string>) => Promise<void>;
  /** Runs a line of shell in a pod; -> what it wrote. */
  readonly inPod: (name: string, line: string) => Promise<string>;
  /** Runs a tool of Ceph as admin. */
  readonly ceph: (...command: ReadonlyArray<string>) => Promise<string>;
  readonly stop: () => Promise<void>;
}

/** The Ceph user that the driver is given, with the rights that README tells to grant. */
const makeUser = async (): Promise<Fields> => {
  const caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
  const userKey = await ceph("ceph", "auth", "get-or-create-key", "client.kubernetes", ...caps);
  return { userID: "kubernetes", userKey: userKey.trim() };
};

const ceph = async (...command: ReadonlyArray<string>): Promise<string> =>
  outputOf(command, await run({ env: { CEPH_CONF: rig().conf } }, command));

const writeConfig = (dir: string): void => {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "config.json"), JSON.stringify([{ clusterID: CLUSTER_ID, monitors: rig().monitors }]));
};

const SIDECARS: Readonly<Record<string, ReadonlyArray<string>>> = {
  "csi-provisioner": [
    "--extra-create-metadata",
    "--timeout=150s",
    "--retry-interval-start=500ms",
    "--default-fstype=ext4",
    "--immediate-topology=false",
  ],
  "csi-resizer": ["--timeout=150s"],
  "csi-snapshotter": ["--extra-create-metadata", "--timeout=150s"],
};

const startSidecars = async (dir: string, plane: ControlPlane, socket: string): Promise<void> => {
  const programs = await sidecarFolder();
  await plane.kubectl(["apply", "-f", join(programs, "crd")]);
  const own = `--kubeconfig=${plane.kubeconfig}`;
  startProcess(dir, "snapshot-controller", [join(programs, "snapshot-controller"), own]);
  for (const [name, flags] of Object.entries(SIDECARS)) {
    startProcess(dir, name, [join(programs, name), own, `--csi-address=${socket}`, ...flags]);
  }
};

const stopSidecars = async (dir: string): Promise<void> => {
  for (const name of ["snapshot-controller", ...Object.keys(SIDECARS)]) await endProcess(dir, name);
};

/** The driver as an executable, which the node can start from this machine's files. */
const driverExecutable = async (dir: string): Promise<string> => {
  const given = executable();
  if (given !== undefined) return given;
  const built = join(dir, "csi-rbd");
  await buildExecutable(built);
  process.env["DRIVER"] = built;
  return built;
};

export const startCluster = async (dir: string, say: (line: string) => void): Promise<Cluster> => {
  mkdirSync(dir, { recursive: true });
  const program = await driverExecutable(dir);
  const kubeletPort = await freePort();
  const plane = await startControlPlane({ dir: join(dir, "plane"), scheduler: true, kubeletPort });
  say(`control plane: ${plane.url}`);
  const stops: Array<() => Promise<unknown>> = [plane.stop];
  const stop = async (): Promise<void> => {
    for (const each of stops.toReversed()) await each();
  };
  try {
    const out = join(dir, "node");
    writeConfig(join(out, "config"));
    const node = await startNode({ out, plane, kubeletPort });
    stops.push(node.stop);
    writeConfig(join(dir, "config"));
    const controller = await startDriver({ dir, flags: ["--attacher", `--kubeconfig=${plane.kubeconfig}`] });
    stops.push(() => controller.end("SIGKILL"));
    stops.push(() => stopSidecars(dir));
    await startSidecars(dir, plane, controller.socket);
    const apply = async (...items: ReadonlyArray<Fields>): Promise<void> => {
      const list = JSON.stringify({ apiVersion: "v1", kind: "List", items });
      await plane.kubectl(["apply", "-f", "-"], list);
    };
    await apply(...driverObjects([program], `${OUT}/config`, await makeUser()));
    say(`controller plugin and sidecars run, the node boots: ${out}`);
    await node.ready();
    say("the node is ready");
    const kubectl = (...args: ReadonlyArray<string>) => Promise.race([plane.kubectl(args), node.broken]);
    const registered = `jsonpath={.spec.drivers[0].name}=${DRIVER}`;
    await kubectl("wait", "--for=create", "--timeout=120s", `csinode/${NODE}`);
    await kubectl("wait", `--for=${registered}`, "--timeout=300s", `csinode/${NODE}`);
    say(`kubelet has registered ${DRIVER}`);
    return {
      plane,
      node,
      controller: () => controller,
      kubectl,
      apply,
      until: async (condition, ...objects) => {
        await kubectl("wait", `--for=${condition}`, "--timeout=300s", ...objects);
      },
      inPod: (name, line) => kubectl("exec", name, "--", "sh", "-c", line),
      ceph,
      stop,
    };
  } catch (error) {
    await tell(plane, say);
    await stop();
    throw error;
  }
};

/** What a person would look at first when something does not come up. */
export const tell = async (plane: ControlPlane, say: (line: string) => void): Promise<void> => {
  const asked = [
    ["get", "nodes,pods,pvc,volumeattachments", "-A", "-o", "wide"],
    ["get", "events", "-A", "--sort-by=.lastTimestamp"],
    ["logs", "-n", NAMESPACE, "-l", `app=${NODE_PLUGIN}`, "--tail=30"],
  ];
  for (const args of asked) say(await plane.kubectl(args).catch(String));
};
