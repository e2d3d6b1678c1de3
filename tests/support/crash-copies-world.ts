/**
 * From which states the RPCs of snapshots and copies start in the tests of crashes and failures, and how two clusters
 * are compared whose UUIDs were drawn.
 *
 * 1. Every world has a bystander, `pvc-other` with a snapshot and a clone, that nothing may touch.
 * 2. Two states are equal when they are after each UUID is called by the name that the journal gives it, and each image
 *    ID by the image's name. What no name leads to keeps its UUID, and so is equal to nothing.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { NoSpace } from "../../lib/ceph/errors.ts";
import { type CephMethod, intercepted } from "./ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "./ceph-memory/memory.ts";
import { aDriver, type Driver } from "./one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  PARAMETERS,
  POOL,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
} from "./copies-world.ts";
import { aCluster, deletion, GIB, poolDump, seed, uuidOf } from "./world.ts";

export const SETTINGS = { flags: { clustername: "prod" } };

/** With these, the copy of a volume that has a snapshot goes through an image in between, and nothing is flattened yet. */
export const SETTINGS_THROUGH = { flags: { ...SETTINGS.flags, minsnapshotsonimage: 2 } };

/** What a scenario's calls are about, filled by its preparation. */
export interface Ids {
  volumeId: string;
  snapshotId: string;
  copyId: string;
}

export interface CopyScenario {
  readonly name: string;
  /** Of every driver; absent: `SETTINGS`. */
  readonly settings?: typeof SETTINGS;
  /** On top of `pvc-1` with data. */
  readonly prepare?: (cluster: MemoryCluster, driver: Driver, ids: Ids) => Promise<unknown>;
  readonly call: (driver: Driver, ids: Ids) => Promise<unknown>;
  /** Faults of the first driver, besides its death. */
  readonly ceph?: (inner: CephCalls) => CephCalls;
  /** The journal's key of what is made; it must keep the UUID that it had when the driver died. */
  readonly makes?: readonly [directory: string, key: string];
  /** Takes away what the call made: then the cluster is as before. */
  readonly undo?: (driver: Driver, made: unknown) => Promise<unknown>;
  /** An undo that is cut off between name and object leaves an object of a UUID that nobody was ever told. */
  readonly mayOrphan?: boolean;
}

export const DIRECTORIES = ["csi.volumes.default", "csi.snaps.default"] as const;
const K8S = "csi.storage.k8s.io/";
const volumeNames = (name: string) => ({ ...PARAMETERS, [`${K8S}pv/name`]: name });

/** A cluster with the bystander and `pvc-1`, in the scenario's state. */
export const aWorld = async ({
  prepare,
  settings = SETTINGS,
}: CopyScenario): Promise<{ cluster: MemoryCluster; ids: Ids }> => {
  const cluster = aCluster();
  for (const directory of DIRECTORIES) seed(cluster, { [directory]: {} });
  await using driver = aDriver(cluster, settings);
  const other = await aVolume(driver, cluster, { name: "pvc-other" });
  await readySnapshot(driver, snapshotOf(other, { name: "snap-other" }));
  await driver.createVolume(cloneOf(other, { name: "pvc-other-clone" }));
  const volumeId = await aVolume(driver, cluster, { parameters: volumeNames("pvc-1") });
  const ids = { volumeId, snapshotId: "", copyId: "" };
  await prepare?.(cluster, driver, ids);
  await idle(cluster);
  return { cluster, ids };
};

/** Lets the manager do all that it can: a parent goes only after its children. */
export const idle = async (cluster: MemoryCluster): Promise<void> => {
  // what runs behind an answer comes to its end first
  for (let n = 0; n < 30; n++) await new Promise((resolve) => setImmediate(resolve));
  while (cluster.runManager() > 0);
};

/** Takes an image to the trash and leaves it there, as a driver does that dies on the way. */
const trash = (cluster: MemoryCluster, image: string) =>
  Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, image));

/** Fails the n-th call of a method, for good cause. */
const failing =
  (method: CephMethod, nth: number) =>
  (inner: CephCalls): CephCalls => {
    let seen = 0;
    return intercepted(inner, (call, act) =>
      call.method === method && ++seen === nth ? Effect.fail(new NoSpace({ op: "a_call", subject: "rbd" })) : act,
    );
  };

const withSnapshot = async (_: MemoryCluster, driver: Driver, ids: Ids) => {
  ids.snapshotId = (await readySnapshot(driver, snapshotOf(ids.volumeId))).snapshotId;
};
const withClone = async (_: MemoryCluster, driver: Driver, ids: Ids) => {
  ids.copyId = (await driver.createVolume(cloneOf(ids.volumeId))).volume.volumeId;
};
const withRestore = async (cluster: MemoryCluster, driver: Driver, ids: Ids) => {
  await withSnapshot(cluster, driver, ids);
  ids.copyId = (await driver.createVolume(restoreOf(ids.snapshotId))).volume.volumeId;
};
const nameOnly = (directory: string, key: string) => async (cluster: MemoryCluster) =>
  void cluster.namespace("rbd", "")?.objects.get(directory)?.set(key, "b0285c97-a0ce-41eb-8c66-0242ac110002");

const SNAP_KEY = ["csi.snaps.default", "csi.snap.snap-1"] as const;
export const COPY_KEY = ["csi.volumes.default", "csi.volume.pvc-copy"] as const;

const parameters = volumeNames("pvc-copy");
const larger = { capacityRange: { requiredBytes: 2n * GIB }, parameters };
const takeSnapshot = (driver: Driver, { volumeId }: Ids) =>
  readySnapshot(
    driver,
    snapshotOf(volumeId, { parameters: { clusterID: "east", [`${K8S}volumesnapshot/name`]: "s" } }),
  );
const dropSnapshot = (driver: Driver, { snapshotId }: Ids) => driver.deleteSnapshot(snapshotDeletion(snapshotId));
const restore = (driver: Driver, { snapshotId }: Ids) => driver.createVolume(restoreOf(snapshotId, { parameters }));
const clone = (driver: Driver, { volumeId }: Ids) => driver.createVolume(cloneOf(volumeId, { parameters }));
const dropCopy = (driver: Driver, { copyId }: Ids) => driver.deleteVolume(deletion(copyId));

const undoSnapshot: CopyScenario["undo"] = (driver, made) =>
  driver.deleteSnapshot(snapshotDeletion((made as Awaited<ReturnType<typeof readySnapshot>>).snapshotId));
const undoCopy: CopyScenario["undo"] = (driver, made) =>
  driver.deleteVolume(deletion((made as Awaited<ReturnType<Driver["createVolume"]>>).volume.volumeId));

const takes = { call: takeSnapshot, makes: SNAP_KEY, undo: undoSnapshot };
const restores = { call: restore, makes: COPY_KEY, undo: undoCopy };
const clones = { call: clone, makes: COPY_KEY, undo: undoCopy };

/** `clonesMade`: which of its clones can fail. */
const copiesOfVolumes = (clonesMade: readonly number[]): readonly CopyScenario[] => [
  { name: "CreateVolume from a volume", ...clones },
  {
    name: "CreateVolume from a volume, larger",
    ...clones,
    call: (driver, { volumeId }) => driver.createVolume(cloneOf(volumeId, larger)),
  },
  {
    name: "CreateVolume from a volume, of a half-reserved name",
    prepare: nameOnly(...COPY_KEY),
    call: clone,
    makes: COPY_KEY,
  },
  ...clonesMade.map((nth) => ({
    name: `CreateVolume from a volume that fails at its clone ${nth} and undoes`,
    ...clones,
    ceph: failing("imageClone", nth),
    mayOrphan: true,
  })),
  {
    name: "CreateVolume from a volume that fails at its end and undoes",
    ...clones,
    ceph: failing("omapWrite", 3),
    mayOrphan: true,
  },
  { name: "DeleteVolume of a clone", prepare: withClone, call: dropCopy },
  {
    name: "DeleteVolume of a clone whose image is in the trash",
    prepare: async (cluster, driver, ids) => {
      await withClone(cluster, driver, ids);
      await trash(cluster, imageOf(ids.copyId));
    },
    call: dropCopy,
  },
  {
    name: "DeleteVolume of one with a snapshot and a clone",
    prepare: async (cluster, driver, ids) => {
      await withSnapshot(cluster, driver, ids);
      await withClone(cluster, driver, ids);
    },
    call: (driver, { volumeId }) => driver.deleteVolume(deletion(volumeId)),
  },
];

const TRASHED_IN_BETWEEN: CopyScenario = {
  name: "DeleteVolume of a clone both of whose images are in the trash",
  prepare: async (cluster, driver, ids) => {
    await withClone(cluster, driver, ids);
    await trash(cluster, imageOf(ids.copyId));
    await trash(cluster, `${imageOf(ids.copyId)}-temp`);
  },
  call: dropCopy,
};

export const copyScenarios: readonly CopyScenario[] = [
  { name: "CreateSnapshot", ...takes },
  {
    name: "CreateSnapshot of a half-reserved name",
    prepare: nameOnly(...SNAP_KEY),
    call: takeSnapshot,
    makes: SNAP_KEY,
  },
  { name: "CreateSnapshot of one that is there", prepare: withSnapshot, call: takeSnapshot, makes: SNAP_KEY },
  {
    name: "CreateSnapshot that can't hold its point in time and undoes",
    ...takes,
    ceph: failing("imageClone", 1),
    mayOrphan: true,
  },
  {
    name: "CreateSnapshot that can't tell what it holds and undoes",
    ...takes,
    ceph: failing("imageBriefs", 1),
    mayOrphan: true,
  },
  { name: "DeleteSnapshot", prepare: withSnapshot, call: dropSnapshot },
  { name: "DeleteSnapshot of one with a restore", prepare: withRestore, call: dropSnapshot },
  {
    name: "DeleteSnapshot of one that is half deleted",
    prepare: async (cluster, driver, ids) => {
      await withSnapshot(cluster, driver, ids);
      await byHand(cluster).dropSnapshot(holderOf(ids.snapshotId), holderOf(ids.snapshotId));
      await trash(cluster, holderOf(ids.snapshotId));
    },
    call: dropSnapshot,
  },
  { name: "CreateVolume from a snapshot", prepare: withSnapshot, ...restores },
  {
    name: "CreateVolume from a snapshot, larger",
    prepare: withSnapshot,
    ...restores,
    call: (driver, { snapshotId }) => driver.createVolume(restoreOf(snapshotId, larger)),
  },
  {
    name: "CreateVolume from a snapshot, of a half-reserved name",
    prepare: async (cluster, driver, ids) => {
      await withSnapshot(cluster, driver, ids);
      await nameOnly(...COPY_KEY)(cluster);
    },
    call: restore,
    makes: COPY_KEY,
  },
  {
    name: "CreateVolume from a snapshot that fails at its end and undoes",
    prepare: withSnapshot,
    ...restores,
    ceph: failing("omapWrite", 3),
    mayOrphan: true,
  },
  { name: "DeleteVolume of a restore", prepare: withRestore, call: dropCopy },
  ...copiesOfVolumes([1]),
  ...[...copiesOfVolumes([1, 2]), TRASHED_IN_BETWEEN].map((scenario) => ({
    ...scenario,
    name: `${scenario.name}, by way of an image in between`,
    settings: SETTINGS_THROUGH,
    prepare: async (cluster: MemoryCluster, driver: Driver, ids: Ids) => {
      await readySnapshot(driver, snapshotOf(ids.volumeId, { name: "snap-before" }));
      await scenario.prepare?.(cluster, driver, ids);
    },
  })),
];

/** The cluster's dump by names; see 2 above. What the scenario began with keeps its part, also when its name is gone. */
export const canonical = (cluster: MemoryCluster, ids: Ids): unknown => {
  const dump = poolDump(cluster);
  const named = new Map(
    DIRECTORIES.flatMap((each) => Object.entries(dump.objects[each] ?? {}).map(([k, v]) => [v, k])),
  );
  for (const [part, id] of Object.entries(ids)) if (id !== "") named.set(uuidOf(id), part);
  const there = cluster.namespace("rbd", "");
  const images = [...(there?.images.values() ?? []), ...Array.from(there?.trash.values() ?? [], ({ image }) => image)];
  let text = JSON.stringify(dump);
  for (const { id, place } of images) text = text.replaceAll(id, `<id of ${place.name}>`);
  for (const [uuid, name] of named) text = text.replaceAll(uuid, `<${name}>`);
  return sorted(JSON.parse(text));
};

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) {
    const all = value.map(sorted);
    return all.every((each) => typeof each === "string") ? all.toSorted() : all;
  }
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
};

/** Forgets objects that neither a name nor an image belongs to -> how many there were. */
export const dropOrphans = (cluster: MemoryCluster): number => {
  const there = cluster.namespace("rbd", "");
  const named = new Set(DIRECTORIES.flatMap((each) => [...(there?.objects.get(each)?.values() ?? [])]));
  const orphans = [...(there?.objects.keys() ?? [])].filter((object) => {
    const uuid = object.slice(-36);
    const image = [...(there?.images.keys() ?? [])].some((name) => name.includes(uuid));
    return !DIRECTORIES.some((each) => each === object) && !named.has(uuid) && !image;
  });
  for (const object of orphans) there?.objects.delete(object);
  return orphans.length;
};

export const entryOf = (cluster: MemoryCluster, [directory, key]: readonly [string, string]): string | undefined =>
  poolDump(cluster).objects[directory]?.[key];
