/**
 * The driver on the cluster as an administrator installs it: the chart of this checkout. The node plugin is a pod of the image
 * that is built of the checkout, the controller is what ./controller.ts makes of the chart's Deployment, or is its pods
 * (./controller-pods.ts).
 *
 * Not here: the snapshot-controller and the definitions of its objects, which every cluster has once (./cluster.ts).
 *
 * 1. The pods have the chart's probes. Only the patience of the one that ends the driver is another: ./objects.ts, patience.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { buildImage } from "../../container/build.ts";
import { readInputs } from "../../container/inputs.ts";
import { chartFolder, helm, over, type Tree } from "../chart/helm.ts";
import { buildExecutable } from "../rig/build.ts";
import { rig } from "../rig/cluster.ts";
import type { ControlPlane } from "../rig/kubernetes/control-plane.ts";
import { executable } from "../support/driver-command.ts";
import { type ControllerFiles, startController } from "./controller.ts";
import { controllerPods } from "./controller-pods.ts";
import { CLASS, CLUSTER_ID, listOf, NAMESPACE, patience, POOL } from "./objects.ts";

/** The oldest Ceph that there is an image for: newer than the cluster's is right, older is not. */
const CEPH = 18;
const RELEASE = "csi-rbd";
const DAEMON_SET = `ds/${RELEASE}-nodeplugin`;
/** As kubectl takes it. */
export const DEPLOYMENT = `deployment/${RELEASE}-provisioner`;

/** The driver: the executable that is tested, or one that is built of the checkout. */
export const driverProgram = async (dir: string): Promise<string> => {
  const given = executable();
  if (given !== undefined) return given;
  const built = join(dir, "csi-rbd");
  await buildExecutable(built);
  return built;
};

/** The archive of its image. */
export const makeDriverImage = async (dir: string, program: string): Promise<string> => {
  const inputs = await readInputs();
  const work = join(dir, "image-work");
  const { file } = await buildImage({ release: CEPH, executable: program, inputs, into: join(dir, "image"), work });
  rmSync(work, { recursive: true });
  return file;
};

/** The user in Ceph. */
export interface User {
  readonly userID: string;
  readonly userKey: string;
}

const NO_PORT = { args: { httpEndpointPort: 0 } };
/** Nothing of the controller is a pod, nor has a port: its processes run on this machine, where ports may be taken. */
const NO_PODS = {
  replicaCount: 0,
  healthPort: 0,
  httpMetrics: { enabled: false },
  // nor can a pod own the objects that tell capacity
  provisioner: { args: { ...NO_PORT.args, capacityOwnerrefLevel: -1 } },
  resizer: NO_PORT,
  snapshotter: NO_PORT,
};

/** One node needs no second replica. */
const PODS = { replicaCount: 1 };

/** The values of the administrator, with the key of a Ceph user. */
const valuesFor = (user: User, provisioner: Tree): Tree => ({
  fullnameOverride: RELEASE,
  image: { ceph: CEPH },
  csiConfig: [{ clusterID: CLUSTER_ID, monitors: rig().monitors }],
  secret: { create: true, name: CLASS, ...user },
  storageClass: {
    create: true,
    name: CLASS,
    clusterID: CLUSTER_ID,
    pool: POOL,
    imageFeatures: "layering,exclusive-lock,object-map,fast-diff",
    provisionerSecret: CLASS,
    controllerExpandSecret: CLASS,
    nodeStageSecret: CLASS,
  },
  volumeSnapshotClass: { create: true, name: CLASS, clusterID: CLUSTER_ID, snapshotterSecret: CLASS },
  provisioner,
  // for the claims of ./devices.ts, whose class is not the chart's
  nodeplugin: { rbdNbd: true },
});

export interface Installed {
  /** Returns once the node plugin is ready, and the controller. */
  readonly rolledOut: () => Promise<void>;
  /** Upgrades the release with further values, and returns once the node plugin is a new pod that is ready. */
  readonly upgrade: (more: Tree) => Promise<void>;
  readonly stopController: () => Promise<void>;
}

export interface InstallOptions {
  readonly plane: ControlPlane;
  readonly kubectl: (...args: ReadonlyArray<string>) => Promise<string>;
  readonly user: User;
  /** "pods", or what the controller needs to be processes of this machine. */
  readonly controller: "pods" | ControllerFiles;
  /** Besides the administrator's. */
  readonly values: Tree;
}

export const installChart = async (options: InstallOptions): Promise<Installed> => {
  const { plane, kubectl, user } = options;
  const values = over(valuesFor(user, options.controller === "pods" ? PODS : NO_PODS), options.values);
  const target = [RELEASE, chartFolder, `--namespace=${NAMESPACE}`];
  const nodePlugin = async (): Promise<void> => {
    await kubectl("-n", NAMESPACE, "rollout", "status", DAEMON_SET, "--timeout=420s");
  };
  await plane.kubectl(["apply", "-f", "-"], listOf(...patience));
  await helm(["install", ...target, "--create-namespace"], values, plane.kubeconfig);
  const controller =
    options.controller === "pods"
      ? controllerPods(kubectl, DEPLOYMENT)
      : await startController({ ...options.controller, plane, deployment: DEPLOYMENT });
  return {
    rolledOut: async () => {
      await Promise.all([controller.rolledOut(), nodePlugin()]);
    },
    upgrade: async (more) => {
      await helm(["upgrade", ...target], over(values, more), plane.kubeconfig);
      await Promise.all([controller.restart(), nodePlugin()]);
    },
    stopController: controller.stop,
  };
};
