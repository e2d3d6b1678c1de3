/**
 * The CSI GroupController service: from protobuf to the values of lib/group, and from its answers to protobuf.
 *
 * Not here: the recipes (lib/group), and single snapshots (./controller.ts).
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type CsiGroupSnapshot, groupSnapshotMessage } from "../lib/csi/messages.ts";
import {
  type CreateVolumeGroupSnapshotRequest,
  CreateVolumeGroupSnapshotRequestSchema,
  type DeleteVolumeGroupSnapshotRequest,
  DeleteVolumeGroupSnapshotRequestSchema,
  type GetVolumeGroupSnapshotRequest,
  GroupController,
  GroupControllerServiceCapability_RPC_Type as Offered,
} from "../lib/gen/csi_pb.ts";
import { createGroupSnapshot } from "../lib/group/create.ts";
import { deleteGroupSnapshot } from "../lib/group/delete.ts";
import { getGroupSnapshot } from "../lib/group/get.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { controllerLayer } from "./controller.ts";
import { optionalCredentials, text, volumeIdTexts } from "./fields.ts";

const groupAnswer = (group: CsiGroupSnapshot) => ({ groupSnapshot: groupSnapshotMessage(group) });

const create = Effect.fnUntraced(function* (request: CreateVolumeGroupSnapshotRequest) {
  const requestName = yield* stage("validate", text("name", request.name));
  const sourceVolumeIds = yield* stage("validate", volumeIdTexts("source_volume_ids", request.sourceVolumeIds));
  const { parameters, secrets } = request;
  return groupAnswer(yield* createGroupSnapshot({ requestName, sourceVolumeIds, parameters, secrets }));
});

const remove = Effect.fnUntraced(function* (request: DeleteVolumeGroupSnapshotRequest) {
  const groupSnapshotId = yield* stage("validate", text("group_snapshot_id", request.groupSnapshotId));
  const { snapshotIds, secrets } = request;
  const who = yield* stage("validate", optionalCredentials(secrets));
  yield* deleteGroupSnapshot(groupSnapshotId, snapshotIds, { credentials: who, secrets });
  return {};
});

const get = Effect.fnUntraced(function* (request: GetVolumeGroupSnapshotRequest) {
  const groupSnapshotId = yield* text("group_snapshot_id", request.groupSnapshotId);
  const { snapshotIds, secrets } = request;
  return groupAnswer(yield* getGroupSnapshot(groupSnapshotId, snapshotIds, yield* optionalCredentials(secrets)));
});

export const groupController = () =>
  ({
    createVolumeGroupSnapshot: mutating(
      "CreateVolumeGroupSnapshot",
      CreateVolumeGroupSnapshotRequestSchema,
      ({ name }) => name,
      create,
    ),
    deleteVolumeGroupSnapshot: mutating(
      "DeleteVolumeGroupSnapshot",
      DeleteVolumeGroupSnapshotRequestSchema,
      ({ groupSnapshotId }) => groupSnapshotId,
      remove,
    ),
    getVolumeGroupSnapshot: reading(get),
    groupControllerGetCapabilities: () =>
      Effect.succeed({
        capabilities: [
          { type: { case: "rpc" as const, value: { type: Offered.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT } } },
        ],
      }),
  }) satisfies ServiceImpl<typeof GroupController, unknown>;

export const groupControllerRole = (world: World) =>
  role({
    name: "group controller",
    layer: Layer.provideMerge(controllerLayer, volumesLayer(world)),
    serves: [served(GroupController, groupController())],
  });
