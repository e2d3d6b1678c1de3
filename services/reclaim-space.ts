/**
 * The ReclaimSpace services of CSI-Addons: they give space back to the cluster that a volume no longer uses. The
 * controller does so for volumes that nobody uses, the node for those that are mounted there.
 *
 * Here is the wire only. Not here: what an RPC does (lib/volume/reclaim.ts, lib/node/trim.ts).
 *
 * 1. No response tells a usage: neither call measures one.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { Unserved } from "../lib/csi/errors.ts";
import { Capability_ReclaimSpace_Type as Offered } from "../lib/gen/csi_addons_identity_pb.ts";
import {
  type ControllerReclaimSpaceRequest,
  ControllerReclaimSpaceRequestSchema,
  type NodeReclaimSpaceRequest,
  NodeReclaimSpaceRequestSchema,
  ReclaimSpaceController,
  ReclaimSpaceNode,
} from "../lib/gen/csi_addons_reclaimspace_pb.ts";
import { type VolumeCapability, VolumeCapability_AccessMode_Mode as Mode } from "../lib/gen/csi_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { SparsifyTurns } from "../lib/images/sparsify.ts";
import { blockUnserved, trimVolume } from "../lib/node/trim.ts";
import { readVolumeContext } from "../lib/node/volume-context.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { reclaimSpace } from "../lib/volume/reclaim.ts";
import type { AddOn, Capability } from "./csi-addons.ts";
import { byVolume, credentials, volumeIdText } from "./fields.ts";
import { pathOf, volumeIdOf, volumePathOf } from "./node-fields.ts";

const offer = (type: Offered): Capability => ({ type: { case: "reclaimSpace", value: { type } } });

// ------------------------------------------------------------------------------------------------- the controller

const reclaimRequest = Effect.fnUntraced(function* (request: ControllerReclaimSpaceRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  const who = yield* credentials(request.secrets, { allowMigration: true });
  // A context that no node takes leads to no static image, but a dynamic volume is found without it.
  const { fixed } = Result.getOrElse(readVolumeContext(volumeId, request.parameters), () => ({ fixed: undefined }));
  return { volumeId, fixed, credentials: who };
});

export const reclaimSpaceOfController = () =>
  ({
    controllerReclaimSpace: mutating(
      "ControllerReclaimSpace",
      ControllerReclaimSpaceRequestSchema,
      byVolume,
      (request) => Effect.as(Effect.flatMap(stage("validate", reclaimRequest(request)), reclaimSpace), {}),
    ),
  }) satisfies ServiceImpl<typeof ReclaimSpaceController, unknown>;

export const reclaimSpaceController = (world: World) =>
  ({
    role: role({
      name: "space of the controller",
      layer: Layer.merge(volumesLayer(world), SparsifyTurns.layer),
      serves: [served(ReclaimSpaceController, reclaimSpaceOfController())],
    }),
    offers: [offer(Offered.OFFLINE)],
  }) satisfies AddOn;

// ------------------------------------------------------------------------------------------------------- the node

/** Why a volume with this capability is not trimmed; `undefined`: it may be. The capability may be absent. */
const refusalOf = (volumeId: string, capability: VolumeCapability | undefined): Unserved | undefined => {
  if (capability?.accessType.case === "block") return blockUnserved(volumeId);
  if (capability?.accessMode?.mode !== Mode.MULTI_NODE_MULTI_WRITER) return undefined;
  return new Unserved({ volumeId, reason: "may be written by several nodes: none of them knows what is free" });
};

const trimSpec = Effect.fnUntraced(function* (request: NodeReclaimSpaceRequest) {
  const volumeId = yield* volumeIdOf(request.volumeId);
  const refusal = refusalOf(volumeId, request.volumeCapability);
  if (refusal !== undefined) return yield* refusal;
  const staging = request.stagingTargetPath;
  const path =
    staging === ""
      ? yield* volumePathOf(volumeId, request.volumePath)
      : `${yield* pathOf("staging_target_path", staging)}/${volumeId}`;
  return { volumeId, path };
});

export const reclaimSpaceOfNode = () =>
  ({
    nodeReclaimSpace: mutating("NodeReclaimSpace", NodeReclaimSpaceRequestSchema, byVolume, (request) =>
      Effect.as(Effect.flatMap(stage("validate", trimSpec(request)), trimVolume), {}),
    ),
  }) satisfies ServiceImpl<typeof ReclaimSpaceNode, unknown>;

export const reclaimSpaceNode = (world: World) =>
  ({
    role: role({
      name: "space of the node",
      layer: Layer.merge(volumesLayer(world), world.host),
      serves: [served(ReclaimSpaceNode, reclaimSpaceOfNode())],
    }),
    offers: [offer(Offered.ONLINE)],
  }) satisfies AddOn;
