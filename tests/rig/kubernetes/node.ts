/**
 * A node: containerd and a kubelet in the virtual machine, joined to a control plane that runs on this machine. Ready about
 * a minute after its start, a pod ten seconds later: software emulation is slow.
 *
 * Not here: what runs on it. Its own files are this machine's (read-only, below memory), so a pod may use programs of
 * this machine by a hostPath.
 * Invariants:
 * 1. Nothing that the node writes stays, except its logs in `out`.
 * 2. It ends with the process that started it.
 */
import { mkdirSync, writeFileSync, cpSync, rmSync, existsSync } from "node:fs";
import { join } from "node:path";
import { clusterAddress } from "../address.ts";
import { canUnpack, unpacked } from "../unpacked.ts";
import { OUT, runInVm, vmLacks } from "../vm.ts";
import { type ControlPlane, controlPlaneLacks } from "./control-plane.ts";
import { BUSYBOX, makeImage, PAUSE } from "./image.ts";

export { BUSYBOX } from "./image.ts";
import { kubeProgram } from "./program.ts";

export const NODE = "node1";

const packages = ["containerd", "runc", "containernetworking-plugins"] as const;

/** Why there can be no node here; undefined where there can. */
export const nodeLacks = (): string | undefined => {
  const missing = packages.find((name) => !canUnpack(name));
  if (missing !== undefined) return `no ${missing}, and no apt-get and dpkg to fetch Debian's with`;
  return controlPlaneLacks() ?? vmLacks();
};

const network = {
  cniVersion: "0.4.0",
  name: "rig",
  plugins: [
    {
      type: "bridge",
      bridge: "cni0",
      isGateway: true,
      ipam: { type: "host-local", ranges: [[{ subnet: "10.88.0.0/16" }]], routes: [{ dst: "0.0.0.0/0" }] },
    },
  ],
};

const containerdConfig = (plugins: string): string => `version = 2
root = "/var/node/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${plugins}/usr/lib/cni"
    conf_dir = "/run/cni"
`;

const kubeletConfig = {
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  cgroupDriver: "cgroupfs",
  containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: "AlwaysAllow" },
  enforceNodeAllocatable: [],
  // the node has no iptables, and no disk whose space could be shared out
  makeIPTablesUtilChains: false,
  localStorageCapacityIsolation: false,
  // a claim that grew is seen with a pod's next sync
  syncFrequency: "10s",
  evictionHard: { "memory.available": "1Mi" },
};

/** Runs in the guest; ends when the kubelet is not to be started again. */
const guestScript = (kube: string, folders: Readonly<Record<(typeof packages)[number], string>>): string => `
export PATH=${folders.containerd}/usr/bin:${folders.runc}/usr/sbin:$PATH
ip route add default via 10.0.2.2
hostname ${NODE}
# kubelet wants cgroup v2, where a group that holds processes cannot give its children controllers
mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /sys/fs/cgroup/init
while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs; done < /sys/fs/cgroup/cgroup.procs 2>/dev/null
echo "+cpu +memory +pids +io +cpuset" > /sys/fs/cgroup/cgroup.subtree_control
# the layers of images cannot lie on the guest's root, which is made of layers itself
mkdir -p /var/node; mount -t tmpfs node /var/node; mkdir -p /var/node/containerd /var/node/kubelet /var/lib/kubelet
mount --bind /var/node/kubelet /var/lib/kubelet
mount --make-rshared /
cp -r ${OUT}/cni /run/cni
containerd --config ${OUT}/containerd.toml > ${OUT}/containerd.log 2>&1 &
until ctr version > /dev/null 2>&1; do sleep 0.3; done
ctr -n k8s.io images import ${OUT}/image.tar
while true; do
  ${kube} kubelet --config=${OUT}/kubelet.json --kubeconfig=${OUT}/kubeconfig \\
    --hostname-override=${NODE} --node-ip=10.0.2.15 >> ${OUT}/kubelet.log 2>&1 &
  echo $! > /run/kubelet.pid
  while [ ! -e ${OUT}/restart ]; do sleep 0.5; done
  kill $(cat /run/kubelet.pid); wait $(cat /run/kubelet.pid)
  rm ${OUT}/restart
done
`;

export interface NodeOptions {
  /** Folder shared with the guest, at /mnt/out there. */
  readonly out: string;
  readonly plane: ControlPlane;
  /** The port that the control plane was told, as its kubeletPort. */
  readonly kubeletPort: number;
}

export interface ClusterNode {
  readonly out: string;
  /** Rejects when the node ends though nobody stopped it. */
  readonly broken: Promise<never>;
  /** Resolves when the API server calls the node ready. */
  readonly ready: () => Promise<void>;
  /** Ends the kubelet as its service manager does, and starts it again. */
  readonly restartKubelet: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

const layOut = async ({ out, plane }: NodeOptions): Promise<string> => {
  const [containerd, runc, plugins] = [
    await unpacked("containerd"),
    await unpacked("runc"),
    await unpacked("containernetworking-plugins"),
  ];
  mkdirSync(join(out, "cni"), { recursive: true });
  writeFileSync(join(out, "cni", "rig.conflist"), JSON.stringify(network));
  writeFileSync(join(out, "containerd.toml"), containerdConfig(plugins));
  writeFileSync(join(out, "kubelet.json"), JSON.stringify(kubeletConfig));
  cpSync(plane.kubeconfigOf(NODE), join(out, "kubeconfig"));
  await makeImage(join(out, "image.tar"), [PAUSE, BUSYBOX]);
  const folders = { containerd, runc, "containernetworking-plugins": plugins };
  return guestScript(await kubeProgram(), folders);
};

export const startNode = async (options: NodeOptions): Promise<ClusterNode> => {
  const { out, plane, kubeletPort } = options;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, "node.sh"), await layOut(options));
  const stopping = new AbortController();
  const console: Array<string> = [];
  const ended = runInVm({
    command: ["bash", `${OUT}/node.sh`],
    out,
    cwd: "/",
    loopback: clusterAddress,
    forward: { from: kubeletPort, to: 10_250 },
    modules: ["rbd", "nbd", "ext4", "xfs", "loop", "bridge", "veth"],
    needs: stopping.signal,
    limitMs: 12 * 60 * 60_000,
    line: (text) => console.push(text),
  });
  const broken = ended.then((status): never => {
    throw new Error(`the node ended with status ${status}; its console:\n${console.slice(-20).join("\n")}`);
  });
  broken.catch(() => undefined);
  const isReady = plane.kubectl(["wait", "--for=create", "--timeout=300s", `node/${NODE}`]);
  isReady.catch(() => undefined);
  return {
    out,
    broken,
    ready: async () => {
      const ready = ["wait", "--for=condition=Ready", "--timeout=300s", `node/${NODE}`];
      await Promise.race([isReady.then(() => plane.kubectl(ready)), broken]);
    },
    restartKubelet: async () => {
      writeFileSync(join(out, "restart"), "");
      while (existsSync(join(out, "restart"))) await Promise.race([Bun.sleep(200), broken]);
    },
    stop: async () => {
      stopping.abort(new Error("stopped"));
      await ended.catch(() => undefined);
      rmSync(join(out, "kubeconfig"), { force: true });
    },
  };
};
