/** CSI-Addons: what space that is given back, and a new key, ask of Ceph. */
import rows from "../../golden/addons-calls.json";
import { hostMemoryService } from "../../support/host-memory.ts";
import { aNode, IMAGE, STAGING, staging, VOLUME } from "../../support/node-world.ts";
import { aStagedVolume, type Kind, rotating, storesOf } from "../../support/rotation-world.ts";
import { SECRETS } from "../../support/world.ts";
import { emptyWorld, type Room } from "./room.ts";

const reclaiming = { volumeId: VOLUME, secrets: SECRETS };
const FENCE_RPCS = ["FenceClusterNetwork", "UnfenceClusterNetwork", "ListClusterFence", "GetFenceClients"];
const isFence = ({ rpc }: { readonly rpc: string }) => FENCE_RPCS.includes(rpc);
const isRotation = ({ rpc }: { readonly rpc: string }) => rpc === "EncryptionKeyRotate";

const spaceRoom: Room = {
  name: "space",
  rows: rows.filter((row) => !isRotation(row) && !isFence(row)),
  world: async () => {
    const { cluster, host } = await aNode();
    return { cluster, host: hostMemoryService(host) };
  },
  cases: {
    "ControllerReclaimSpace: a volume that nobody uses": { call: ({ driver }) => driver.reclaim(reclaiming) },
    "ControllerReclaimSpace: a volume in use": {
      prepare: async ({ cluster }) => cluster.watch("rbd", IMAGE),
      call: ({ driver }) => driver.reclaim(reclaiming),
    },
    "NodeReclaimSpace: a volume that is staged": {
      prepare: ({ driver }) => driver.stage(staging()),
      call: ({ driver }) => driver.trim({ volumeId: VOLUME, stagingTargetPath: STAGING }),
    },
  },
};

const CASES: Readonly<Record<Kind, string>> = {
  keeper: "a store that keeps keys",
  wrapper: "a store that wraps keys",
};

const rotationRoom = (kind: Kind): Room => ({
  name: `rotation, ${CASES[kind]}`,
  rows: rows.filter((row) => isRotation(row) && row.case === CASES[kind]),
  world: async () => {
    const world = await aStagedVolume(kind);
    return { cluster: world.cluster, host: hostMemoryService(world.host), stores: storesOf(world) };
  },
  cases: { [`EncryptionKeyRotate: ${CASES[kind]}`]: { call: ({ driver }) => driver.rotateKey(rotating) } },
});

const inCluster = { parameters: { clusterID: "east" }, secrets: SECRETS };
const network = { ...inCluster, cidrs: [{ cidr: "10.0.0.0/24" }] };

const networkRoom: Room = {
  name: "fences of networks",
  rows: rows.filter(isFence),
  world: emptyWorld,
  cases: {
    "FenceClusterNetwork: a network, with three pools": { call: ({ driver }) => driver.fenceNetwork(network) },
    "UnfenceClusterNetwork: a network": {
      prepare: ({ driver }) => driver.fenceNetwork(network),
      call: ({ driver }) => driver.unfenceNetwork(network),
    },
    "ListClusterFence: all": { call: ({ driver }) => driver.listFences(inCluster) },
    "GetFenceClients: this process": { call: ({ driver }) => driver.fenceClients(inCluster) },
  },
};

export const addonsRooms: readonly Room[] = [spaceRoom, networkRoom, rotationRoom("keeper"), rotationRoom("wrapper")];
