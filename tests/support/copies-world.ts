/**
 * Requests for snapshots and copies over the world of ./world.ts, and what one looks at of them.
 *
 * 1. A volume's data is its content stamps (tests/support/ceph-memory/content.ts): equal stamps are the same written bytes.
 */
import { create } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { CreateSnapshotRequestSchema, DeleteSnapshotRequestSchema } from "../../lib/gen/csi_pb.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "./ceph-memory/memory.ts";
import { aDriver, type Driver } from "./one-world.ts";
import {
  aCluster,
  type CreateInit,
  creation,
  eventually,
  type Fields,
  PARAMETERS,
  poolDump,
  SECRETS,
  uuidOf,
} from "./world.ts";

/** Flags with which every copy of a volume goes through an image in between: no number of snapshots is small enough. */
export const THROUGH = { minsnapshotsonimage: 0 };

export const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };
export const MIB_4 = 4n << 20n;

/** A request for a snapshot as `snap-1`, but for what `more` says. */
export const snapshotOf = (sourceVolumeId: string, more: Fields<typeof CreateSnapshotRequestSchema> = {}) =>
  create(CreateSnapshotRequestSchema, {
    name: "snap-1",
    sourceVolumeId,
    secrets: SECRETS,
    parameters: { clusterID: "east" },
    ...more,
  });

export const snapshotDeletion = (snapshotId: string, more: Fields<typeof DeleteSnapshotRequestSchema> = {}) =>
  create(DeleteSnapshotRequestSchema, { snapshotId, secrets: SECRETS, ...more });

/** A request for a copy as `pvc-copy`. */
export const restoreOf = (snapshotId: string, more: CreateInit = {}) =>
  creation({
    name: "pvc-copy",
    volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } },
    ...more,
  });
export const cloneOf = (volumeId: string, more: CreateInit = {}) =>
  creation({ name: "pvc-copy", volumeContentSource: { type: { case: "volume", value: { volumeId } } }, ...more });

export const imageOf = (volumeId: string): string => `csi-vol-${uuidOf(volumeId)}`;
export const holderOf = (snapshotId: string): string => `csi-snap-${uuidOf(snapshotId)}`;

/** A volume with data, made by the driver -> its ID. */
export const aVolume = async (driver: Driver, cluster: MemoryCluster, more: CreateInit = {}): Promise<string> => {
  const { volume } = await driver.createVolume(creation(more));
  const pool = volume.volumeContext["pool"] ?? "rbd";
  cluster.image(pool, imageOf(volume.volumeId)).write(0n, MIB_4);
  return volume.volumeId;
};

/** Asks until the snapshot is ready, as the sidecar does. */
export const readySnapshot = async (driver: Driver, request: ReturnType<typeof snapshotOf>) => {
  for (let tries = 1; ; tries++) {
    const { snapshot } = await driver.createSnapshot(request);
    if (snapshot.readyToUse) return snapshot;
    if (tries > 5) throw new Error("the snapshot never becomes ready");
  }
};

/** A cluster with a volume, its data, and a snapshot of it. */
export const aSource = async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const volumeId = await aVolume(making, cluster);
  const { snapshotId } = await readySnapshot(making, snapshotOf(volumeId, { name: "snap-0" }));
  return { cluster, volumeId, snapshotId, data: read(cluster, imageOf(volumeId)) };
};

/** What one reads of the image, as stamps. */
export const read = (cluster: MemoryCluster, image: string, pool = "rbd", namespace = ""): readonly string[] =>
  cluster
    .image(pool, image, namespace)
    .holds()
    .map(({ offset, end, stamp }) => `${offset}+${end - offset} ${stamp}`);

export const metaOf = (cluster: MemoryCluster, image: string, pool = "rbd") =>
  Object.fromEntries(cluster.image(pool, image).meta);

/** Snapshots of the image as `kind name`, of trashed ones the name that they had. */
export const snapshotsOf = (cluster: MemoryCluster, image: string, pool = "rbd", namespace = ""): readonly string[] =>
  cluster
    .image(pool, image, namespace)
    .snapshots.map(({ kind, name, originalName }) => `${kind} ${originalName ?? name}`);

export const parentOf = (cluster: MemoryCluster, image: string, pool = "rbd"): string | undefined => {
  const { parent } = cluster.image(pool, image);
  return parent && `${parent.image.place.name}@${parent.originalName ?? parent.name}`;
};

/** Runs calls of Ceph as another driver would. */
export const byHand = (cluster: MemoryCluster) => {
  const ceph = cephMemoryService(cluster);
  return {
    snapshot: (image: string, name: string) => Effect.runPromise(ceph.snapshotCreate(POOL, image, name)),
    dropSnapshot: (image: string, name: string) => Effect.runPromise(ceph.snapshotRemove(POOL, image, name)),
    clone: (image: string, snapshot: string, target: string) =>
      Effect.runPromise(ceph.imageClone({ pool: POOL, image, snapshot }, POOL, target, { features: 33n })),
    flatten: (image: string) => Effect.runPromise(ceph.imageFlatten(POOL, image)),
  };
};

/** Lets the manager work until what it can remove is removed: a parent goes after its children. */
export const settled = async (cluster: MemoryCluster, pool = "rbd", namespace = ""): Promise<void> => {
  await eventually(() => {
    cluster.runManager();
    return Object.keys(poolDump(cluster, pool, namespace).trash).length === 0;
  }, "an empty trash");
};

export const EMPTY_DIRECTORIES = { "csi.volumes.default": {}, "csi.snaps.default": {} };
export { PARAMETERS };
