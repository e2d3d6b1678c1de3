/**
 * The driver as Kubernetes' end-to-end suite is told of it: what it can do, and from which classes the suite makes its own.
 * The suite's words are those of test/e2e/storage/external and test/e2e/storage/framework in Kubernetes' module.
 *
 * Not here: the StorageClass and the VolumeSnapshotClass, which the chart makes (tests/cluster/chart.ts).
 */
import { CLASS, DRIVER } from "../cluster/objects.ts";

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
  // served, but the cluster has not what the suite needs for them: see LEFT_OUT
  groupSnapshot: true,
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
  // the chart publishes it where its value CSIDriver.storageCapacity says so
  capacity: false,
  // the chart's default names no labels of nodes, and a node has no limit of volumes
  topology: false,
  volumeLimits: false,
} as const;

/** Names are a set, as Go writes one. */
const setOf = (...names: ReadonlyArray<string>) => Object.fromEntries(names.map((name) => [name, {}]));

export const DEFINITION = {
  StorageClass: { FromExistingClassName: CLASS },
  SnapshotClass: { FromExistingClassName: CLASS },
  VolumeAttributesClass: { FromExistingClassName: ATTRIBUTES_CLASS },
  DriverInfo: {
    Name: DRIVER,
    Capabilities: CAPABILITIES,
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
