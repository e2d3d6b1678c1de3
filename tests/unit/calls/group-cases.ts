/** Group snapshots of two volumes. */
import rows from "../../golden/group-calls.json";
import { snapshotDeletion } from "../../support/copies-world.ts";
import { asking, grouping, readyGroup, twoVolumes, ungrouping } from "../../support/group-world.ts";
import { type At, emptyWorld, type Room, type Step } from "./room.ts";

const members = ({ ids }: At) => [ids.volume, ids.otherVolume];
const create: Step = (at) => at.driver.createGroup(grouping(members(at)));
const remove: Step = ({ driver, ids }) => driver.deleteGroup(ungrouping(ids.group));
const aGroup: Step = async (at) => {
  const { groupSnapshotId, snapshots } = await readyGroup(at.driver, grouping(members(at)));
  at.ids.group = groupSnapshotId;
  at.ids.snapshot = snapshots[0]?.snapshotId ?? "";
};

export const groupRoom: Room = {
  name: "group controller",
  rows,
  world: emptyWorld,
  prepare: async ({ driver, cluster, ids }) => {
    [ids.volume, ids.otherVolume] = await twoVolumes(driver, cluster);
  },
  cases: {
    "CreateVolumeGroupSnapshot: a new name, two volumes": { call: create },
    "CreateVolumeGroupSnapshot: one that is there": { prepare: aGroup, call: create },
    "CreateVolumeGroupSnapshot: other volumes": {
      prepare: aGroup,
      call: ({ driver, ids }) => driver.createGroup(grouping([ids.otherVolume])),
      code: "ALREADY_EXISTS",
    },
    "DeleteVolumeGroupSnapshot: one that is there": { prepare: aGroup, call: remove },
    "DeleteVolumeGroupSnapshot: one that is gone": {
      prepare: async (at) => {
        await aGroup(at);
        await remove(at);
      },
      call: remove,
    },
    "DeleteVolumeGroupSnapshot: no group snapshot ID": {
      call: ({ driver }) => driver.deleteGroup(ungrouping("nonsense")),
    },
    "GetVolumeGroupSnapshot: one that is there": {
      prepare: aGroup,
      call: ({ driver, ids }) => driver.getGroup(asking(ids.group)),
    },
    "DeleteSnapshot: a member of a group snapshot": {
      prepare: aGroup,
      call: ({ driver, ids }) => driver.deleteSnapshot(snapshotDeletion(ids.snapshot)),
      code: "INVALID_ARGUMENT",
    },
    "GroupControllerGetCapabilities: always": { call: ({ driver }) => driver.groupCapabilities() },
  },
};
