/**
 * What tests of the Controller ask for, of which cluster, and what they look at: requests, clusters in memory that outlive
 * their drivers, and answers.
 *
 * Not here: drivers (./one-world.ts) and faults (./ceph-faults.ts).
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Cluster } from "../../lib/config/clusters.ts";
import { parseVolumeId } from "../../lib/csi/volume-id.ts";
import {
  ControllerExpandVolumeRequestSchema,
  ControllerModifyVolumeRequestSchema,
  CreateVolumeRequestSchema,
  DeleteVolumeRequestSchema,
  ValidateVolumeCapabilitiesRequestSchema,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapabilitySchema,
} from "../../lib/gen/csi_pb.ts";
import { codeName, RpcError } from "../../lib/grpc/status.ts";
import type { LockRow, LocksService } from "../../lib/operations/locks.ts";
import {
  cephMemoryService,
  MEMORY_KEY,
  memoryAccess,
  MemoryCluster,
  type MemoryOptions,
} from "./ceph-memory/memory.ts";

export const MIB = 1n << 20n;
export const GIB = 1n << 30n;

export const EAST: Cluster = {
  clusterId: "east",
  monitors: ["127.0.0.1:6789"],
  radosNamespace: "",
  netNamespaceFilePath: "",
  mirrorDaemonCount: 1,
  readAffinity: { enabled: false, crushLocationLabels: [] },
};
export const SECRETS = { userID: "admin", userKey: MEMORY_KEY };
export const PARAMETERS = { clusterID: "east", pool: "rbd" };

type Capability = Fields<typeof VolumeCapabilitySchema>;
export const mounted = (mode: Mode): Capability => ({
  accessType: { case: "mount", value: { fsType: "ext4" } },
  accessMode: { mode },
});
/** For one node, as a filesystem of the type. */
export const formatted = (fsType: string): Capability => ({
  accessType: { case: "mount", value: { fsType } },
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
});
export const asBlock = (mode: Mode): Capability => ({ accessType: { case: "block", value: {} }, accessMode: { mode } });
export const MOUNT = mounted(Mode.SINGLE_NODE_WRITER);

// -------------------------------------------------------------------------------------------------- requests

/** Some fields of a message. */
export type Fields<M extends DescMessage> = Exclude<MessageInitShape<M>, MessageShape<M>>;
export type CreateInit = Fields<typeof CreateVolumeRequestSchema>;

/** A request for 1 GiB as `pvc-1`, but for what `more` says. */
export const creation = (more: CreateInit = {}) =>
  create(CreateVolumeRequestSchema, {
    name: "pvc-1",
    capacityRange: { requiredBytes: GIB },
    volumeCapabilities: [MOUNT],
    parameters: PARAMETERS,
    secrets: SECRETS,
    ...more,
  });

export const deletion = (volumeId: string, more: Fields<typeof DeleteVolumeRequestSchema> = {}) =>
  create(DeleteVolumeRequestSchema, { volumeId, secrets: SECRETS, ...more });

export const expansion = (volumeId: string, more: Fields<typeof ControllerExpandVolumeRequestSchema> = {}) =>
  create(ControllerExpandVolumeRequestSchema, {
    volumeId,
    secrets: SECRETS,
    capacityRange: { requiredBytes: 2n * GIB },
    ...more,
  });

/** What a VolumeAttributesClass asks for. */
export const modification = (volumeId: string, mutableParameters: Readonly<Record<string, string>>) =>
  create(ControllerModifyVolumeRequestSchema, { volumeId, secrets: SECRETS, mutableParameters });

export const validation = (volumeId: string, more: Fields<typeof ValidateVolumeCapabilitiesRequestSchema> = {}) =>
  create(ValidateVolumeCapabilitiesRequestSchema, {
    volumeId,
    volumeCapabilities: [MOUNT],
    secrets: SECRETS,
    ...more,
  });

// --------------------------------------------------------------------------------------------------- cluster

/** A cluster with the pools `rbd` (id 2), `ssd` (3) and `ec` (4). */
export const aCluster = (options: MemoryOptions = {}): MemoryCluster =>
  new MemoryCluster({ pools: ["rbd", "ssd", "ec"], ...options });

type Objects = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** Writes objects as another driver would have. */
export const seed = (cluster: MemoryCluster, objects: Objects, pool = "rbd", namespace = ""): void => {
  const there = cluster.namespace(pool, namespace);
  for (const [name, omap] of Object.entries(objects)) there?.objects.set(name, new Map(Object.entries(omap)));
};

/** The objects of the pool `rbd`, to be changed behind the driver's back. */
export const objectsOf = (cluster: MemoryCluster) => {
  const objects = cluster.namespace("rbd", "")?.objects;
  if (objects === undefined) throw new Error("no such pool");
  return objects;
};

/** An image of 1 GiB that another driver made -> its id. */
export const seedImage = async (cluster: MemoryCluster, image: string, pool = "rbd"): Promise<string> => {
  const ref = { access: memoryAccess, pool, namespace: "" };
  await Effect.runPromise(cephMemoryService(cluster).imageCreate(ref, image, { sizeBytes: GIB }));
  return cluster.image(pool, image).id;
};

/** Makes all images larger, such as beyond what the driver removes from the trash itself. */
export const growAll = (cluster: MemoryCluster, sizeBytes: bigint, pool = "rbd"): void => {
  for (const image of cluster.namespace(pool, "")?.images.values() ?? []) image.sizeBytes = sizeBytes;
};

/** What the pool holds, as the dump of a cluster shows it; nothing where there is nothing. */
export const poolDump = (cluster: MemoryCluster, pool = "rbd", namespace = "") =>
  cluster.dump()[pool]?.[namespace] ?? { objects: {}, images: {}, bareNames: {}, trash: {} };

/** `poolDump` without who makes what is not complete: each call that goes on with it writes that anew. */
export const poolDumpWithoutMakers = (cluster: MemoryCluster) => {
  const { objects, ...rest } = poolDump(cluster);
  const kept = Object.entries(objects).map(
    ([object, entries]) => [object, Object.entries(entries).filter(([key]) => key !== "csi-rbd.maker")] as const,
  );
  return { ...rest, objects: Object.fromEntries(kept) };
};

/** The cluster's dump with UUIDs and image ids as ordinals: equal for states that differ in those only. */
export const shape = (cluster: MemoryCluster): unknown => {
  const text = JSON.stringify(cluster.dump());
  const ordinals = (pattern: RegExp, word: string) => {
    const seen: string[] = [];
    return (before: string) =>
      before.replaceAll(pattern, (found) => {
        if (!seen.includes(found)) seen.push(found);
        return `${word}-${seen.indexOf(found) + 1}`;
      });
  };
  const uuids = ordinals(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "uuid");
  const images = ordinals(/\b00000000[0-9a-f]{4}\b/g, "image");
  return JSON.parse(images(uuids(text)));
};

/** The UUID in a volume ID. */
export const uuidOf = (volumeId: string): string => Result.getOrThrow(parseVolumeId(volumeId)).uuid;

// --------------------------------------------------------------------------------------------------- answers

/** The gRPC code that the call ends with; a defect is thrown on. */
export const codeOf = async (call: Promise<unknown>): Promise<string> => {
  const error = await failureOf(call);
  return error === undefined ? "OK" : error.code;
};

/** How the call fails; `undefined` when it does not. */
export const failureOf = async (
  call: Promise<unknown>,
): Promise<{ readonly code: string; readonly message: string } | undefined> => {
  try {
    await call;
    return undefined;
  } catch (error) {
    if (error instanceof RpcError) return { code: codeName(error.code), message: error.message };
    throw error;
  }
};

/** Waits until `condition` holds; fails after ten seconds, for the machine may be busy. */
export const eventually = async (condition: () => boolean, what: string): Promise<void> => {
  const limit = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > limit) throw new Error(`not within ten seconds: ${what}`);
    await Bun.sleep(1);
  }
};

/** The line in front of a lock, once somebody waits in it: what shows that a call has come, and does not go on yet. */
export const waitsFor = async (
  driver: { readonly locks: () => Promise<LocksService> },
  key: string,
): Promise<LockRow> => {
  const locks = await driver.locks();
  const line = () => locks.table().find((row) => row.key === key && row.waiting > 0);
  await eventually(() => line() !== undefined, `somebody waits for ${key}`);
  const found = line();
  if (found === undefined) throw new Error(`nobody waits for ${key} any more`);
  return found;
};
