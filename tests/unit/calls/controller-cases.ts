/** Volumes of their own: made, deleted, grown and looked at. */
import rows from "../../golden/controller-calls.json";
import {
  creation,
  deletion,
  expansion,
  GIB,
  modification,
  PARAMETERS,
  uuidOf,
  validation,
} from "../../support/world.ts";
import { emptyWorld, type Room, type Step } from "./room.ts";

const request = creation();
const named = creation({ parameters: { ...PARAMETERS, "csi.storage.k8s.io/pv/name": "pvc-1" } });
const limited = creation({
  parameters: { ...PARAMETERS, mounter: "rbd-nbd", baseIops: "9", iopsPerGiB: "1", baseVolSizeBytes: "0" },
});
const create: Step = ({ driver }) => driver.createVolume(request);
const createNamed: Step = ({ driver }) => driver.createVolume(named);
const remove: Step = ({ driver, ids }) => driver.deleteVolume(deletion(ids.volume));
const aVolume: Step = async ({ driver, ids }) => {
  ids.volume = (await driver.createVolume(request)).volume.volumeId;
};

export const controllerRoom: Room = {
  name: "controller",
  rows,
  world: emptyWorld,
  cases: {
    "CreateVolume: a new name": { call: create },
    "CreateVolume: a new name, with metadata": { call: createNamed },
    "CreateVolume: a new name, with limits of I/O": { call: ({ driver }) => driver.createVolume(limited) },
    "CreateVolume: a volume that is there": { prepare: aVolume, call: create },
    "CreateVolume: a volume that is there, with metadata": { prepare: aVolume, call: createNamed },
    "CreateVolume: another volume of that name": {
      prepare: aVolume,
      call: ({ driver }) => driver.createVolume(creation({ capacityRange: { requiredBytes: 2n * GIB } })),
      code: "ALREADY_EXISTS",
    },
    "DeleteVolume: a volume that is there": { prepare: aVolume, call: remove },
    "DeleteVolume: a volume of more than 16 GiB": {
      prepare: async ({ driver, ids }) => {
        const large = creation({ capacityRange: { requiredBytes: 17n * GIB } });
        ids.volume = (await driver.createVolume(large)).volume.volumeId;
      },
      call: remove,
    },
    "DeleteVolume: a volume in use": {
      prepare: async (at) => {
        await aVolume(at);
        at.cluster.watch("rbd", `csi-vol-${uuidOf(at.ids.volume)}`);
      },
      call: remove,
      code: "FAILED_PRECONDITION",
    },
    "DeleteVolume: a volume that is gone": {
      prepare: async (at) => {
        await aVolume(at);
        await remove(at);
      },
      call: remove,
    },
    "DeleteVolume: no volume ID": { call: ({ driver }) => driver.deleteVolume(deletion("nonsense")) },
    "ControllerExpandVolume: a larger size": {
      prepare: aVolume,
      call: ({ driver, ids }) => driver.expandVolume(expansion(ids.volume)),
    },
    "ControllerExpandVolume: a larger size, with a limit": {
      prepare: aVolume,
      call: ({ driver, ids }) =>
        driver.expandVolume(
          expansion(ids.volume, { capacityRange: { requiredBytes: 2n * GIB, limitBytes: 3n * GIB } }),
        ),
    },
    "ControllerExpandVolume: a larger size, of which limits of I/O grow": {
      prepare: async ({ driver, ids }) => {
        ids.volume = (await driver.createVolume(limited)).volume.volumeId;
      },
      call: ({ driver, ids }) => driver.expandVolume(expansion(ids.volume)),
    },
    "ControllerModifyVolume: other limits of I/O": {
      prepare: aVolume,
      call: ({ driver, ids }) => driver.modifyVolume(modification(ids.volume, { maxReadIops: "1" })),
    },
    "ControllerModifyVolume: no limits": {
      prepare: aVolume,
      call: ({ driver, ids }) => driver.modifyVolume(modification(ids.volume, {})),
    },
    "ValidateVolumeCapabilities: a volume that is there": {
      prepare: aVolume,
      call: ({ driver, ids }) => driver.validate(validation(ids.volume)),
    },
    "ControllerGetCapabilities: always": { call: ({ driver }) => driver.capabilities() },
  },
};
