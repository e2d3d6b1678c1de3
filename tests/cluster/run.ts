/**
 * `npm run cluster`: a Kubernetes of one node with a real Ceph and the driver, and a claim's whole life on it, one line a
 * step. `-- --keep` leaves it running until it is interrupted, `-- --controller-in-pods` has the controller run in the chart's
 * pods, which takes some minutes longer.
 *
 * Not a test: it shows a person what happens. The steps themselves are ./steps.ts, and the cluster suite tests them.
 */
import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { startCeph } from "../rig/ceph.ts";
import { temporaryFolder } from "../rig/folder.ts";
import { helmBinary } from "../rig/helm.ts";
import { kubeProgram } from "../rig/kubernetes/program.ts";
import { type Cluster, clusterLacks, startCluster, tell } from "./cluster.ts";
import { steps } from "./steps.ts";

const keep = process.argv.includes("--keep");
const controllerInPods = process.argv.includes("--controller-in-pods");

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** A terminal and tests/rig/run.mjs both pass a Ctrl-C on: the second one must not end what the first one began. */
const interrupted = (): Promise<void> =>
  new Promise((done) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => done());
  });

const tellSteps = async (cluster: Cluster): Promise<void> => {
  for (const [index, { title, act }] of steps.entries()) {
    const started = performance.now();
    const label = `${String(index + 1).padStart(2)}  ${title}`;
    try {
      const exists = await act(cluster);
      console.log(`${label.padEnd(72)} ${seconds(started).padStart(7)}   ${exists}`);
    } catch (error) {
      console.log(`${label.padEnd(72)} FAILED`);
      throw error;
    }
  }
};

const IN_PODS = "The node plugin and the controller are pods";
const BESIDE = `The node plugin is a pod; the controller is a process beside Kubernetes, so the
  Deployment has no replicas`;

const leaveRunning = async ({ plane, node }: Cluster, cephConf: string): Promise<void> => {
  console.log(`
Kubernetes, Ceph and the driver stay until this is interrupted (Ctrl-C):
  export KUBECONFIG=${plane.kubeconfig}
  alias kubectl="${await kubeProgram()} kubectl" helm="${await helmBinary()}" rbd="rbd -c ${cephConf}" ceph="ceph -c ${cephConf}"
  StorageClass, VolumeSnapshotClass and Secret are named rbd, the clusterID and the pool are rig and rbd, and the node has
  the image docker.io/rig/busybox:1. ${controllerInPods ? IN_PODS : BESIDE}
  logs of kubelet and containerd: ${node.out}; of the control plane: ${plane.dir}/log${
    controllerInPods
      ? ""
      : `;\n  of the driver's controller and the sidecars: ${join(dirname(plane.dir), "controller", "log")}`
  }`);
  await Promise.race([interrupted(), node.broken]);
};

const main = async (): Promise<void> => {
  const lacking = clusterLacks();
  if (lacking !== undefined) throw new Error(lacking);
  const started = performance.now();
  const say = (line: string): void => console.log(`    ${seconds(started).padStart(7)}   ${line}`);
  const dir = temporaryFolder("csi-rbd-cluster-");
  const ceph = await startCeph({ dir: join(dir, "ceph"), paxosInterval: 0.05 });
  process.env["CSI_RBD_RIG"] = ceph.rigFile;
  say(`a Ceph ${ceph.release} of one node: monitor ${ceph.monitors.join(",")}`);
  try {
    const cluster = await startCluster(join(dir, "cluster"), say, { controllerInPods });
    try {
      await tellSteps(cluster).catch(async (error: unknown) => {
        await tell(cluster.plane, console.log);
        throw error;
      });
      console.log(`\nall of it worked, in ${seconds(started)}.`);
      if (keep) await leaveRunning(cluster, join(dir, "ceph", "ceph.conf"));
    } finally {
      await cluster.stop();
    }
  } finally {
    await ceph.stop();
  }
  rmSync(dir, { recursive: true, force: true });
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? (error.stack ?? error.message) : error);
    process.exit(1);
  },
);
