/**
 * The driver as Kubernetes' end-to-end suite is told of it: what it can do with which values of the chart, and from which
 * classes the suite makes its own.
 * The suite's words are those of test/e2e/storage/external and test/e2e/storage/framework in Kubernetes' module.
 *
 * Not here: the values that any cluster of the tests has (tests/cluster/chart.ts).
 */
import { CLASS, CLUSTER_ID, DRIVER, POOL } from "../cluster/objects.ts";
import { ZONE, ZONE_LABEL } from "../rig/kubernetes/node.ts";

/** The values with which the chart serves what its defaults leave off: topology, capacity and group snapshots. */
export const VALUES = {
  topology: { domainLabels: [ZONE_LABEL] },
  storageClass: {
    topologyConstrainedPools: [{ poolName: POOL, domainSegments: [{ domainLabel: "zone", value: ZONE }] }],
  },
  CSIDriver: { storageCapacity: true },
  clusterCredentials: [{ clusterID: CLUSTER_ID, secretName: CLASS }],
  provisioner: {
    // the scheduler asks for capacity only where a claim waits for its pod, but the suite's class binds at once
    provisioner: { args: { capacityForImmediateBinding: true } },
    snapshotter: { args: { enableVolumeGroupSnapshots: true } },
  },
  volumeGroupSnapshotClass: {
    create: true,
    name: CLASS,
    clusterID: CLUSTER_ID,
    pool: POOL,
    groupSnapshotterSecret: CLASS,
  },
  // the node is emulated: beside specs it may answer a probe too late, which would end the node plugin in the middle of one
  nodeplugin: { healthPort: 0 },
};

/** The VolumeAttributesClass that specs modify volumes with: limits which no spec reaches. */
export const ATTRIBUTES_CLASS = "e2e";
export const ATTRIBUTES = { maxReadIops: "100000", maxWriteIops: "100000" };

const CAPABILITIES = {
  persistence: true,
  block: true,
  exec: true,
  fsGroup: true,
  // kubelet applies it, as fsGroupPolicy File of the chart's CSIDriver says
  volumeMountGroup: false,
  snapshotDataSource: true,
  pvcDataSource: true,
  groupSnapshot: true,
  // served, but no spec of it can be run: ./specs.ts, UNFIT
  snapshotMetadata: true,
  controllerExpansion: true,
  nodeExpansion: true,
  offlineExpansion: true,
  onlineExpansion: true,
  FSResizeFromSourceNotSupported: false,
  multipods: true,
  multiplePVsSameID: true,
  // as raw block; the suite knows that filesystems are not written by several nodes
  RWX: true,
  readWriteOncePod: true,
  capReadOnlyMany: true,
  singleNodeVolume: false,
  seLinuxMount: true,
  capacity: true,
  topology: true,
  // NodeGetInfo tells no limit, as ceph-csi's tells none
  volumeLimits: false,
} as const;

/** Names are a set, as Go writes one. */
const setOf = (...names: ReadonlyArray<string>) => Object.fromEntries(names.map((name) => [name, {}]));

export const DEFINITION = {
  StorageClass: { FromExistingClassName: CLASS },
  SnapshotClass: { FromExistingClassName: CLASS },
  GroupSnapshotClass: { FromExistingClassName: CLASS },
  VolumeAttributesClass: { FromExistingClassName: ATTRIBUTES_CLASS },
  DriverInfo: {
    Name: DRIVER,
    Capabilities: CAPABILITIES,
    TopologyKeys: [`topology.${DRIVER}/zone`],
    SupportedFsType: setOf("", "ext3", "ext4", "xfs"),
    SupportedMountOption: setOf("noatime", "nodiratime"),
    // one range for all: an image may be smaller, but xfs takes 300 MiB
    SupportedSizeRange: { Min: "1Gi" },
  },
  // the suite's own are for machines: on an emulated node, beside others, a pod may take minutes
  Timeouts: {
    PodStart: "15m",
    PodStartSlow: "20m",
    PodDelete: "15m",
    ClaimProvision: "10m",
    ClaimBound: "10m",
    DataSourceProvision: "10m",
    PVDelete: "15m",
    SnapshotCreate: "10m",
    SnapshotDelete: "10m",
  },
} as const;
