/**
 * What tests of the Node service ask for, and a node in memory that outlives its drivers: they die and start again on it.
 * Goes with ./world.ts, which has the cluster's side.
 *
 * 1. `crashing` counts the calls to Ceph and to the host as one row, in the order in which they begin to run.
 * 2. After its crash a driver makes no call any more: undo steps that still run in the process change nothing.
 */
import { create } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import {
  NodeExpandVolumeRequestSchema,
  NodeGetVolumeStatsRequestSchema,
  NodePublishVolumeRequestSchema,
  NodeStageVolumeRequestSchema,
  NodeUnpublishVolumeRequestSchema,
  NodeUnstageVolumeRequestSchema,
} from "../../lib/gen/csi_pb.ts";
import { intercepted } from "./ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "./ceph-memory/memory.ts";
import { interceptedHost } from "./host-faults.ts";
import { type Disk, hostMemoryService, MemoryNode } from "./host-memory.ts";
import { aDriver, type Driver, type DriverWorld } from "./one-world.ts";
import { aCluster, type Fields, GIB, MOUNT, PARAMETERS, SECRETS, seed, seedImage } from "./world.ts";

export const UUID = "11111111-2222-4333-8444-555555555555";
export const OTHER_UUID = "11111111-2222-4333-8444-666666666666";
export const volumeIdOf = (uuid: string): string => `0001-0004-east-0000000000000002-${uuid}`;
export const VOLUME = volumeIdOf(UUID);
export const IMAGE = `csi-vol-${UUID}`;
export const STAGING = "/kubelet/staging";
export const PLACE = `${STAGING}/${VOLUME}`;
export const TARGET = "/kubelet/pods/1/mount";
export const STASH = `${STAGING}/image-meta.json`;

export const staging = (more: Fields<typeof NodeStageVolumeRequestSchema> = {}) =>
  create(NodeStageVolumeRequestSchema, {
    volumeId: VOLUME,
    stagingTargetPath: STAGING,
    volumeCapability: MOUNT,
    volumeContext: { ...PARAMETERS, imageName: IMAGE },
    secrets: SECRETS,
    ...more,
  });
export const unstaging = (more: Fields<typeof NodeUnstageVolumeRequestSchema> = {}) =>
  create(NodeUnstageVolumeRequestSchema, { volumeId: VOLUME, stagingTargetPath: STAGING, ...more });
export const publishing = (more: Fields<typeof NodePublishVolumeRequestSchema> = {}) =>
  create(NodePublishVolumeRequestSchema, {
    volumeId: VOLUME,
    stagingTargetPath: STAGING,
    targetPath: TARGET,
    volumeCapability: MOUNT,
    ...more,
  });
export const unpublishing = (more: Fields<typeof NodeUnpublishVolumeRequestSchema> = {}) =>
  create(NodeUnpublishVolumeRequestSchema, { volumeId: VOLUME, targetPath: TARGET, ...more });
export const expanding = (more: Fields<typeof NodeExpandVolumeRequestSchema> = {}) =>
  create(NodeExpandVolumeRequestSchema, {
    volumeId: VOLUME,
    volumePath: TARGET,
    stagingTargetPath: STAGING,
    ...more,
  });
export const statistics = (more: Fields<typeof NodeGetVolumeStatsRequestSchema> = {}) =>
  create(NodeGetVolumeStatsRequestSchema, { volumeId: VOLUME, volumePath: TARGET, ...more });

/** A dynamic volume of 1 GiB, complete in journal and pool. */
export const seedVolume = async (cluster: MemoryCluster, uuid = UUID): Promise<void> => {
  const image = `csi-vol-${uuid}`;
  const id = await seedImage(cluster, image);
  seed(cluster, {
    [`csi.volume.${uuid}`]: { "csi.volname": `pvc-${uuid}`, "csi.imagename": image, "csi.imageid": id },
  });
};

export const STATE = "rbd.csi.ceph.com/encrypted";
export const PASSPHRASE = "the passphrase of all volumes";
/** What an encrypted volume is staged with, by the key store `default`. */
export const ENCRYPTED = {
  volumeContext: { ...PARAMETERS, imageName: IMAGE, encrypted: "true" },
  secrets: { ...SECRETS, encryptionPassphrase: PASSPHRASE },
};

/** Makes the volume one that CreateVolume made to be encrypted, and that was never staged. */
export const toBeEncrypted = (cluster: MemoryCluster, uuid = UUID): void => {
  const journal = cluster.namespace("rbd", "")?.objects.get(`csi.volume.${uuid}`);
  journal?.set("csi.volume.encryptKMS", "default").set("csi.volume.encryptionType", "block");
  cluster.image("rbd", `csi-vol-${uuid}`).meta.set(STATE, "encryptionPrepared");
};

/** A cluster with the volume, and a node that has never seen it. */
export const aNode = async (): Promise<{ cluster: MemoryCluster; host: MemoryNode }> => {
  const cluster = aCluster();
  await seedVolume(cluster);
  const host = new MemoryNode(cluster);
  host.addDirectory(STAGING);
  host.addDirectory("/kubelet/pods/1");
  return { cluster, host };
};

/** `aNode` whose volume is to be encrypted. */
export const anEncryptedNode = async () => {
  const world = await aNode();
  toBeEncrypted(world.cluster);
  return { ...world, image: world.cluster.image("rbd", IMAGE) };
};

/** A filesystem with a file in it that must not be lost. */
export const EXT4 = (): Disk => ({
  kind: "filesystem",
  type: "ext4",
  sizeBytes: GIB,
  files: new Map([["data", "precious"]]),
});

/** A driver on that node; `await using` ends it. */
export const nodeOn = (host: MemoryNode, given: DriverWorld = {}): Driver =>
  aDriver(host.cluster, { host: hostMemoryService(host), ...given });

/** A driver that dies at its k-th call to Ceph or the host: before it is made, or after it has acted. */
export const crashing = (host: MemoryNode, k: number, moment: "before" | "after") => {
  let begun = 0;
  let crashedAt: string | undefined;
  const around = <A, E>(name: string, act: Effect.Effect<A, E>): Effect.Effect<A, E> => {
    if (crashedAt !== undefined) return Effect.die(new Error("a dead driver makes no call"));
    begun += 1;
    if (begun !== k) return act;
    crashedAt = name;
    const death = Effect.die(new Error(`the driver died at call ${k}, ${name}`));
    return moment === "before" ? death : Effect.andThen(Effect.exit(act), death);
  };
  return {
    ceph: intercepted(cephMemoryService(host.cluster), ({ method }, act) => around(`Ceph.${method}`, act)),
    host: interceptedHost(hostMemoryService(host), ({ method }, act) => around(`Host.${method}`, act)),
    crashedAt: () => crashedAt,
  };
};
