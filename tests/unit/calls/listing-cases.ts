/** RPCs that only look, at two pools, of which one holds three volumes and two snapshots of the first. */
import rows from "../../golden/listing-calls.json";
import { imageOf } from "../../support/copies-world.ts";
import { aSnapshot, trashImage } from "../../support/listing-world.ts";
import { aCluster, creation, PARAMETERS, SECRETS, uuidOf } from "../../support/world.ts";
import type { At, Room, Step } from "./room.ts";

const threeVolumes = async ({ driver, ids }: At, more: Record<string, string> = {}) => {
  const made: string[] = [];
  for (const name of ["a", "b", "c"]) {
    const parameters = { ...PARAMETERS, ...more };
    made.push((await driver.createVolume(creation({ name, parameters }))).volume.volumeId);
  }
  ids.volume = made[0] ?? "";
  ids.snapshot = await aSnapshot(driver, "one", ids.volume);
  ids.otherSnapshot = await aSnapshot(driver, "two", ids.volume);
  return made;
};
const withVolumes: Step = (at) => threeVolumes(at);
const list: Step = ({ driver }) => driver.listVolumes();
const listHealth: Step = ({ driver }) => driver.listHealth();
const health: Step = ({ driver, ids }) => driver.getHealth({ volumeId: ids.volume });

/** The image of the first volume is in the trash, and that of the last is gone. */
const withSickVolumes: Step = async (at) => {
  const [first, , last] = await threeVolumes(at);
  trashImage(at.cluster, imageOf(first ?? ""));
  at.cluster.namespace("rbd", "")?.images.delete(imageOf(last ?? ""));
};

export const listingRoom: Room = {
  name: "listing",
  rows,
  world: async () => ({ cluster: aCluster({ pools: ["rbd", "ssd"] }) }),
  cases: {
    "ListVolumes: all, with images of default names": { prepare: withVolumes, call: list },
    "ListVolumes: all, with a prefix of their own": {
      prepare: (at) => threeVolumes(at, { volumeNamePrefix: "tenant-" }),
      call: list,
    },
    "ListVolumes: a page of two": {
      prepare: withVolumes,
      call: ({ driver }) => driver.listVolumes({ maxEntries: 2 }),
    },
    "ListVolumes: a token of somebody else": {
      prepare: withVolumes,
      call: ({ driver }) => driver.listVolumes({ startingToken: "1" }),
      code: "ABORTED",
    },
    "ControllerGetVolume: a volume that nobody has open": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.getVolume({ volumeId: ids.volume }),
    },
    "ControllerGetVolume: a volume in use": {
      prepare: async (at) => {
        await withVolumes(at);
        at.cluster.watch("rbd", `csi-vol-${uuidOf(at.ids.volume)}`);
      },
      call: ({ driver, ids }) => driver.getVolume({ volumeId: ids.volume }),
    },
    "ControllerGetVolume: no volume ID": {
      prepare: withVolumes,
      call: ({ driver }) => driver.getVolume({ volumeId: "nonsense" }),
      code: "NOT_FOUND",
    },
    "ControllerListVolumeHealth: all are healthy": { prepare: withVolumes, call: listHealth },
    "ControllerListVolumeHealth: one in the trash, one gone": { prepare: withSickVolumes, call: listHealth },
    "ControllerListVolumeHealth: a page of one": {
      prepare: withSickVolumes,
      call: ({ driver }) => driver.listHealth({ maxEntries: 1 }),
    },
    "ControllerListVolumeHealth: a token of somebody else": {
      prepare: withVolumes,
      call: ({ driver }) => driver.listHealth({ startingToken: "1" }),
      code: "ABORTED",
    },
    "ControllerGetVolumeHealth: a volume that nobody has open": { prepare: withVolumes, call: health },
    "ControllerGetVolumeHealth: a volume in use": {
      prepare: async (at) => {
        await withVolumes(at);
        at.cluster.watch("rbd", imageOf(at.ids.volume));
      },
      call: health,
    },
    "ControllerGetVolumeHealth: a volume whose image is in the trash": { prepare: withSickVolumes, call: health },
    "ControllerGetVolumeHealth: no volume ID": {
      prepare: withVolumes,
      call: ({ driver }) => driver.getHealth({ volumeId: "nonsense" }),
      code: "NOT_FOUND",
    },
    "ListSnapshots: all": { prepare: withVolumes, call: ({ driver }) => driver.listSnapshots() },
    "ListSnapshots: one volume's": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.listSnapshots({ sourceVolumeId: ids.volume }),
    },
    "ListSnapshots: one": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.listSnapshots({ snapshotId: ids.snapshot }),
    },
    "GetSnapshot: one that is there": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.getSnapshot({ snapshotId: ids.snapshot, secrets: SECRETS }),
    },
    "GetCapacity: a pool": {
      prepare: withVolumes,
      call: ({ driver }) => driver.getCapacity({ parameters: PARAMETERS }),
    },
    "GetCapacity: a pool with a data pool": {
      prepare: withVolumes,
      call: ({ driver }) => driver.getCapacity({ parameters: { ...PARAMETERS, dataPool: "ssd" } }),
    },
    "GetCapacity: no class": { prepare: withVolumes, call: ({ driver }) => driver.getCapacity() },
    "GetMetadataAllocated: one page": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.allocated({ snapshotId: ids.snapshot }),
    },
    "GetMetadataDelta: one page": {
      prepare: withVolumes,
      call: ({ driver, ids }) => driver.delta({ baseSnapshotId: ids.snapshot, targetSnapshotId: ids.otherSnapshot }),
    },
  },
};
