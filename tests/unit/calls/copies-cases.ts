/** Snapshots, restores and clones of one volume with data. */
import rows from "../../golden/copies-calls.json";
import {
  aVolume,
  byHand,
  cloneOf,
  imageOf,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { deletion, GIB } from "../../support/world.ts";
import { emptyWorld, type Room, type Step } from "./room.ts";

const take: Step = ({ driver, ids }) => driver.createSnapshot(snapshotOf(ids.volume));
const dropSnapshot: Step = ({ driver, ids }) => driver.deleteSnapshot(snapshotDeletion(ids.snapshot));
const restore: Step = ({ driver, ids }) => driver.createVolume(restoreOf(ids.snapshot));
const clone: Step = ({ driver, ids }) => driver.createVolume(cloneOf(ids.volume));
const dropCopy: Step = ({ driver, ids }) => driver.deleteVolume(deletion(ids.copy));

const withSnapshot: Step = async ({ driver, ids }) => {
  ids.snapshot = (await readySnapshot(driver, snapshotOf(ids.volume))).snapshotId;
};
const withoutSnapshot: Step = async (at) => {
  await withSnapshot(at);
  await dropSnapshot(at);
};
const withRestore: Step = async (at) => {
  await withSnapshot(at);
  at.ids.copy = (await at.driver.createVolume(restoreOf(at.ids.snapshot))).volume.volumeId;
};
const withClone: Step = async ({ driver, ids }) => {
  ids.copy = (await driver.createVolume(cloneOf(ids.volume))).volume.volumeId;
};
const larger = { capacityRange: { requiredBytes: 2n * GIB } };

export const copiesRoom: Room = {
  name: "copies",
  rows,
  world: emptyWorld,
  prepare: async ({ driver, cluster, ids }) => {
    ids.volume = await aVolume(driver, cluster);
  },
  cases: {
    "CreateSnapshot: a new name": { call: take },
    "CreateSnapshot: a snapshot that is there": { prepare: withSnapshot, call: take },
    "CreateSnapshot: a snapshot of a clone": {
      prepare: withClone,
      call: ({ driver, ids }) => driver.createSnapshot(snapshotOf(ids.copy)),
    },
    "DeleteSnapshot: a snapshot that is there": { prepare: withSnapshot, call: dropSnapshot },
    "DeleteSnapshot: a snapshot that is gone": { prepare: withoutSnapshot, call: dropSnapshot },
    "DeleteSnapshot: no snapshot ID": { call: ({ driver }) => driver.deleteSnapshot(snapshotDeletion("nonsense")) },
    "CreateVolume: from a snapshot": { prepare: withSnapshot, call: restore },
    "CreateVolume: from a snapshot, larger": {
      prepare: withSnapshot,
      call: ({ driver, ids }) => driver.createVolume(restoreOf(ids.snapshot, larger)),
    },
    "CreateVolume: from a snapshot, a volume that is there": { prepare: withRestore, call: restore },
    "CreateVolume: from a snapshot that is gone": { prepare: withoutSnapshot, call: restore, code: "NOT_FOUND" },
    "CreateVolume: from a volume": { call: clone },
    "CreateVolume: from a volume, larger": {
      call: ({ driver, ids }) => driver.createVolume(cloneOf(ids.volume, larger)),
    },
    "CreateVolume: from a volume that is a clone": {
      prepare: withClone,
      call: ({ driver, ids }) => driver.createVolume(cloneOf(ids.copy, { name: "pvc-3" })),
    },
    "CreateVolume: from a volume, a volume that is there": { prepare: withClone, call: clone },
    "CreateVolume: from a volume that was a clone and was flattened": {
      given: { flags: THROUGH },
      prepare: async (at) => {
        await withClone(at);
        await byHand(at.cluster).flatten(imageOf(at.ids.copy));
      },
      call: ({ driver, ids }) => driver.createVolume(cloneOf(ids.copy, { name: "pvc-3" })),
    },
    "DeleteVolume: a restore": { prepare: withRestore, call: dropCopy },
    "DeleteVolume: a clone": { prepare: withClone, call: dropCopy },
    "DeleteVolume: a clone that went through an image in between": {
      given: { flags: THROUGH },
      prepare: withClone,
      call: dropCopy,
    },
    "DeleteVolume: a volume with a snapshot": {
      prepare: withSnapshot,
      call: ({ driver, ids }) => driver.deleteVolume(deletion(ids.volume)),
    },
    "DeleteVolume: a volume with a snapshot that a person took": {
      prepare: ({ cluster, ids }) => byHand(cluster).snapshot(imageOf(ids.volume), "before-upgrade"),
      call: ({ driver, ids }) => driver.deleteVolume(deletion(ids.volume)),
      code: "FAILED_PRECONDITION",
    },
  },
};
