/**
 * What tests of group snapshots ask for, and what they look at.
 *
 * Not here: drivers (./one-world.ts).
 */
import { create } from "@bufbuild/protobuf";
import {
  CreateVolumeGroupSnapshotRequestSchema,
  DeleteVolumeGroupSnapshotRequestSchema,
  GetVolumeGroupSnapshotRequestSchema,
} from "../../lib/gen/csi_pb.ts";
import type { MemoryCluster } from "./ceph-memory/memory.ts";
import type { Driver } from "./one-world.ts";
import {
  type CreateInit,
  creation,
  deletion,
  type Fields,
  GIB,
  objectsOf,
  PARAMETERS,
  SECRETS,
  seed,
  uuidOf,
} from "./world.ts";

export const DIRECTORY = "csi.groups.default";
export const BLOCK = 4n << 20n;

// -------------------------------------------------------------------------------------------------- requests

export type GroupInit = Fields<typeof CreateVolumeGroupSnapshotRequestSchema>;

/** A request for a group snapshot as `group-1`, but for what `more` says. */
export const grouping = (sourceVolumeIds: string[], more: GroupInit = {}) =>
  create(CreateVolumeGroupSnapshotRequestSchema, {
    name: "group-1",
    sourceVolumeIds,
    secrets: SECRETS,
    parameters: { clusterID: "east" },
    ...more,
  });

export const ungrouping = (groupSnapshotId: string, more: Fields<typeof DeleteVolumeGroupSnapshotRequestSchema> = {}) =>
  create(DeleteVolumeGroupSnapshotRequestSchema, { groupSnapshotId, secrets: SECRETS, ...more });

export const asking = (groupSnapshotId: string, more: Fields<typeof GetVolumeGroupSnapshotRequestSchema> = {}) =>
  create(GetVolumeGroupSnapshotRequestSchema, { groupSnapshotId, secrets: SECRETS, ...more });

/** A volume with data, made by the driver -> its ID. */
export const aVolume = async (
  driver: Driver,
  cluster: MemoryCluster,
  name: string,
  more: CreateInit = {},
): Promise<string> => {
  const { volume } = await driver.createVolume(creation({ name, ...more }));
  cluster.image(more.parameters?.["pool"] ?? "rbd", imageOf(volume.volumeId)).write(0n, BLOCK);
  return volume.volumeId;
};

/** Two volumes in the pool `rbd`. */
export const twoVolumes = async (driver: Driver, cluster: MemoryCluster): Promise<[string, string]> => [
  await aVolume(driver, cluster, "pvc-a"),
  await aVolume(driver, cluster, "pvc-b"),
];

const HALF_MADE = "c0000000-0000-4000-8000-000000000003";

/** The RBD group that the entry of `halfMadeGroup` names. */
export const HALF_MADE_GROUP = `csi-vol-group-${HALF_MADE}`;

/** The entry that ceph-csi leaves that is cut off before it has made the members: with the time, from 3.13 on. -> its ID. */
export const halfMadeGroup = (cluster: MemoryCluster, createdAt?: string): string => {
  seed(cluster, {
    [DIRECTORY]: { "csi.volume.group.group-1": HALF_MADE },
    [`csi.volume.group.${HALF_MADE}`]: {
      "csi.volname": "group-1",
      "csi.groupname": HALF_MADE_GROUP,
      ...(createdAt !== undefined && { "csi.creationtime": createdAt }),
    },
  });
  return `0001-0004-east-0000000000000002-${HALF_MADE}`;
};

/** Asks until the group snapshot is ready, as the sidecar does. */
export const readyGroup = async (driver: Driver, request: ReturnType<typeof grouping>) => {
  for (let tries = 1; ; tries++) {
    const { groupSnapshot } = await driver.createGroup(request);
    if (groupSnapshot.readyToUse) return groupSnapshot;
    if (tries > 5) throw new Error("the group snapshot never becomes ready");
  }
};

export const restored = async (driver: Driver, name: string, snapshotId: string): Promise<string> => {
  const { volume } = await driver.createVolume(
    creation({
      name,
      parameters: PARAMETERS,
      capacityRange: { requiredBytes: GIB },
      volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } },
    }),
  );
  return volume.volumeId;
};

/** Deletes the volumes, whatever is made of them. */
export const dropVolumes = async (driver: Driver, ids: readonly string[]): Promise<void> => {
  for (const id of ids) await driver.deleteVolume(deletion(id));
};

// ------------------------------------------------------------------------------------------------------ looks

export const imageOf = (volumeId: string): string => `csi-vol-${uuidOf(volumeId)}`;
export const holderOf = (snapshotId: string): string => `csi-snap-${uuidOf(snapshotId)}`;

const OBJECT = "csi.volume.group.";

/** The ID of the only group snapshot whose entry is in the pool `rbd`; absent: there is none. */
export const groupNow = (cluster: MemoryCluster): string | undefined => {
  // an entry is there when its name is free already
  const object = [...objectsOf(cluster).keys()].find((name) => name.startsWith(OBJECT));
  return object && `0001-0004-east-0000000000000002-${object.slice(OBJECT.length)}`;
};

/** Whether its point in time is recorded. */
export const isTaken = (cluster: MemoryCluster): boolean =>
  [...objectsOf(cluster)].some(([name, omap]) => name.startsWith(OBJECT) && omap.has("csi.creationtime"));

/** The image of a member that may have been made anew, as the journal has it. */
export const holderNow = (cluster: MemoryCluster, snapshotId: string): string =>
  objectsOf(cluster)
    .get(`csi.snap.${uuidOf(snapshotId)}`)
    ?.get("csi.imagename") ?? holderOf(snapshotId);

/** What one reads of the image, as stamps of the writes. */
export const read = (cluster: MemoryCluster, image: string, pool = "rbd"): readonly string[] =>
  cluster
    .image(pool, image)
    .holds()
    .map(({ offset, end, stamp }) => `${offset}+${end - offset} ${stamp}`);
