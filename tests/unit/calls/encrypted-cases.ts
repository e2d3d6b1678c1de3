/** Encrypted volumes whose keys are wrapped: what their key adds to the calls. */
import rows from "../../golden/encrypted-calls.json";
import { aVolume, cloneOf, readySnapshot, restoreOf, snapshotOf } from "../../support/copies-world.ts";
import { wrappingStore } from "../../support/key-stores.ts";
import { aCluster, creation, deletion, expansion, PARAMETERS } from "../../support/world.ts";
import type { Room, Step } from "./room.ts";

const encrypted = { parameters: { ...PARAMETERS, encrypted: "true", encryptionKMSID: "kms" } };
const withSnapshot: Step = async ({ driver, ids }) => {
  ids.snapshot = (await readySnapshot(driver, snapshotOf(ids.volume))).snapshotId;
};

export const encryptedRoom: Room = {
  name: "encrypted volumes",
  rows,
  world: async () => ({ cluster: aCluster(), stores: { kms: wrappingStore() } }),
  prepare: async ({ driver, cluster, ids }) => {
    ids.volume = await aVolume(driver, cluster, encrypted);
  },
  cases: {
    "CreateVolume: a new name, encrypted": {
      call: ({ driver }) => driver.createVolume(creation({ name: "pvc-2", ...encrypted })),
    },
    "CreateVolume: an encrypted volume that is there": {
      call: ({ driver }) => driver.createVolume(creation(encrypted)),
    },
    "CreateVolume: from an encrypted snapshot": {
      prepare: withSnapshot,
      call: ({ driver, ids }) => driver.createVolume(restoreOf(ids.snapshot, encrypted)),
    },
    "CreateVolume: from an encrypted volume": {
      call: ({ driver, ids }) => driver.createVolume(cloneOf(ids.volume, encrypted)),
    },
    "CreateSnapshot: of an encrypted volume": {
      call: ({ driver, ids }) => driver.createSnapshot(snapshotOf(ids.volume)),
    },
    "ControllerExpandVolume: an encrypted volume": {
      call: ({ driver, ids }) => driver.expandVolume(expansion(ids.volume)),
    },
    "DeleteVolume: an encrypted volume": { call: ({ driver, ids }) => driver.deleteVolume(deletion(ids.volume)) },
  },
};
