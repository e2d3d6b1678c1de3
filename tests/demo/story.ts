/**
 * The demo's story: one volume from CreateVolume to nothing left, on a real cluster and a real kernel, told through the
 * driver's own socket as a container orchestrator would.
 *
 * Not here: where it runs (./demo.ts) and how steps look (./steps.ts).
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import {
  Controller,
  Identity,
  Node,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../../lib/gen/csi_pb.ts";
import { client } from "../support/grpc-client.ts";
import type { CephCluster } from "../rig/ceph.ts";
import { type DriverPlace, endpointOf, lastLines } from "./driver.ts";
import { expectEqual, makeStep, output } from "./steps.ts";

const GIB = 1n << 30n;
const LIMIT = { timeoutMs: 60_000 };

/** What the story needs of the cluster, which may be on another machine. */
export type ShownCluster = Pick<CephCluster, "conf" | "monitors" | "adminKey" | "release" | "exec">;

export const CLUSTER_ID = "demo";

/** config.json for the demo's driver. */
export const clusterConfig = (monitors: ReadonlyArray<string>): string =>
  JSON.stringify([{ clusterID: CLUSTER_ID, monitors }]);

export const tellStory = async (ceph: ShownCluster, place: DriverPlace): Promise<void> => {
  try {
    await story(ceph, endpointOf(place), place.dir);
  } catch (error) {
    console.log(lastLines(place));
    throw error;
  }
};

const story = async (ceph: ShownCluster, endpoint: string, dir: string): Promise<void> => {
  const step = makeStep();
  const identity = client(Identity, endpoint);
  const controller = client(Controller, endpoint);
  const node = client(Node, endpoint);
  const secrets = { userID: "admin", userKey: ceph.adminKey };
  const volumeCapability = {
    accessType: { case: "mount" as const, value: { fsType: "ext4" } },
    accessMode: { mode: Mode.SINGLE_NODE_WRITER },
  };
  const stagingTargetPath = `${dir}/staging`;
  const targetPath = `${dir}/pod/volume`;
  for (const folder of [stagingTargetPath, `${dir}/pod`]) mkdirSync(folder, { recursive: true });

  const rados = async (...command: string[]) => (await ceph.exec("rados", "-p", "rbd", ...command)).trim();
  const images = async () => (await ceph.exec("rbd", "ls", "rbd")).trim();
  const journal = async () =>
    (await rados("ls"))
      .split("\n")
      .filter((name) => name.startsWith("csi.volume."))
      .join(" ") || "empty";
  const before = await images();

  await step(
    "driver answers Probe",
    () => identity.probe({}, LIMIT),
    async () => {
      const { name, vendorVersion } = await identity.getPluginInfo({}, LIMIT);
      return `${name} ${vendorVersion} at ${endpoint}`;
    },
  );

  const { volume } = await step(
    "CreateVolume, 1 GiB",
    () =>
      controller.createVolume(
        {
          name: "pvc-demo",
          capacityRange: { requiredBytes: GIB },
          volumeCapabilities: [volumeCapability],
          parameters: {
            clusterID: CLUSTER_ID,
            pool: "rbd",
            imageFeatures: "layering,exclusive-lock,object-map,fast-diff",
          },
          secrets,
        },
        LIMIT,
      ),
    async () => `image rbd/${await images()}, omap object ${await journal()}`,
  );
  if (volume === undefined) throw new Error("CreateVolume answered without a volume");
  const { volumeId, volumeContext } = volume;
  console.log(`    volume ID ${volumeId}`);

  const stageRequest = { volumeId, stagingTargetPath, volumeCapability, volumeContext, secrets };
  const publishRequest = { volumeId, stagingTargetPath, targetPath, volumeCapability, volumeContext };
  const mounted = (path: string) =>
    output("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,SIZE", "--mountpoint", path);
  const notMounted = (path: string): string => {
    const rest = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(` ${path} `));
    expectEqual(`mounts at ${path}`, rest.join("\n"), "");
    return `no mount at ${path}`;
  };
  const stagedAt = `${stagingTargetPath}/${volumeId}`;
  const stage = (title: string) =>
    step(
      title,
      () => node.nodeStageVolume(stageRequest, LIMIT),
      () => `${mounted(stagedAt)} staged`,
    );
  const publish = (title: string) =>
    step(
      title,
      () => node.nodePublishVolume(publishRequest, LIMIT),
      () => `${mounted(targetPath)} at ${targetPath}`,
    );
  const unpublish = (title: string) =>
    step(
      title,
      () => node.nodeUnpublishVolume({ volumeId, targetPath }, LIMIT),
      () => notMounted(targetPath),
    );

  await stage("NodeStageVolume: map, mkfs, mount");
  await publish("NodePublishVolume");

  const data = randomBytes(8 << 20);
  const checksum = createHash("sha256").update(data).digest("hex");
  await step(
    "a file of 8 MiB is written and synced",
    async () => {
      writeFileSync(`${targetPath}/data`, data, { flush: true });
      writeFileSync(`${targetPath}/data.sha256`, `${checksum}  data\n`, { flush: true });
    },
    () => `sha256 ${checksum.slice(0, 16)}…`,
  );

  await step(
    "ControllerExpandVolume to 2 GiB, in use",
    () =>
      controller.controllerExpandVolume(
        { volumeId, capacityRange: { requiredBytes: 2n * GIB }, volumeCapability, secrets },
        LIMIT,
      ),
    ({ capacityBytes, nodeExpansionRequired }) =>
      `image has ${capacityBytes} bytes, node expansion ${nodeExpansionRequired ? "needed" : "not needed"}`,
  );
  await step(
    "NodeExpandVolume: the filesystem grows online",
    () =>
      node.nodeExpandVolume(
        {
          volumeId,
          volumePath: targetPath,
          stagingTargetPath,
          capacityRange: { requiredBytes: 2n * GIB },
          volumeCapability,
        },
        LIMIT,
      ),
    () => `${mounted(targetPath)} at ${targetPath}`,
  );
  await step(
    "NodeGetVolumeStats",
    () => node.nodeGetVolumeStats({ volumeId, volumePath: targetPath, stagingTargetPath }, LIMIT),
    ({ usage }) =>
      usage
        .map(({ used, total, unit }) => `${used} of ${total} ${unit === Unit.BYTES ? "bytes" : "inodes"}`)
        .join(", "),
  );

  await unpublish("NodeUnpublishVolume");
  await step(
    "NodeUnstageVolume",
    () => node.nodeUnstageVolume({ volumeId, stagingTargetPath }, LIMIT),
    () => notMounted(stagedAt),
  );
  await stage("NodeStageVolume again");
  await publish("NodePublishVolume again");
  await step(
    "the file is read back",
    async () => {
      const read = createHash("sha256")
        .update(readFileSync(`${targetPath}/data`))
        .digest("hex");
      expectEqual("checksum of the file", read, checksum);
    },
    () => `sha256 ${checksum.slice(0, 16)}…, as written`,
  );
  await unpublish("NodeUnpublishVolume");
  await step(
    "NodeUnstageVolume",
    () => node.nodeUnstageVolume({ volumeId, stagingTargetPath }, LIMIT),
    () => {
      expectEqual("mapped devices", readdirSync("/sys/bus/rbd/devices").join(" "), "");
      return `${notMounted(stagedAt)}, no device mapped`;
    },
  );

  await step(
    "DeleteVolume",
    () => controller.deleteVolume({ volumeId, secrets }, LIMIT),
    async () => {
      expectEqual("images", await images(), before);
      return "image in the trash, purge queued";
    },
  );
  await step(
    "nothing is left in the pool",
    async () => {
      const until = Date.now() + 60_000;
      while ((await ceph.exec("rbd", "trash", "ls", "--all", "rbd")).trim() !== "") {
        if (Date.now() > until) throw new Error("the image is still in the trash after 60 s");
        await Bun.sleep(200);
      }
      expectEqual("journal objects", await journal(), "empty");
      expectEqual("names in csi.volumes.default", await rados("listomapkeys", "csi.volumes.default"), "");
      const data = (await rados("ls")).split("\n").filter((name) => /^rbd_(data|header|id|object_map)\./.test(name));
      expectEqual("objects of images", data.join("\n"), "");
    },
    () => "no image, no trash, no journal entry, no data object",
  );
  for (const each of [identity, controller, node]) each.close();
};
