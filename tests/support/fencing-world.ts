/** What tests of fencing ask for: a Kubernetes with nodes, records of clients in the metadata of an image, and requests. */
import type { MemoryCluster } from "./ceph-memory/memory.ts";
import { KubeMemory } from "./kube-memory.ts";
import { aNode, IMAGE, VOLUME } from "./node-world.ts";
import { MOUNT, PARAMETERS, SECRETS } from "./world.ts";

/** Begins the keys of records. */
export const KEY = ".rbd.csi.ceph.com/";
export const FENCING = { "enable-fencing": true } as const;
/** What node-a left: its client, its user and its boot. */
export const CLIENT = "10.0.0.7:0/3412";
export const RECORD = {
  [`${KEY}clientAddress/node-a`]: CLIENT,
  [`${KEY}userID/node-a`]: "admin",
  [`${KEY}bootID/node-a`]: `boot-1 ${CLIENT}`,
};
export const MACHINE = "machine-1";
/** What a fence of node-a writes down: its boot, and what Kubernetes showed of it. */
export const fencedAs = (bootId = "boot-1", shownBootId = "boot-1", machine = MACHINE) =>
  JSON.stringify({ nodeId: "node-a", bootId, shownBootId, machine });
export const TAINT = { key: "node.kubernetes.io/out-of-service", value: "nodeshutdown", effect: "NoExecute" };

export const aNodeObject = (
  name: string,
  more: {
    readonly taints?: readonly object[];
    readonly bootID?: string;
    readonly machineID?: string;
    readonly ready?: "True" | "False" | "Unknown";
  } = {},
) => ({
  metadata: { name },
  spec: { taints: more.taints ?? [] },
  status: {
    conditions: [{ type: "Ready", status: more.ready ?? "True" }],
    nodeInfo: { bootID: more.bootID ?? "boot-1", machineID: more.machineID ?? MACHINE, systemUUID: "" },
  },
});

export const kubeWith = (...nodes: readonly object[]): KubeMemory => {
  const kube = new KubeMemory();
  for (const node of nodes) kube.create("/api/v1/nodes", node);
  return kube;
};
export const LOST = () => kubeWith(aNodeObject("node-a", { taints: [TAINT] }), aNodeObject("node-b"));
export const IN_SERVICE = () => kubeWith(aNodeObject("node-a"), aNodeObject("node-b"));
export const BOOTED = () => kubeWith(aNodeObject("node-a", { bootID: "boot-2" }), aNodeObject("node-b"));

export const metaOf = (cluster: MemoryCluster) => cluster.image("rbd", IMAGE).meta;
export const metadata = (cluster: MemoryCluster) => Object.fromEntries(metaOf(cluster));
export const listed = (cluster: MemoryCluster) => [...cluster.blocklist.keys()];

/** A cluster with the volume and these entries in the metadata of its image. */
export const withRecord = async (entries: Readonly<Record<string, string>> = RECORD) => {
  const { cluster } = await aNode();
  for (const [key, value] of Object.entries(entries)) metaOf(cluster).set(key, value);
  return cluster;
};

/** A cluster on which the client of node-a, of that boot, is fenced. */
export const withFence = async (...as: Parameters<typeof fencedAs>) => {
  const cluster = await withRecord({ [`${KEY}fenced/${CLIENT}`]: fencedAs(...as) });
  cluster.blocklist.set(`client ${CLIENT}`, { kind: "client", address: CLIENT });
  return cluster;
};

export const attaching = (nodeId = "node-b", more: object = {}) => ({
  volumeId: VOLUME,
  nodeId,
  volumeCapability: MOUNT,
  volumeContext: PARAMETERS,
  secrets: SECRETS,
  ...more,
});
export const detaching = (nodeId = "node-a", more: object = {}) => ({
  volumeId: VOLUME,
  nodeId,
  secrets: SECRETS,
  ...more,
});
