/**
 * A Kubernetes of one node with the driver on it, on a Ceph that runs. Ceph, the control plane and, unless asked for in pods,
 * the driver's controller and the Kubernetes project's sidecars are processes of this machine. Only what needs a kernel is in
 * the virtual machine, which is slow: kubelet, containerd, the chart's node plugin and the pods that use volumes.
 *
 * Not here: how the driver gets there (./chart.ts), what is done with it (./steps.ts).
 *
 * 1. Everything that it starts ends with it, and with the process that started it.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Tree } from "../chart/helm.ts";
import { freePort } from "../rig/ceph.ts";
import { rig } from "../rig/cluster.ts";
import { helmBinary, helmLacks } from "../rig/helm.ts";
import { type ControlPlane, startControlPlane } from "../rig/kubernetes/control-plane.ts";
import { type ClusterNode, NODE, nodeLacks, startNode } from "../rig/kubernetes/node.ts";
import { endProcess, startProcess } from "../rig/kubernetes/processes.ts";
import { sidecarFolder, sidecarsLack } from "../rig/kubernetes/sidecars.ts";
import { outputOf, run } from "../rig/place.ts";
import { debianLacks } from "../rig/roots.ts";
import { driverProgram, type Installed, installChart, makeDriverImage, type User } from "./chart.ts";
import { makeSidecarImages } from "./controller-pods.ts";
import { DRIVER, type Fields, listOf, NAMESPACE } from "./objects.ts";

/** Why there can be none here; undefined where there can. */
export const clusterLacks = (): string | undefined => sidecarsLack() ?? helmLacks() ?? debianLacks() ?? nodeLacks();

export interface Cluster extends Installed {
  readonly plane: ControlPlane;
  readonly node: ClusterNode;
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

const ceph = async (...command: ReadonlyArray<string>): Promise<string> =>
  outputOf(command, await run({ env: { CEPH_CONF: rig().conf } }, command));

/** The Ceph user that the driver is given, with the rights that README tells to grant. */
const makeUser = async (): Promise<User> => {
  const caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
  const userKey = await ceph("ceph", "auth", "get-or-create-key", "client.kubernetes", ...caps);
  return { userID: "kubernetes", userKey: userKey.trim() };
};

const SNAPSHOT_CONTROLLER = "snapshot-controller";

const startSnapshotController = async (dir: string, plane: ControlPlane): Promise<void> => {
  const programs = await sidecarFolder();
  await plane.kubectl(["apply", "-f", join(programs, "crd")]);
  const gates = "--feature-gates=CSIVolumeGroupSnapshot=true";
  const command = [join(programs, SNAPSHOT_CONTROLLER), `--kubeconfig=${plane.kubeconfig}`, gates];
  startProcess(dir, SNAPSHOT_CONTROLLER, command);
};

export interface ClusterOptions {
  /** Archives of what the node has besides the driver's image. */
  readonly images?: ReadonlyArray<string>;
  /** Further values of the chart. */
  readonly values?: Tree;
  readonly controllerInPods?: boolean;
}

export const startCluster = async (
  dir: string,
  say: (line: string) => void,
  { images = [], values = {}, controllerInPods = false }: ClusterOptions = {},
): Promise<Cluster> => {
  mkdirSync(dir, { recursive: true });
  process.env["CSI_RBD_HELM"] = await helmBinary();
  const kubeletPort = await freePort();
  const program = await driverProgram(dir);
  const [image, sidecarImages, plane] = await Promise.all([
    makeDriverImage(dir, program),
    controllerInPods ? makeSidecarImages(dir) : [],
    startControlPlane({ dir: join(dir, "plane"), scheduler: true, kubeletPort }),
  ]);
  say(`the driver's image is made, the control plane runs: ${plane.url}`);
  const stops: Array<() => Promise<unknown>> = [plane.stop];
  const stop = async (): Promise<void> => {
    for (const each of stops.toReversed()) await each();
  };
  try {
    const node = await startNode({
      out: join(dir, "node"),
      plane,
      kubeletPort,
      images: [image, ...sidecarImages, ...images],
    });
    stops.push(node.stop);
    say(`the node boots: ${node.out}`);
    stops.push(() => endProcess(dir, SNAPSHOT_CONTROLLER));
    await startSnapshotController(dir, plane);
    const kubectl = (...args: ReadonlyArray<string>) => Promise.race([plane.kubectl(args), node.broken]);
    const controller = controllerInPods ? "pods" : { dir: join(dir, "controller"), program };
    const installed = await installChart({ plane, kubectl, user: await makeUser(), controller, values });
    stops.push(installed.stopController);
    say("the chart is installed");
    await node.ready();
    say("the node is ready");
    await installed.rolledOut();
    await kubectl("wait", `--for=jsonpath={.spec.drivers[0].name}=${DRIVER}`, "--timeout=300s", `csinode/${NODE}`);
    say(
      `${controllerInPods ? "controller and node plugin are" : "the node plugin is"} ready, and kubelet has registered ${DRIVER}`,
    );
    return {
      ...installed,
      plane,
      node,
      kubectl,
      apply: async (...items) => {
        await plane.kubectl(["apply", "-f", "-"], listOf(...items));
      },
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
    ["logs", "-n", NAMESPACE, "-l", "component=nodeplugin", "--tail=30"],
    // nothing, where they are no pods
    ["logs", "-n", NAMESPACE, "-l", "component=provisioner", "--tail=30", "--all-containers", "--prefix"],
  ];
  for (const args of asked) say(await plane.kubectl(args).catch(String));
};
