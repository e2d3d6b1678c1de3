/**
 * The steps of `npm run cluster`, which are the first tests of the cluster suite, too: a claim's whole life as a user of
 * Kubernetes sees it. Each builds on the ones before it.
 *
 * Not here: the cluster (./cluster.ts), and how the steps are shown.
 */
import type { Cluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { images, untilNothingIsLeft } from "./left-overs.ts";
import { attributesClass, claim, DEVICE, MOUNTED, pod, POOL, snapshot } from "./objects.ts";
import { BOUND, checksum, expectEqual, LIMIT, READY, SNAPSHOT_READY, WAITER } from "./scenario.ts";

/** Something that is done with a cluster, and found right. */
export interface Step {
  /** What it does, as a sentence. */
  readonly title: string;
  /** -> what exists afterwards. */
  readonly act: (cluster: Cluster) => Promise<string>;
}

const GIB = 2 ** 30;

/** A pod that writes 8 MiB, and then a line every second. */
const WRITER = `dd if=/dev/urandom of=${MOUNTED}/file bs=1M count=8 2>/dev/null; sync; touch /tmp/written
while true; do date >> ${MOUNTED}/lines; sync; sleep 1; done`;

let sumOfFile = "";

/** Bytes of the filesystem that a pod sees. */
const filesystemBytes = async ({ inPod }: Cluster, name: string): Promise<number> =>
  Number((await inPod(name, `df -k ${MOUNTED} | tail -1 | tr -s " " | cut -d " " -f 2`)).trim()) * 1024;

/** VolumeAttributesClass → its parameters, and the line of the control group's `io.max` that they become, after the device. */
const LIMITS = {
  silver: [{ maxWriteIops: "500" }, "rbps=max wbps=max riops=max wiops=500"],
  gold: [{ maxWriteIops: "2000", maxReadBps: "104857600" }, "rbps=104857600 wbps=max riops=max wiops=2000"],
} as const;

const claimBound: Step = {
  title: "a claim of 1 GiB with limits of I/O is bound",
  act: async (cluster) => {
    const classes = Object.entries(LIMITS).map(([name, [parameters]]) => attributesClass(name, parameters));
    await cluster.apply(...classes, claim("data", { size: "1Gi", attributes: "silver" }));
    await cluster.until(BOUND, "pvc/data");
    return `image ${POOL}/${(await images(cluster)).join(", ")}`;
  },
};

const podWrites: Step = {
  title: "a pod writes to it",
  act: async (cluster) => {
    await cluster.apply(pod("writer", "data", WRITER));
    await cluster.until(READY, "pod/writer");
    await cluster.inPod("writer", "until [ -e /tmp/written ]; do sleep 0.2; done");
    sumOfFile = await checksum(cluster, "writer", `${MOUNTED}/file`);
    return (await cluster.inPod("writer", `mount | grep " ${MOUNTED} "`)).trim();
  },
};

/** What the node's kernel holds a pod to: lines of `io.max`. */
const ioMax = async ({ kubectl, node }: Cluster, podName: string): Promise<string> => {
  const uid = (await kubectl("get", "pod", podName, "-o", "jsonpath={.metadata.uid}")).trim();
  const groups = "/sys/fs/cgroup/kubepods";
  return (await node.shell(`cat ${groups}/pod${uid}/io.max ${groups}/*/pod${uid}/io.max 2> /dev/null; true`)).trim();
};

/** The node reads changed limits within a minute, if the volume has had limits before. */
const untilHeldTo = (cluster: Cluster, name: string, limits: string): Promise<string> =>
  eventually(
    async () => {
      const seen = await ioMax(cluster, name);
      if (seen.endsWith(limits)) return { found: seen };
      return { not: `the pod's io.max is ${JSON.stringify(seen)}, not ${limits}` };
    },
    { limitMs: 120_000, pauseMs: 2_000 },
  );

const limited: Step = {
  title: "the pod is held to its limits, and while it runs to those of another VolumeAttributesClass",
  act: async (cluster) => {
    await untilHeldTo(cluster, "writer", LIMITS.silver[1]);
    await cluster.kubectl("patch", "pvc/data", "-p", JSON.stringify({ spec: { volumeAttributesClassName: "gold" } }));
    await cluster.until("jsonpath={.status.currentVolumeAttributesClassName}=gold", "pvc/data");
    return untilHeldTo(cluster, "writer", LIMITS.gold[1]);
  },
};

const snapshotReady: Step = {
  title: "a snapshot of it is ready while the pod goes on writing",
  act: async (cluster) => {
    await cluster.apply(snapshot("point", "data"));
    await cluster.until(SNAPSHOT_READY, "volumesnapshot/point");
    return `images ${(await images(cluster)).join(", ")}`;
  },
};

const restored: Step = {
  title: "a larger claim is restored from it, and a pod reads the same bytes",
  act: async (cluster) => {
    await cluster.apply(claim("restored", { size: "2Gi", from: "point" }), pod("reader", "restored", WAITER));
    await cluster.until(READY, "pod/reader");
    expectEqual("the restored file's checksum", await checksum(cluster, "reader", `${MOUNTED}/file`), sumOfFile);
    const bytes = await filesystemBytes(cluster, "reader");
    if (bytes < 1.8 * GIB) throw new Error(`the restored filesystem has ${bytes} bytes, not 2 GiB`);
    return `sha256 ${sumOfFile.slice(0, 12)}…, a filesystem of ${(bytes / GIB).toFixed(2)} GiB`;
  },
};

const expanded: Step = {
  title: "the claim grows to 3 GiB while the pod runs",
  act: async (cluster) => {
    const spec = { resources: { requests: { storage: "3Gi" } } };
    await cluster.kubectl("patch", "pvc/data", "-p", JSON.stringify({ spec }));
    await cluster.until("jsonpath={.status.capacity.storage}=3Gi", "pvc/data");
    const bytes = await filesystemBytes(cluster, "writer");
    if (bytes < 2.8 * GIB) throw new Error(`the grown filesystem has ${bytes} bytes, not 3 GiB`);
    expectEqual("the file's checksum", await checksum(cluster, "writer", `${MOUNTED}/file`), sumOfFile);
    return `a filesystem of ${(bytes / GIB).toFixed(2)} GiB`;
  },
};

const rawBlock: Step = {
  title: "a pod writes to a raw block claim and reads it back",
  act: async (cluster) => {
    await cluster.apply(claim("raw", { size: "1Gi", block: true }), pod("block", "raw", WAITER, { block: true }));
    await cluster.until(READY, "pod/block");
    const write = `dd if=/dev/urandom of=/tmp/file bs=1M count=4 2>/dev/null; dd if=/tmp/file of=${DEVICE} bs=1M conv=fsync 2>/dev/null`;
    const read = `dd if=${DEVICE} bs=1M count=4 2>/dev/null | cmp - /tmp/file && blockdev --getsize64 ${DEVICE}`;
    await cluster.inPod("block", write);
    const size = (await cluster.inPod("block", read)).trim();
    expectEqual("the device's size", size, String(GIB));
    return `a device of ${size} bytes`;
  },
};

const deleted: Step = {
  title: "all of it is deleted, and nothing is left in the pool",
  act: async (cluster) => {
    await cluster.kubectl("delete", "pod", "--all", LIMIT);
    await cluster.kubectl("delete", "volumesnapshot", "--all", LIMIT);
    await cluster.kubectl("delete", "pvc", "--all", LIMIT);
    await untilNothingIsLeft(cluster);
    return "no PersistentVolume, no image, no trash, no journal entry, no device on the node";
  },
};

export const steps: ReadonlyArray<Step> = [
  claimBound,
  podWrites,
  limited,
  snapshotReady,
  restored,
  expanded,
  rawBlock,
  deleted,
];
