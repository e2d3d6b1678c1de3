/** The Node's RPCs: all but staging and unstaging ask Ceph nothing. */
import rows from "../../golden/node-calls.json";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import {
  aNode,
  ENCRYPTED,
  expanding,
  publishing,
  staging,
  statistics,
  toBeEncrypted,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { asBlock } from "../../support/world.ts";
import type { Room, Step } from "./room.ts";

const WITH_INTEGRITY = {
  ...ENCRYPTED.volumeContext,
  encryptionCipher: "aes-xts-plain64",
  integrityMode: "hmac-sha256",
};
const stage: Step = ({ driver }) => driver.stage(staging());
const willBeEncrypted: Step = async ({ cluster }) => toBeEncrypted(cluster);
const stageEncrypted: Step = ({ driver }) => driver.stage(staging(ENCRYPTED));
const unstage: Step = ({ driver }) => driver.unstage(unstaging());
const publish: Step = ({ driver }) => driver.publish(publishing());
const publishToPod: Step = ({ driver }) =>
  driver.publish(publishing({ targetPath: "/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount" }));
const stagedAndPublished: Step = async (at) => {
  await stage(at);
  await publish(at);
};

export const nodeRoom: Room = {
  name: "node",
  rows,
  world: async () => {
    const { cluster, host } = await aNode();
    return { cluster, host: hostMemoryService(host) };
  },
  cases: {
    "NodeStageVolume: the first time": { call: stage },
    "NodeStageVolume: a later time": {
      prepare: async (at) => {
        await stage(at);
        await unstage(at);
      },
      call: stage,
    },
    "NodeStageVolume: a volume that is staged": { prepare: stage, call: stage },
    "NodeStageVolume: for many writers": {
      call: ({ driver }) => driver.stage(staging({ volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) })),
    },
    "NodeStageVolume: an encrypted volume, the first time": { prepare: willBeEncrypted, call: stageEncrypted },
    "NodeStageVolume: an encrypted volume with integrity, the first time": {
      prepare: willBeEncrypted,
      call: ({ driver }) => driver.stage(staging({ ...ENCRYPTED, volumeContext: WITH_INTEGRITY })),
    },
    "NodeStageVolume: an encrypted volume, a later time": {
      prepare: async (at) => {
        await willBeEncrypted(at);
        await stageEncrypted(at);
        await unstage(at);
      },
      call: stageEncrypted,
    },
    "NodePublishVolume: a volume that is staged": { prepare: stage, call: publish },
    "NodePublishVolume: a volume that is staged, to a pod": { prepare: stage, call: publishToPod },
    "NodeGetVolumeStats: a volume that is published": {
      prepare: stagedAndPublished,
      call: ({ driver }) => driver.stats(statistics()),
    },
    "NodeExpandVolume: a volume that is published": {
      prepare: stagedAndPublished,
      call: ({ driver }) => driver.expand(expanding()),
    },
    "NodeUnpublishVolume: a volume that is published": {
      prepare: stagedAndPublished,
      call: ({ driver }) => driver.unpublish(unpublishing()),
    },
    "NodeUnstageVolume: a volume that is staged": { prepare: stage, call: unstage },
  },
};
