/**
 * The calls of kubelet and the sidecars to a driver, for tests on a real kernel, and the kernel's own lists of what is
 * mapped and mounted.
 *
 * 1. Only the driver changes the state that a test is about. What a test checks it reads from the kernel or from Ceph's
 *    tools.
 */
import { afterAll, beforeAll } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type CreateVolumeRequestSchema,
  type VolumeCapability,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapabilitySchema,
} from "../../lib/gen/csi_pb.ts";
import { codeName } from "../../lib/grpc/status.ts";
import { attribute, namesIn, unlessAbsent } from "../../lib/host/mapper/sysfs.ts";
import { mountsAt } from "../../lib/host/mountinfo.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { makePool } from "../ceph/inventory.ts";
import { CLUSTER, GIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { mountTable, tool } from "./loop.ts";
import { processesWith } from "./processes.ts";

export const LIMIT = { timeoutMs: 100_000 };
/** Milliseconds that a test of several such calls may take. */
export const MINUTES = 240_000;
export type Kind = "ext4" | "ext3" | "xfs" | "btrfs" | "squashfs" | "block";

export const capabilityOf = (
  kind: Kind,
  mode = Mode.SINGLE_NODE_WRITER,
  mountFlags: string[] = [],
): Exclude<MessageInitShape<typeof VolumeCapabilitySchema>, VolumeCapability> =>
  kind === "block"
    ? { accessType: { case: "block", value: {} }, accessMode: { mode } }
    : { accessType: { case: "mount", value: { fsType: kind, mountFlags } }, accessMode: { mode } };

/** The code and message of a call's failure; `undefined`: the call succeeds. */
export const failureOf = async (call: Promise<unknown>): Promise<{ code: string; message: string } | undefined> => {
  try {
    await call;
    return undefined;
  } catch (error) {
    const { code, details } = error as { code?: number; details?: string };
    if (typeof code !== "number") throw error;
    return { code: codeName(code), message: details ?? "" };
  }
};

export const BUS = "/sys/bus/rbd/devices";
/** The images that the kernel has mapped, as `pool/image`. A device may go while it is looked at. */
export const mapped = (): readonly string[] =>
  namesIn(BUS).flatMap((id) => {
    const read = (name: string) => attribute(join(BUS, id, name));
    return unlessAbsent(() => `${read("pool")}/${read("name")}`) ?? [];
  });

/** The network block devices that the kernel has connected, by the cookie that rbd-nbd was given, else by their names. */
export const nbdDevices = (): ReadonlyMap<string, string> => {
  const names = readdirSync("/sys/block").filter((name) => existsSync(`/sys/block/${name}/pid`));
  const cookieOf = (name: string) => unlessAbsent(() => attribute(`/sys/block/${name}/backend`)) ?? name;
  return new Map(names.map((name) => [cookieOf(name), `/dev/${name}`]));
};

/** The log of a volume's rbd-nbd process. */
export const nbdLogOf = ({ volumeId }: TestVolume): string => `/var/log/ceph/rbd-nbd-${volumeId}.log`;

/** The rbd-nbd processes of a volume. */
export const nbdProcessesOf = ({ volumeId }: TestVolume): number[] =>
  processesWith((line) => line.startsWith("rbd-nbd\0") && line.includes(`\0--cookie=${volumeId}\0`));

/** What an unstage must have taken away: the mapped devices of a volume, and the entries of its staging folder. */
export const left = (volume: TestVolume) => [
  [...mapped(), ...nbdDevices().keys()].filter((each) => each === volume.spec || each === volume.volumeId),
  readdirSync(volume.staging),
];

/** The options of the uppermost mount at a path. */
export const optionsAt = (path: string): readonly string[] => mountsAt(mountTable(), path).at(-1)?.options ?? [];

export const rbd = (...command: string[]): string => tool("rbd", "-c", rig().conf, ...command);

/** Writes random bytes and syncs them; -> their checksum. */
export const writeData = (path: string, mebibytes: number, flag = "w"): string => {
  const data = randomBytes(mebibytes << 20);
  const fd = openSync(path, flag);
  try {
    for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  return createHash("sha256").update(data).digest("hex");
};

export const checksum = (path: string, mebibytes: number): string => {
  const data = Buffer.alloc(mebibytes << 20);
  const fd = openSync(path, "r");
  try {
    for (let at = 0; at < data.length; ) {
      const read = readSync(fd, data, at, data.length - at, at);
      if (read === 0) throw new Error(`${path} ends after ${at} bytes`);
      at += read;
    }
  } finally {
    closeSync(fd);
  }
  return createHash("sha256").update(data).digest("hex");
};

/** What kubelet knows of a volume: its PersistentVolume, and where its pods are. */
export interface KnownVolume {
  readonly kind: Kind;
  readonly volumeId: string;
  readonly volumeContext: Readonly<Record<string, string>>;
  readonly image: string;
  readonly staging: string;
  readonly pods: string;
  readonly mode: Mode;
  readonly mountFlags: string[];
  readonly secrets: Readonly<Record<string, string>>;
}

/** The calls that kubelet and the resizer make for a volume. */
const volumeOf = (driver: () => Driver, pool: string, known: KnownVolume) => {
  const { kind, volumeId, volumeContext, image, staging, pods, mode, mountFlags } = known;
  const volumeCapability = capabilityOf(kind, mode, mountFlags);
  const request = { volumeId, stagingTargetPath: staging };
  const given = { secrets: { ...known.secrets }, volumeContext: { ...volumeContext } };
  return {
    ...known,
    spec: `${pool}/${image}`,
    stagingTarget: join(staging, volumeId),
    target: join(pods, "0"),
    /** The same volume, as another PersistentVolume, another pod or another node has it. */
    as: (more: Partial<KnownVolume>, by = driver) => volumeOf(by, pool, { ...known, ...more }),
    stage: (limit = LIMIT) => driver().node.nodeStageVolume({ ...request, ...given, volumeCapability }, limit),
    unstage: (limit = LIMIT) => driver().node.nodeUnstageVolume(request, limit),
    publish: (
      pod = "0",
      readonly = false,
      publishSecrets: Readonly<Record<string, string>> = {},
      podInfo: Readonly<Record<string, string>> = {},
    ) =>
      driver().node.nodePublishVolume(
        {
          ...request,
          volumeContext: { ...given.volumeContext, ...podInfo },
          targetPath: join(pods, pod),
          volumeCapability,
          readonly,
          secrets: { ...publishSecrets },
        },
        LIMIT,
      ),
    unpublish: (pod = "0") => driver().node.nodeUnpublishVolume({ volumeId, targetPath: join(pods, pod) }, LIMIT),
    grow: (requiredBytes: bigint) =>
      driver().controller.controllerExpandVolume(
        { volumeId, capacityRange: { requiredBytes }, volumeCapability, secrets: given.secrets },
        LIMIT,
      ),
    expand: (requiredBytes: bigint, limit = LIMIT) =>
      driver().node.nodeExpandVolume(
        { ...request, volumePath: join(pods, "0"), capacityRange: { requiredBytes }, volumeCapability },
        limit,
      ),
    stats: (pod = "0") => driver().node.nodeGetVolumeStats({ volumeId, volumePath: join(pods, pod) }, LIMIT),
  };
};

export type TestVolume = ReturnType<typeof volumeOf>;

/** Makes what the driver is to find in its folder; -> further flags. */
export type Prepare = (dir: string) => readonly string[];

/** A new pool, and a driver that serves all of CSI on this node. */
export const makeWorld = async (prefix: string, prepare: Prepare = () => [], through: readonly string[] = []) => {
  const dir = testFolder(prefix);
  const flags = ["--nodeserver=true", ...prepare(dir)];
  const pool = await makePool(prefix);
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  const start = () => startDriver({ dir, flags, through });
  let driver: Driver = await start();
  let count = 0;

  /** A volume that is there already, with folders of its own on this node. */
  const known = (volume: Pick<KnownVolume, "kind" | "volumeId" | "volumeContext" | "image">): TestVolume => {
    const name = `${prefix}-known-${count++}`;
    const staging = join(dir, name, "staging");
    const pods = join(dir, name, "pods");
    for (const folder of [staging, pods]) mkdirSync(folder, { recursive: true });
    const usual = { mode: Mode.SINGLE_NODE_WRITER, mountFlags: [], secrets: secrets() };
    return volumeOf(() => driver, pool.name, { ...usual, ...volume, staging, pods });
  };

  /** A new volume of 1 GiB, unless `more` asks for another. */
  const makeVolume = async (
    kind: Kind,
    parameters: Readonly<Record<string, string>> = {},
    more: Omit<MessageInitShape<typeof CreateVolumeRequestSchema>, "$typeName"> = {},
  ): Promise<TestVolume> => {
    const { volume } = await driver.controller.createVolume(
      {
        name: `${prefix}-${count++}`,
        capacityRange: { requiredBytes: GIB },
        volumeCapabilities: [capabilityOf(kind)],
        parameters: {
          clusterID: CLUSTER,
          pool: pool.name,
          imageFeatures: "layering,exclusive-lock,object-map,fast-diff",
          ...parameters,
        },
        secrets: secrets(),
        ...more,
      },
      LIMIT,
    );
    if (volume === undefined) throw new Error("no volume");
    const { volumeId, volumeContext } = volume;
    return known({ kind, volumeId, volumeContext, image: volumeContext["imageName"] ?? "" });
  };

  return {
    dir,
    pool,
    driver: () => driver,
    known,
    makeVolume,
    /** Ends the driver, by default as a crash does, and starts another one. */
    restart: async (signal: "SIGTERM" | "SIGKILL" = "SIGKILL") => {
      await driver.end(signal);
      driver = await start();
    },
    end: async () => {
      await driver.end();
      await pool.remove();
    },
  };
};

export type World = Awaited<ReturnType<typeof makeWorld>>;

/** The world of all tests in a file, from the first one to the last. */
export const worldOfFile = (prefix: string, prepare?: Prepare, through?: readonly string[]): (() => World) => {
  let world: World | undefined;
  beforeAll(async () => {
    world = await makeWorld(prefix, prepare, through);
  }, 300_000);
  afterAll(async () => {
    await world?.end();
  }, 60_000);
  return () => {
    if (world === undefined) throw new Error(`${prefix}: a test's world begins with its first test`);
    return world;
  };
};
