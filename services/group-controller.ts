/**
 * The CSI GroupController service: what a request says in protobuf, as the recipes of lib/group take it, and what they
 * answer, back again.
 *
 * Not here: the recipes' stages, and single snapshots (./controller.ts).
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Flags } from "../lib/config/flags.ts";
import { parseCredentials } from "../lib/config/secrets.ts";
import { type VolumeOptions, volumeOptions } from "../lib/config/settings.ts";
import { snapshotFields, timestamp } from "../lib/csi/messages.ts";
import { requiredText } from "../lib/csi/request-fields.ts";
import {
  type CreateVolumeGroupSnapshotRequest,
  CreateVolumeGroupSnapshotRequestSchema,
  type DeleteVolumeGroupSnapshotRequest,
  DeleteVolumeGroupSnapshotRequestSchema,
  type GetVolumeGroupSnapshotRequest,
  GroupController,
  GroupControllerServiceCapability_RPC_Type as Offered,
  type VolumeGroupSnapshotSchema,
} from "../lib/gen/csi_pb.ts";
import { createGroupSnapshot, type TakenGroup } from "../lib/group/create.ts";
import { deleteGroupSnapshot } from "../lib/group/delete.ts";
import { getGroupSnapshot } from "../lib/group/get.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { type AnswerEarly, stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { controllerLayer } from "./controller.ts";

const text = (field: string, value: string) => Effect.fromResult(requiredText(field, value));

const texts = (field: string, values: readonly string[]) =>
  Effect.forEach(values, (value, i) => text(`${field}[${i}]`, value));

const credentials = (secrets: Readonly<Record<string, string>>) =>
  Effect.fromResult(parseCredentials(secrets, { allowMigration: false }));

type GroupMessage = ReturnType<typeof message>;
const message = ({ snapshots, createdAt, ready, groupSnapshotId }: TakenGroup) => ({
  groupSnapshot: {
    groupSnapshotId,
    snapshots: snapshots.map(snapshotFields),
    creationTime: timestamp(createdAt),
    readyToUse: ready,
  } satisfies MessageInitShape<typeof VolumeGroupSnapshotSchema>,
});

const create =
  (options: VolumeOptions) => (request: CreateVolumeGroupSnapshotRequest, answerEarly: AnswerEarly<GroupMessage>) =>
    Effect.gen(function* () {
      const requestName = yield* stage("validate", text("name", request.name));
      const sourceVolumeIds = yield* stage("validate", texts("source_volume_ids", request.sourceVolumeIds));
      const { parameters, secrets } = request;
      const wanted = { requestName, sourceVolumeIds, parameters, secrets };
      return message(yield* createGroupSnapshot(options, wanted, (early) => answerEarly(message(early))));
    });

const remove = (options: VolumeOptions) => (request: DeleteVolumeGroupSnapshotRequest) =>
  Effect.gen(function* () {
    const groupSnapshotId = yield* stage("validate", text("group_snapshot_id", request.groupSnapshotId));
    const { snapshotIds, secrets } = request;
    yield* deleteGroupSnapshot(options, groupSnapshotId, snapshotIds, yield* stage("validate", credentials(secrets)));
    return {};
  });

const get = (request: GetVolumeGroupSnapshotRequest) =>
  Effect.gen(function* () {
    const groupSnapshotId = yield* text("group_snapshot_id", request.groupSnapshotId);
    const { snapshotIds, secrets } = request;
    const given = Object.keys(secrets).length === 0 ? undefined : yield* credentials(secrets);
    return message(yield* getGroupSnapshot(groupSnapshotId, snapshotIds, given));
  });

export const groupController = (options: VolumeOptions) =>
  ({
    createVolumeGroupSnapshot: mutating(
      "CreateVolumeGroupSnapshot",
      CreateVolumeGroupSnapshotRequestSchema,
      ({ name }) => name,
      create(options),
    ),
    deleteVolumeGroupSnapshot: mutating(
      "DeleteVolumeGroupSnapshot",
      DeleteVolumeGroupSnapshotRequestSchema,
      ({ groupSnapshotId }) => groupSnapshotId,
      remove(options),
    ),
    getVolumeGroupSnapshot: reading(get),
    groupControllerGetCapabilities: () =>
      Effect.succeed({
        capabilities: [
          { type: { case: "rpc" as const, value: { type: Offered.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT } } },
        ],
      }),
  }) satisfies ServiceImpl<typeof GroupController, unknown>;

export const groupControllerRole = (flags: Flags, world: World) =>
  role({
    name: "group controller",
    layer: Layer.provideMerge(controllerLayer, volumesLayer(world)),
    serves: [served(GroupController, groupController(volumeOptions(flags)))],
  });
