/**
 * A node: containerd and a kubelet in the virtual machine, joined to a control plane that runs on this machine. Ready about
 * a minute after its start, a pod ten seconds later: software emulation is slow.
 *
 * Not here: what runs on it. Its own files are this machine's (read-only, below memory).
 * Invariants:
 * 1. Nothing that the node writes stays, except its logs in `out`. Until it is stopped, the state of containerd and kubelet
 *    lies on a disk, which outlives a loss of power.
 * 2. It ends with the process that started it.
 * 3. Pods reach the API server at the address of its Service, which a forwarder on the node serves in place of kube-proxy,
 *    and Ceph at the address that it has on this machine, as the node does.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clusterAddress } from "../address.ts";
import { canUnpack, unpacked } from "../unpacked.ts";
import { OUT, runInVm, vmLacks } from "../vm.ts";
import { type ControlPlane, controlPlaneLacks } from "./control-plane.ts";
import { makeDisk } from "./disk.ts";
import { BUSYBOX, makeImage, PAUSE } from "./image.ts";

export { BUSYBOX } from "./image.ts";
import { kubeProgram } from "./program.ts";

export const NODE = "node1";
/** The zone that its label names. */
export const ZONE = "zone1";
/** The label. */
export const ZONE_LABEL = "topology.kubernetes.io/zone";

const packages = ["containerd", "runc", "containernetworking-plugins"] as const;

/** Why there can be no node here; undefined where there can. */
export const nodeLacks = (): string | undefined => {
  const missing = packages.find((name) => !canUnpack(name));
  if (missing !== undefined) return `no ${missing}, and no apt-get and dpkg to fetch Debian's with`;
  return controlPlaneLacks() ?? vmLacks();
};

/** Name of the plug-in of ours that makes a pod's network. */
const POD_NETWORK = "rig-bridge";
/** The node, as its pods see it. */
const GATEWAY = "10.88.0.1";

const network = {
  cniVersion: "0.4.0",
  name: "rig",
  plugins: [
    {
      type: POD_NETWORK,
      bridge: "cni0",
      isGateway: true,
      ipam: {
        type: "host-local",
        ranges: [[{ subnet: "10.88.0.0/16", gateway: GATEWAY }]],
        routes: [{ dst: "0.0.0.0/0" }],
      },
    },
  ],
};

/**
 * The plug-in: a bridge, and a route to Ceph, whose address is one of the loopback's. A pod's kernel would keep that to itself,
 * as the node's would (tests/rig/vm.ts).
 */
const podNetwork = (plugins: string): string => `#!/bin/sh
${plugins}/usr/lib/cni/bridge || exit
[ "$CNI_COMMAND" = ADD ] || exit 0
exec nsenter --net="$CNI_NETNS" sh -c '
  echo 1 > "/proc/sys/net/ipv4/conf/$CNI_IFNAME/route_localnet"
  ip route add ${clusterAddress}/32 via ${GATEWAY} dev "$CNI_IFNAME" table local' >&2
`;

const containerdConfig = `version = 2
root = "/var/node/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni-bin"
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

/** What every pod is told of the API server: the first address of the control plane's range of Services. */
const API_SERVICE = "10.96.0.1";

/** Runs in the guest and never ends: it runs the lines that `shell` leaves in the shared folder, one at a time. */
const guestScript = (
  kube: string,
  plane: URL,
  folders: Readonly<Record<(typeof packages)[number], string>>,
): string => `
export PATH=${folders.containerd}/usr/bin:${folders.runc}/usr/sbin:$PATH
ip route add default via 10.0.2.2
hostname ${NODE}
ip addr add ${API_SERVICE}/32 dev lo
/bin/busybox nc -ll -p 443 -e /bin/busybox nc ${plane.hostname} ${plane.port} 2> /dev/null &
# kubelet wants cgroup v2, where a group that holds processes cannot give its children controllers
mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /sys/fs/cgroup/init
while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs; done < /sys/fs/cgroup/cgroup.procs 2>/dev/null
echo "+cpu +memory +pids +io +cpuset" > /sys/fs/cgroup/cgroup.subtree_control
# the layers of images cannot lie on the guest's root, which is made of layers itself
mkdir -p /var/node; mount -t ext4 /dev/vda /var/node; mkdir -p /var/node/kubelet /var/lib/kubelet
mount --bind /var/node/kubelet /var/lib/kubelet
mount --make-rshared /
cp -r ${OUT}/cni /run/cni
mkdir /run/cni-bin
ln -s ${folders["containernetworking-plugins"]}/usr/lib/cni/* /run/cni-bin
cp ${OUT}/${POD_NETWORK} /run/cni-bin
# what pods send to Ceph goes on to this machine, where QEMU asks who they are
net=/proc/sys/net/ipv4
echo 1 > $net/ip_forward; echo 1 > $net/conf/all/route_localnet
echo 1 > $net/conf/eth0/proxy_arp; echo 0 > $net/neigh/eth0/proxy_delay
containerd --config ${OUT}/containerd.toml >> ${OUT}/containerd.log 2>&1 &
until [ -e /run/containerd/containerd.sock ]; do sleep 0.1; done
while true; do
  ${kube} kubelet --config=${OUT}/kubelet.json --kubeconfig=${OUT}/kubeconfig \\
    --hostname-override=${NODE} --node-ip=10.0.2.15 --node-labels=${ZONE_LABEL}=${ZONE} >> ${OUT}/kubelet.log 2>&1 &
  echo $! > /run/kubelet.pid
  wait $!
done &
while true; do
  if [ -e ${OUT}/ask ]; then
    mv ${OUT}/ask /run/asked
    bash /run/asked > ${OUT}/said 2>&1 < /dev/null
    echo $? > ${OUT}/answered.new
    mv ${OUT}/answered.new ${OUT}/answered
  fi
  sleep 0.3
done
`;

export interface NodeOptions {
  /** Folder shared with the guest, at /mnt/out there. */
  readonly out: string;
  readonly plane: ControlPlane;
  /** The port that the control plane was told, as its kubeletPort. */
  readonly kubeletPort: number;
  /** Archives of images that it has besides BUSYBOX. */
  readonly images?: ReadonlyArray<string>;
}

export interface ClusterNode {
  readonly out: string;
  /** Rejects when the node ends though nobody stopped it. */
  readonly broken: Promise<never>;
  /** Resolves when the API server calls the node ready. */
  readonly ready: () => Promise<void>;
  /** Runs lines of shell as the node's root; -> what they wrote. Rejects unless the last one exits with 0. */
  readonly shell: (lines: string) => Promise<string>;
  /** Ends the kubelet as its service manager does, and starts it again. */
  readonly restartKubelet: () => Promise<void>;
  /** Cuts the power off and boots again, under the same name and with the same disk; resolves once the kernel has booted. */
  readonly cutPower: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

/** Beside the folder that is shared. */
const diskOf = (out: string): string => `${out}.disk`;

const layOut = async ({ out, plane, images = [] }: NodeOptions): Promise<string> => {
  const [containerd, runc, plugins] = [
    await unpacked("containerd"),
    await unpacked("runc"),
    await unpacked("containernetworking-plugins"),
  ];
  mkdirSync(join(out, "cni"), { recursive: true });
  writeFileSync(join(out, "cni", "rig.conflist"), JSON.stringify(network));
  writeFileSync(join(out, POD_NETWORK), podNetwork(plugins), { mode: 0o755 });
  writeFileSync(join(out, "containerd.toml"), containerdConfig);
  writeFileSync(join(out, "kubelet.json"), JSON.stringify(kubeletConfig));
  cpSync(plane.kubeconfigOf(NODE), join(out, "kubeconfig"));
  const busybox = `${out}.busybox.tar`;
  await makeImage(busybox, [PAUSE, BUSYBOX]);
  await makeDisk(diskOf(out), [busybox, ...images]);
  const folders = { containerd, runc, "containernetworking-plugins": plugins };
  return guestScript(await kubeProgram(), new URL(plane.url), folders);
};

/** -> what runs one thing at a time. */
const oneAtATime = (): (<A>(act: () => Promise<A>) => Promise<A>) => {
  let last: Promise<unknown> = Promise.resolve();
  return (act) => {
    const next = last.then(act);
    last = next.catch(() => undefined);
    return next;
  };
};

const shellIn =
  (out: string, broken: Promise<never>): ClusterNode["shell"] =>
  async (lines) => {
    const [ask, said, answered] = ["ask", "said", "answered"].map((name) => join(out, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(`${ask}.new`, lines);
    renameSync(`${ask}.new`, ask);
    while (!existsSync(answered)) await Promise.race([Bun.sleep(100), broken]);
    const [status, text] = [readFileSync(answered, "utf8").trim(), readFileSync(said, "utf8")];
    rmSync(answered);
    if (status !== "0") throw new Error(`on the node: exit status ${status}: ${lines}\n${text.slice(-2000)}`);
    return text;
  };

/** Boots the virtual machine; -> what cuts its power off. `fails` is told if it ends without that. */
const boot = ({ out, kubeletPort }: NodeOptions, fails: (error: unknown) => void): (() => Promise<void>) => {
  const power = new AbortController();
  const console: Array<string> = [];
  const ended = runInVm({
    command: ["bash", `${OUT}/node.sh`],
    out,
    cwd: "/",
    loopback: clusterAddress,
    forward: { from: kubeletPort, to: 10_250 },
    modules: ["rbd", "nbd", "dm-crypt", "ext4", "xfs", "loop", "bridge", "veth", "virtio_blk"],
    disk: diskOf(out),
    needs: power.signal,
    limitMs: 12 * 60 * 60_000,
    line: (text) => console.push(text),
  });
  const told = ended
    .then((status): never => {
      throw new Error(`the node ended with status ${status}; its console:\n${console.slice(-20).join("\n")}`);
    })
    .catch((error: unknown) => {
      if (!power.signal.aborted) fails(error);
    });
  return async () => {
    power.abort(new Error("the power is off"));
    await told;
  };
};

export const startNode = async (options: NodeOptions): Promise<ClusterNode> => {
  const { out, plane } = options;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, "node.sh"), await layOut(options));
  const { promise: broken, reject } = Promise.withResolvers<never>();
  broken.catch(() => undefined);
  let powerOff = boot(options, reject);
  const queue = oneAtATime();
  const ask = shellIn(out, broken);
  const shell: ClusterNode["shell"] = (lines) => queue(() => ask(lines));
  const isReady = plane.kubectl(["wait", "--for=create", "--timeout=300s", `node/${NODE}`]);
  isReady.catch(() => undefined);
  return {
    out,
    broken,
    ready: async () => {
      const ready = ["wait", "--for=condition=Ready", "--timeout=300s", `node/${NODE}`];
      await Promise.race([isReady.then(() => plane.kubectl(ready)), broken]);
    },
    shell,
    restartKubelet: async () => {
      await shell("pid=$(cat /run/kubelet.pid); kill $pid; while [ -e /proc/$pid ]; do sleep 0.2; done");
    },
    cutPower: () =>
      queue(async () => {
        await powerOff();
        powerOff = boot(options, reject);
        await ask("true");
      }),
    stop: async () => {
      reject(new Error("the node is stopped"));
      await powerOff();
      rmSync(join(out, "kubeconfig"), { force: true });
      rmSync(diskOf(out), { force: true });
    },
  };
};
