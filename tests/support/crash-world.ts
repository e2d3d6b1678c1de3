/**
 * From which states the mutating RPCs start in the tests of crashes and failures, and what one looks at afterwards.
 *
 * 1. Every world has a bystander, `pvc-other`, that nothing may touch; its UUID sorts before those that are drawn.
 * 2. Worlds are made anew for each run: nothing of one is seen in another.
 */
import volumes from "../golden/controller-calls.json";
import crashes from "../golden/crash-calls.json";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { NoSpace } from "../../lib/ceph/errors.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { DRIVERS_MARKS } from "../../lib/ceph/rbd.ts";
import { intercepted } from "./ceph-faults.ts";
import type { CutShort } from "./ceph-memory/cluster.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "./ceph-memory/memory.ts";
import { aDriver, type Driver } from "./one-world.ts";
import {
  aCluster,
  creation,
  deletion,
  expansion,
  GIB,
  modification,
  PARAMETERS,
  poolDump,
  seed,
  seedImage,
} from "./world.ts";

const BYSTANDER = "00000000-0000-4000-8000-000000000000";
export const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
export const VOLUME_ID = `0001-0004-east-0000000000000002-${UUID}`;
export const IMAGE = `csi-vol-${UUID}`;
const DIRECTORY = "csi.volumes.default";
const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };

/** All drivers write metadata: it is one call more to fail. */
export const SETTINGS = { flags: {} };

export interface Scenario {
  readonly name: string;
  /** Its row in the tables of calls: a death at each of them is tried. */
  readonly row: string;
  readonly prepare?: (cluster: MemoryCluster) => Promise<unknown>;
  readonly call: (driver: Driver) => Promise<unknown>;
  /** What comes after the retry of the call, by another caller. */
  readonly afterwards?: (driver: Driver) => Promise<unknown>;
  /** Faults of the first driver, besides its death. */
  readonly ceph?: (inner: CephCalls) => CephCalls;
  /** What it ends with, if not OK. */
  readonly code?: string;
  /** The image is there before the call. */
  readonly hasImage?: true;
  readonly creates?: boolean;
  /** The name is free at first: when its volume is deleted, the cluster is as before. */
  readonly isFresh?: boolean;
  /** The UUID of a volume that was complete makes room for another one. */
  readonly replaces?: boolean;
  /**
   * A death between the removals of name and object, in an undo, leaves an object of a UUID that nobody was ever told.
   * The other order would be worse: another driver may take the name as half-made just before it is removed.
   */
  readonly mayOrphan?: boolean;
  /** What a death in the middle of a call leaves of the image; each is tried. */
  readonly cuts?: readonly CutShort[];
}

const create = (driver: Driver) =>
  driver.createVolume(creation({ parameters: { ...PARAMETERS, "csi.storage.k8s.io/pv/name": "pvc-1" } }));
const remove = (driver: Driver) => driver.deleteVolume(deletion(VOLUME_ID));
const attributes = { "csi.volname": "pvc-1", "csi.imagename": IMAGE };

const aVolume = async (cluster: MemoryCluster): Promise<void> => {
  const id = await seedImage(cluster, IMAGE);
  seed(cluster, { [`csi.volume.${UUID}`]: { ...attributes, "csi.imageid": id } });
  cluster.namespace("rbd", "")?.objects.get(DIRECTORY)?.set("csi.volume.pvc-1", UUID);
};
/** As ceph-csi leaves it. */
const inTrash = async (cluster: MemoryCluster): Promise<void> => {
  await aVolume(cluster);
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, IMAGE));
};
/** As this driver leaves it. */
const markedInTrash = async (cluster: MemoryCluster): Promise<void> => {
  await aVolume(cluster);
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, IMAGE, DRIVERS_MARKS.small));
};
const aReservation = async (cluster: MemoryCluster): Promise<void> => {
  cluster.namespace("rbd", "")?.objects.get(DIRECTORY)?.set("csi.volume.pvc-1", UUID);
};
/** The attributes are written while the image is made: a death may leave the image without them. */
const anImageAlone = async (cluster: MemoryCluster): Promise<void> => {
  await aReservation(cluster);
  await seedImage(cluster, IMAGE);
};

/** Fails what comes last, the write of the image's ID, so that all that was made is undone. */
const failingAtTheEnd = (inner: CephCalls): CephCalls => {
  let writes = 0;
  return intercepted(inner, (call, act) =>
    call.method === "omapWrite" && ++writes === 3
      ? Effect.fail(new NoSpace({ op: "rados_write_op_operate", subject: "rbd" }))
      : act,
  );
};

const MAKING = ["header", "object-map"] as const;
const MOVING = ["trash-entered", "name-gone", "entry-gone"] as const;

export const scenarios: readonly Scenario[] = [
  {
    name: "CreateVolume",
    row: "CreateVolume: a new name, with metadata",
    call: create,
    creates: true,
    isFresh: true,
    cuts: MAKING,
  },
  {
    name: "CreateVolume that fails at its end and undoes",
    row: "CreateVolume: a new name, and the last call fails",
    call: create,
    ceph: failingAtTheEnd,
    code: "RESOURCE_EXHAUSTED",
    creates: true,
    isFresh: true,
    mayOrphan: true,
    cuts: [...MAKING, "name-gone", "entry-gone"],
  },
  {
    name: "CreateVolume of a half-reserved name",
    row: "CreateVolume: a name that is half reserved",
    prepare: aReservation,
    call: create,
    creates: true,
    cuts: MAKING,
  },
  {
    name: "CreateVolume of a half-reserved name that has an image",
    row: "CreateVolume: a name that is half reserved and has an image",
    prepare: anImageAlone,
    call: create,
    creates: true,
    hasImage: true,
  },
  {
    name: "CreateVolume of a half-reserved name that has the name of an image",
    row: "CreateVolume: a name that is half reserved",
    prepare: async (cluster) => {
      await anImageAlone(cluster);
      cluster.cutShort("header", "rbd", IMAGE);
    },
    call: create,
    creates: true,
    cuts: MAKING,
  },
  {
    name: "CreateVolume of a volume that is there",
    row: "CreateVolume: a volume that is there, with metadata",
    prepare: aVolume,
    call: create,
    creates: true,
    hasImage: true,
  },
  {
    name: "CreateVolume of a volume that is half deleted",
    row: "CreateVolume: a volume that is half deleted",
    prepare: markedInTrash,
    call: create,
    // Whose DeleteVolume was cut off tries again, too.
    afterwards: remove,
    creates: true,
    replaces: true,
    cuts: MAKING,
  },
  { name: "DeleteVolume", row: "DeleteVolume: a volume that is there", prepare: aVolume, call: remove, cuts: MOVING },
  {
    name: "DeleteVolume of a volume that is half deleted",
    row: "DeleteVolume: a volume that is half deleted",
    prepare: inTrash,
    call: remove,
  },
  {
    name: "DeleteVolume of a large volume without a manager",
    row: "DeleteVolume: a volume of more than 16 GiB, without a manager",
    prepare: async (cluster) => {
      await aVolume(cluster);
      await Effect.runPromise(cephMemoryService(cluster).imageGrow(POOL, IMAGE, 17n * GIB));
      cluster.managerUp = false;
    },
    call: remove,
    cuts: MOVING,
  },
  {
    name: "ControllerExpandVolume",
    row: "ControllerExpandVolume: a larger size",
    prepare: aVolume,
    call: (driver) => driver.expandVolume(expansion(VOLUME_ID)),
  },
  {
    name: "ControllerExpandVolume of a volume with limits",
    row: "ControllerExpandVolume: a larger size, of which limits of I/O grow",
    prepare: async (cluster) => {
      await aVolume(cluster);
      const limits = { rbd_base_qos_iops_limit: "9", rbd_iops_per_gib_limit: "1", rbd_base_qos_vol_size: "0" };
      await Effect.runPromise(cephMemoryService(cluster).imageMetaSet(POOL, IMAGE, limits));
    },
    call: (driver) => driver.expandVolume(expansion(VOLUME_ID)),
  },
  {
    name: "ControllerModifyVolume",
    row: "ControllerModifyVolume: other limits of I/O",
    prepare: aVolume,
    call: (driver) => driver.modifyVolume(modification(VOLUME_ID, { baseIops: "9", maxReadBps: "5" })),
  },
];

const budgets = new Map(
  [...volumes, ...crashes].map(({ rpc, case: name, calls }) => [`${rpc}: ${name}`, calls.length]),
);

/** How many calls of Ceph the scenario makes. */
export const callsOf = ({ row }: Scenario): number => {
  const calls = budgets.get(row);
  if (calls === undefined) throw new Error(`no table of calls has the row ${row}`);
  return calls;
};

/** A cluster with the bystander, in the scenario's state. */
export const aWorld = async ({ prepare }: Pick<Scenario, "prepare">): Promise<MemoryCluster> => {
  const cluster = aCluster();
  const id = await seedImage(cluster, `csi-vol-${BYSTANDER}`);
  const attributes = { "csi.volname": "pvc-other", "csi.imagename": `csi-vol-${BYSTANDER}`, "csi.imageid": id };
  seed(cluster, { [DIRECTORY]: { "csi.volume.pvc-other": BYSTANDER }, [`csi.volume.${BYSTANDER}`]: attributes });
  await prepare?.(cluster);
  return cluster;
};

/** The UUID that the name has in the journal. */
export const entryOf = (cluster: MemoryCluster): string | undefined =>
  poolDump(cluster).objects[DIRECTORY]?.["csi.volume.pvc-1"];

/** Whether the driver that began it was about to undo it: then the next one begins anew, under another UUID. */
export const isGivenUp = (cluster: MemoryCluster, uuid: string | undefined): boolean =>
  ["csi.volume.", "csi.snap."].some(
    (prefix) => poolDump(cluster).objects[`${prefix}${uuid}`]?.["csi-rbd.maker"] === "given up",
  );

/** Forgets objects that neither a name nor an image belongs to -> how many there were. */
export const dropOrphans = (cluster: MemoryCluster): number => {
  const there = cluster.namespace("rbd", "");
  const named = new Set(there?.objects.get(DIRECTORY)?.values());
  const orphans = [...(there?.objects.keys() ?? [])].filter((object) => {
    const uuid = object.slice("csi.volume.".length);
    return object !== DIRECTORY && !named.has(uuid) && !there?.images.has(`csi-vol-${uuid}`);
  });
  for (const object of orphans) there?.objects.delete(object);
  return orphans.length;
};

export const imageNames = (cluster: MemoryCluster): readonly string[] => Object.keys(poolDump(cluster).images);

/** Deletes the volume of the name, as its caller would that has got its ID. */
export const createdAndDeleted = async (cluster: MemoryCluster): Promise<void> => {
  await using driver = aDriver(cluster, SETTINGS);
  const { volume } = await driver.createVolume(creation());
  await driver.deleteVolume(deletion(volume.volumeId));
};
