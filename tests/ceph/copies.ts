/**
 * Snapshots and copies of volumes, asked for as the sidecars do it, and what is left of them in a pool.
 *
 * Not the requests for plain volumes (./requests.ts), and not what the driver promises: that is in copies-*.test.ts.
 */
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { Driver } from "./driver.ts";
import { directoryKeys, inventory, omapOf, tool, tryTool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, MIB, secrets } from "./requests.ts";

/** Small: what is tested is whose bytes are where. */
export const SIZE = 64n * MIB;

/** For ./bytes.ts, which has a connection of its own. */
export const poolAt = (pool: string): PoolRef => ({
  access: { monitors: [], user: "", key: undefined as never },
  pool,
  namespace: "",
});

export interface Volume {
  readonly id: string;
  readonly image: string;
}

export interface Settings {
  readonly timeoutMs: number;
}

const SETTINGS: Settings = { timeoutMs: 60_000 };

export const snapshotRequest = (name: string, sourceVolumeId: string) => ({
  name,
  sourceVolumeId,
  parameters: { clusterID: CLUSTER },
  secrets: secrets(),
});

export const dropRequest = (snapshotId: string) => ({ snapshotId, secrets: secrets() });

export const restoreRequest = (name: string, pool: string, snapshotId: string, size = SIZE) => ({
  ...createRequest(name, { pool }, size),
  volumeContentSource: { type: { case: "snapshot" as const, value: { snapshotId } } },
});

export const cloneRequest = (name: string, pool: string, volumeId: string, size = SIZE) => ({
  ...createRequest(name, { pool }, size),
  volumeContentSource: { type: { case: "volume" as const, value: { volumeId } } },
});

type Controller = Driver["controller"];

export const makeVolume = async (
  controller: Controller,
  request: Parameters<Controller["createVolume"]>[0],
  settings = SETTINGS,
): Promise<Volume> => {
  const { volume } = await controller.createVolume(request, settings);
  if (volume === undefined) throw new Error("no volume in the response");
  return { id: volume.volumeId, image: volume.volumeContext["imageName"] ?? "" };
};

/** One answer: a point in time, and whether volumes can be made of it. */
export const askSnapshot = async (
  controller: Controller,
  name: string,
  sourceVolumeId: string,
  settings = SETTINGS,
): Promise<{ readonly id: string; readonly ready: boolean }> => {
  const { snapshot } = await controller.createSnapshot(snapshotRequest(name, sourceVolumeId), settings);
  if (snapshot === undefined) throw new Error("no snapshot in the response");
  return { id: snapshot.snapshotId, ready: snapshot.readyToUse };
};

/** As external-snapshotter asks: until it is ready. -> its ID, which all answers agree in. */
export const readySnapshot = async (
  controller: Controller,
  name: string,
  sourceVolumeId: string,
  settings = SETTINGS,
): Promise<string> => {
  for (let known: string | undefined; ; ) {
    const { id, ready } = await askSnapshot(controller, name, sourceVolumeId, settings);
    if (known !== undefined && known !== id) throw new Error(`snapshot ${name} was ${known} and is ${id}`);
    if (ready) return id;
    known = id;
    await Bun.sleep(50);
  }
};

export const holderOf = (snapshotId: string): string => `csi-snap-${snapshotId.slice(-36)}`;

export const dropVolume = (controller: Controller, { id }: Volume) =>
  controller.deleteVolume(deleteRequest(id), SETTINGS);

export const dropSnapshot = (controller: Controller, id: string) =>
  controller.deleteSnapshot(dropRequest(id), SETTINGS);

/** Names of users and directories that stay when everything in them is gone. */
const USUAL = new Set(["csi.snaps.default"]);

/** What a pool still holds of volumes and snapshots: images, trash, journal, objects, keys of the directory. */
export const remains = async (pool: string): Promise<readonly string[]> => {
  const [{ images, trash, objects, names }, snaps, keys] = await Promise.all([
    inventory(pool),
    omapOf(pool, "csi.snaps.default"),
    directoryKeys(pool),
  ]);
  return [
    ...images.map((image) => `image ${image}`),
    ...trash.map((image) => `in the trash ${image}`),
    ...objects.filter((object) => !USUAL.has(object)).map((object) => `object ${object}`),
    ...names.keys(),
    ...(snaps ?? new Map<string, string>()).keys(),
    ...keys,
  ];
};

/** So long nobody has removed anything from a trash. */
const QUIET_MS = 3000;

/**
 * As `remains`, once all that can be removed is removed, or at the limit. A parent can go after its children only, and
 * the manager tries again half a minute after a failure, then later each time: what it would do then is done here, as soon
 * as nobody else removes images. librbd is not made for two clients of which one removes a parent and one its last clone.
 */
export const settledRemains = async (pool: string, limitMs: number): Promise<readonly string[]> => {
  let [last, since] = ["", 0];
  for (const deadline = Date.now() + limitMs; ; await Bun.sleep(500)) {
    const now = await remains(pool);
    if (now.length === 0 || Date.now() > deadline) return now;
    const trash = JSON.parse(await tool("rbd", "trash", "ls", "--all", pool, "--format=json")) as { id: string }[];
    const ids = trash.map(({ id }) => id).join(" ");
    if (ids !== last) [last, since] = [ids, Date.now()];
    if (Date.now() - since < QUIET_MS) continue;
    for (const { id } of trash) await tryTool("rbd", "trash", "rm", `${pool}/${id}`);
  }
};

export interface ImageInfo {
  readonly id: string;
  readonly size: number;
  readonly features: readonly string[];
  readonly parent?: {
    readonly pool: string;
    readonly image: string;
    readonly snapshot: string;
    readonly trash: boolean;
  };
}

export const infoOf = async (pool: string, image: string): Promise<ImageInfo> =>
  JSON.parse(await tool("rbd", "info", `${pool}/${image}`, "--format=json")) as ImageInfo;
