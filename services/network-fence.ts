/**
 * The FenceController service of CSI-Addons: keeps networks away from a cluster (NetworkFence), and tells from which address
 * this process reaches it, which is what a NetworkFence for its node names.
 *
 * Here is the wire only. Not here: what an RPC does (lib/fencing/cluster-network.ts).
 */
import * as Effect from "effect/Effect";
import type { Flags } from "../lib/config/flags.ts";
import {
  fenceClients,
  fencedNetworks,
  fenceNetworks,
  readNetworks,
  unfenceNetworks,
} from "../lib/fencing/cluster-network.ts";
import { Capability_NetworkFence_Type as Offered } from "../lib/gen/csi_addons_identity_pb.ts";
import {
  type CIDR,
  FenceClusterNetworkRequestSchema,
  FenceController,
  type GetFenceClientsRequest,
  type ListClusterFenceRequest,
  UnfenceClusterNetworkRequestSchema,
} from "../lib/gen/csi_addons_fence_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import type { AddOn, Capability } from "./csi-addons.ts";
import { credentials, text } from "./fields.ts";

type Texts = Readonly<Record<string, string>>;

interface InCluster {
  readonly parameters: Texts;
  readonly secrets: Texts;
}

const clusterOf = Effect.fnUntraced(function* ({ parameters, secrets }: InCluster) {
  const clusterId = yield* text("parameters[clusterID]", parameters["clusterID"] ?? "");
  return { clusterId, credentials: yield* credentials(secrets) };
});

const networksOf = Effect.fnUntraced(function* (request: InCluster & { readonly cidrs: readonly CIDR[] }) {
  const networks = yield* Effect.fromResult(readNetworks(request.cidrs.map(({ cidr }) => cidr)));
  return { ...(yield* clusterOf(request)), networks };
});

const byCluster = ({ parameters }: { readonly parameters: Texts }): string => parameters["clusterID"] ?? "";

export const networkFenceController = () =>
  ({
    fenceClusterNetwork: mutating("FenceClusterNetwork", FenceClusterNetworkRequestSchema, byCluster, (request) =>
      Effect.as(Effect.flatMap(stage("validate", networksOf(request)), fenceNetworks), {}),
    ),
    unfenceClusterNetwork: mutating("UnfenceClusterNetwork", UnfenceClusterNetworkRequestSchema, byCluster, (request) =>
      Effect.as(Effect.flatMap(stage("validate", networksOf(request)), unfenceNetworks), {}),
    ),
    listClusterFence: reading((request: ListClusterFenceRequest) =>
      Effect.map(Effect.flatMap(clusterOf(request), fencedNetworks), (networks) => ({
        cidrs: networks.map((cidr) => ({ cidr })),
      })),
    ),
    getFenceClients: reading((request: GetFenceClientsRequest) =>
      Effect.map(Effect.flatMap(clusterOf(request), fenceClients), ({ fsid, networks }) => ({
        clients: [{ id: fsid, addresses: networks.map((cidr) => ({ cidr })) }],
      })),
    ),
  }) satisfies ServiceImpl<typeof FenceController, unknown>;

const offer = (type: Offered): Capability => ({ type: { case: "networkFence", value: { type } } });

/** The controller fences; a node tells its address. */
export const networkFence = ({ controllerServer, nodeServer }: Flags, world: World) =>
  ({
    role: role({
      name: "fences of networks",
      layer: volumesLayer(world),
      serves: [served(FenceController, networkFenceController())],
    }),
    offers: [
      ...(controllerServer ? [offer(Offered.NETWORK_FENCE)] : []),
      ...(nodeServer ? [offer(Offered.GET_CLIENTS_TO_FENCE)] : []),
    ],
  }) satisfies AddOn;
