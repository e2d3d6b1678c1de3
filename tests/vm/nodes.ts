/**
 * Two nodes on one kernel: each is a driver with mounts of its own, which does not see what the other one has mapped.
 *
 * Not here: a network for each (./fencing-rounds.test.ts). The clients of the kernel are two with the map option `noshare`.
 *
 * 1. A device is hidden from the other node as soon as its stage has ended. So stages come one after the other.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { namesIn } from "../../lib/host/mapper/sysfs.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { CLUSTER } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { BUS, LIMIT, type TestVolume } from "./kubelet.ts";
import { tool } from "./loop.ts";

/** Starts a driver with mounts of its own. */
export const OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private", "--"];

/** The second node; the first one is the world's. */
export const startSecondNode = (): Promise<Driver> => {
  const dir = testFolder("node-b");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  const flags = ["--nodeserver=true", "--controllerserver=false", "--nodeid=node-b"];
  return startDriver({ dir, flags, through: OWN_MOUNTS });
};

export type VolumeOnNode = ReturnType<typeof onNode>;

/** A volume as one node has it, with folders of its own. */
const onNode = (driver: Driver, name: string, shared: TestVolume) => {
  const staging = join(shared.staging, name);
  const pods = join(shared.pods, name);
  for (const folder of [staging, pods]) mkdirSync(folder);
  const volume = shared.as({ staging, pods }, () => driver);
  return {
    ...volume,
    pid: driver.pid,
    /** A path in the volume where it is published, as that node alone sees it. */
    at: (path = "") => `/proc/${driver.pid}/root${volume.target}${path}`,
    undo: async () => {
      await volume.unpublish();
      await volume.unstage(LIMIT);
    },
  };
};

/** Stages and publishes a volume on both nodes. */
export const onBothNodes = async (
  nodes: readonly [Driver, Driver],
  shared: TestVolume,
): Promise<[VolumeOnNode, VolumeOnNode]> => {
  const a = onNode(nodes[0], "a", shared);
  const b = onNode(nodes[1], "b", shared);
  for (const [node, other] of [
    [a, b],
    [b, a],
  ] as const) {
    const before = namesIn(BUS);
    await node.stage();
    for (const id of namesIn(BUS).filter((each) => !before.includes(each))) {
      tool("nsenter", `--mount=/proc/${other.pid}/ns/mnt`, "mount", "-t", "tmpfs", "hidden", `/sys/devices/rbd/${id}`);
    }
    await node.publish();
  }
  return [a, b];
};
