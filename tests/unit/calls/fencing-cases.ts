/** Fencing: what nodes record, and what attaching and detaching ask of Ceph. */
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import rows from "../../golden/fencing-calls.json";
import {
  attaching,
  BOOTED,
  detaching,
  fencedAs,
  FENCING,
  IN_SERVICE,
  KEY,
  LOST,
  metaOf,
  RECORD,
  CLIENT,
} from "../../support/fencing-world.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import { aNode, staging, unstaging } from "../../support/node-world.ts";
import { asBlock } from "../../support/world.ts";
import type { Room, Step } from "./room.ts";

const recorded: Step = async ({ cluster }) => {
  for (const [key, value] of Object.entries(RECORD)) metaOf(cluster).set(key, value);
};
const fenced: Step = async ({ cluster }) => {
  metaOf(cluster).set(`${KEY}fenced/${CLIENT}`, fencedAs());
};
const stage: Step = ({ driver }) => driver.stage(staging());
const attach: Step = ({ driver }) => driver.attach(attaching());
const detach: Step = ({ driver }) => driver.detach(detaching());
const among = (kube: ReturnType<typeof LOST>) => ({ flags: FENCING, kube });

export const fencingRoom: Room = {
  name: "fencing",
  rows,
  world: async () => {
    const { cluster, host } = await aNode();
    return { cluster, host: hostMemoryService(host), flags: FENCING };
  },
  cases: {
    "NodeStageVolume: with fencing, the first time": { call: stage },
    "NodeStageVolume: with fencing, for many writers": {
      call: ({ driver }) => driver.stage(staging({ volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) })),
    },
    "NodeStageVolume: with fencing, a volume that is staged": { prepare: stage, call: stage },
    "NodeUnstageVolume: with fencing": { prepare: stage, call: ({ driver }) => driver.unstage(unstaging()) },
    "ControllerPublishVolume: a volume that no node has": { given: among(LOST()), call: attach },
    "ControllerPublishVolume: a volume that a lost node has": { given: among(LOST()), prepare: recorded, call: attach },
    "ControllerPublishVolume: a fence of a node that has booted anew": {
      given: among(BOOTED()),
      prepare: fenced,
      call: attach,
    },
    "ControllerUnpublishVolume: a volume that the node has unstaged": { given: among(LOST()), call: detach },
    "ControllerUnpublishVolume: a node in service that has left its record": {
      given: among(IN_SERVICE()),
      prepare: recorded,
      call: detach,
    },
    "ControllerUnpublishVolume: a lost node": { given: among(LOST()), prepare: recorded, call: detach },
  },
};
