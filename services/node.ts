/**
 * The CSI Node service: volumes on this machine, as a filesystem or as a raw block device.
 *
 * Here is the wire only: from a request to checked values, and from values to the response. Not here: what an RPC does,
 * which is one recipe in one file of lib/node each.
 *
 * 1. A request that is wrong changes nothing.
 */
import { resolve } from "node:path";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import type { Flags } from "../lib/config/flags.ts";
import type { InvalidSecret } from "../lib/config/errors.ts";
import { mapsReadOnly } from "../lib/config/krbd-options.ts";
import { parseNodeParameters } from "../lib/config/node-parameters.ts";
import { parseCredentials } from "../lib/config/secrets.ts";
import { type Capability, readCapability } from "../lib/csi/capability.ts";
import { InvalidRequest, type VolumeNotFound } from "../lib/csi/errors.ts";
import { refusalOfType } from "../lib/csi/filesystems.ts";
import { absolutePath, requiredText } from "../lib/csi/request-fields.ts";
import { VOLUME_CONDITION, withCondition } from "../lib/csi/volume-condition.ts";
import {
  Node,
  type NodeExpandVolumeRequest,
  NodeExpandVolumeRequestSchema,
  type NodeGetVolumeStatsRequest,
  NodeGetVolumeStatsResponseSchema,
  type NodePublishVolumeRequest,
  NodePublishVolumeRequestSchema,
  NodeServiceCapability_RPC_Type as Offered,
  type NodeStageVolumeRequest,
  NodeStageVolumeRequestSchema,
  type NodeUnpublishVolumeRequest,
  NodeUnpublishVolumeRequestSchema,
  type NodeUnstageVolumeRequest,
  NodeUnstageVolumeRequestSchema,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../lib/gen/csi_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import type { Usage } from "../lib/host/host.ts";
import { Placement } from "../lib/kube/placement.ts";
import { type ExpandSpec, expandVolume } from "../lib/node/expand.ts";
import { type PublishSpec, publishVolume } from "../lib/node/publish.ts";
import { makePublishedNodeRecord, PublishedNodeRecord } from "../lib/node/published-node-record.ts";
import { type StageSpec, stageVolume } from "../lib/node/stage.ts";
import { notMountedAt } from "../lib/node/staged-volume.ts";
import { type StatsSpec, type VolumeStats, volumeStats } from "../lib/node/stats.ts";
import { type UnpublishSpec, unpublishVolume } from "../lib/node/unpublish.ts";
import { type UnstageSpec, unstageVolume } from "../lib/node/unstage.ts";
import { readVolumeContext } from "../lib/node/volume-context.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { remark } from "../lib/operations/remark.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";

export interface NodeOptions {
  readonly nodeId: string;
  /** Names the journal in which the node records the volumes that it has; without it nothing is recorded. */
  readonly instanceId?: string;
}

// --------------------------------------------------------------------------------------- from a request to values

type Checked<A> = Effect.fn.Return<A, InvalidRequest>;

/** The volume ID becomes the name of a folder. */
const volumeIdOf = Effect.fnUntraced(function* (text: string): Checked<string> {
  const volumeId = yield* Effect.fromResult(requiredText("volume_id", text));
  if (!volumeId.includes("/") && volumeId !== "." && volumeId !== "..") return volumeId;
  const reason = 'must not contain "/" and must not be "." or ".."';
  return yield* new InvalidRequest({ field: "volume_id", reason });
});

const pathOf = Effect.fnUntraced(function* (field: string, text: string): Checked<string> {
  const path = resolve(yield* Effect.fromResult(absolutePath(field, text)));
  return path === "/" ? yield* new InvalidRequest({ field, reason: 'must not be "/"' }) : path;
});

/** A volume_path. CSI wants NOT_FOUND, and not INVALID_ARGUMENT, for a path at which no volume can be. */
const volumePathOf = Effect.fnUntraced(function* (
  volumeId: string,
  text: string,
): Effect.fn.Return<string, InvalidRequest | VolumeNotFound> {
  if (text !== "" && !text.startsWith("/")) return yield* notMountedAt(volumeId, text);
  return yield* pathOf("volume_path", text);
});

const capabilityOf = Effect.fnUntraced(function* ({
  volumeCapability,
}: NodeStageVolumeRequest | NodePublishVolumeRequest): Checked<Capability> {
  return yield* Effect.fromResult(readCapability("volume_capability", volumeCapability));
});

const stageSpec = Effect.fnUntraced(function* (
  request: NodeStageVolumeRequest,
): Effect.fn.Return<StageSpec, InvalidRequest | InvalidSecret> {
  const { access, mode, ...capability } = yield* capabilityOf(request);
  const volumeId = yield* volumeIdOf(request.volumeId);
  const stagingPath = yield* pathOf("staging_target_path", request.stagingTargetPath);
  const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
  const context = yield* Effect.fromResult(readVolumeContext(volumeId, request.volumeContext));
  yield* remark(context.remarks);
  const refusal = access.kind === "filesystem" ? refusalOfType(access.type) : undefined;
  if (refusal !== undefined) {
    return yield* new InvalidRequest({ field: "volume_capability.mount.fs_type", reason: refusal });
  }
  const asksReadOnly = mapsReadOnly(context.mapOptions);
  const readOnly = capability.readOnly || asksReadOnly;
  // The filesystem of a single reader may have a journal to replay, so its device is writable.
  const mapReadOnly = asksReadOnly || mode === Mode.MULTI_NODE_READER_ONLY || (access.kind === "block" && readOnly);
  const shared = mode === Mode.MULTI_NODE_READER_ONLY || mode === Mode.MULTI_NODE_MULTI_WRITER;
  return { volumeId, stagingPath, credentials, context, access, readOnly, mapReadOnly, shared };
});

const unstageSpec = Effect.fnUntraced(function* (request: NodeUnstageVolumeRequest): Checked<UnstageSpec> {
  const volumeId = yield* volumeIdOf(request.volumeId);
  return { volumeId, stagingPath: yield* pathOf("staging_target_path", request.stagingTargetPath) };
});

/** A context that no stage takes says nothing: the volume is staged already. */
const isMappedReadOnly = (context: Readonly<Record<string, string>>): boolean =>
  Result.match(parseNodeParameters(context), {
    onFailure: () => false,
    onSuccess: ({ mapOptions }) => mapsReadOnly(mapOptions),
  });

const publishSpec = Effect.fnUntraced(function* (request: NodePublishVolumeRequest): Checked<PublishSpec> {
  const { access, mode, readOnly } = yield* capabilityOf(request);
  const volumeId = yield* volumeIdOf(request.volumeId);
  const targetPath = yield* pathOf("target_path", request.targetPath);
  const stagingPath = yield* pathOf("staging_target_path", request.stagingTargetPath);
  const once = mode === Mode.SINGLE_NODE_SINGLE_WRITER;
  const takesNoWrites = request.readonly || readOnly || isMappedReadOnly(request.volumeContext);
  return { volumeId, stagingPath, targetPath, access, readOnly: takesNoWrites, once };
});

const unpublishSpec = Effect.fnUntraced(function* (request: NodeUnpublishVolumeRequest): Checked<UnpublishSpec> {
  const volumeId = yield* volumeIdOf(request.volumeId);
  return { volumeId, targetPath: yield* pathOf("target_path", request.targetPath) };
});

const expandSpec = Effect.fnUntraced(function* (
  request: NodeExpandVolumeRequest,
): Effect.fn.Return<ExpandSpec, InvalidRequest | VolumeNotFound> {
  const { requiredBytes = 0n, limitBytes = 0n } = request.capacityRange ?? {};
  const volumeId = yield* volumeIdOf(request.volumeId);
  const volumePath = yield* volumePathOf(volumeId, request.volumePath);
  if (requiredBytes < 0n || limitBytes < 0n || (limitBytes > 0n && limitBytes < requiredBytes)) {
    const reason = "must not be negative, and limit_bytes must not be below required_bytes";
    return yield* new InvalidRequest({ field: "capacity_range", reason });
  }
  const path =
    request.stagingTargetPath === ""
      ? volumePath
      : `${yield* pathOf("staging_target_path", request.stagingTargetPath)}/${volumeId}`;
  return { volumeId, path, requiredBytes, limitBytes };
});

const statsSpec = Effect.fnUntraced(function* (
  request: NodeGetVolumeStatsRequest,
): Effect.fn.Return<StatsSpec, InvalidRequest | VolumeNotFound> {
  const volumeId = yield* volumeIdOf(request.volumeId);
  return { volumeId, path: yield* volumePathOf(volumeId, request.volumePath) };
});

// -------------------------------------------------------------------------------------- from values to the response

const usageMessages = ({ usage, deviceBytes }: VolumeStats) => {
  if (deviceBytes !== undefined) return { usage: [{ unit: Unit.BYTES, total: deviceBytes }] };
  return usage === undefined ? {} : { usage: [bytesMessage(usage), inodesMessage(usage)] };
};

const bytesMessage = ({ totalBytes, usedBytes, availableBytes }: Usage) => ({
  unit: Unit.BYTES,
  total: totalBytes,
  used: usedBytes,
  available: availableBytes,
});

const inodesMessage = ({ totalInodes, freeInodes }: Usage) => ({
  unit: Unit.INODES,
  total: totalInodes,
  used: totalInodes - freeInodes,
  available: freeInodes,
});

const statsMessage = (stats: VolumeStats) =>
  withCondition(NodeGetVolumeStatsResponseSchema, usageMessages(stats), stats.fault);

// ----------------------------------------------------------------------------------------------------- the service

const OFFERED: readonly Offered[] = [
  Offered.STAGE_UNSTAGE_VOLUME,
  Offered.GET_VOLUME_STATS,
  VOLUME_CONDITION.node,
  Offered.EXPAND_VOLUME,
  Offered.SINGLE_NODE_MULTI_WRITER,
];

const subject = ({ volumeId }: { readonly volumeId: string }) => volumeId;

/** Checks the request, then runs the recipe; the response is empty. */
const done = <S, E, E2, R>(spec: Effect.Effect<S, E>, recipe: (spec: S) => Effect.Effect<void, E2, R>) =>
  Effect.as(Effect.flatMap(stage("validate", spec), recipe), {});

export const node = ({ nodeId, instanceId }: NodeOptions) => {
  const record = makePublishedNodeRecord(nodeId, instanceId);
  return {
    nodeStageVolume: mutating("NodeStageVolume", NodeStageVolumeRequestSchema, subject, (request) =>
      Effect.provideService(done(stageSpec(request), stageVolume), PublishedNodeRecord, record),
    ),
    nodeUnstageVolume: mutating("NodeUnstageVolume", NodeUnstageVolumeRequestSchema, subject, (request) =>
      Effect.provideService(done(unstageSpec(request), unstageVolume), PublishedNodeRecord, record),
    ),
    nodePublishVolume: mutating("NodePublishVolume", NodePublishVolumeRequestSchema, subject, (request) =>
      done(publishSpec(request), publishVolume),
    ),
    nodeUnpublishVolume: mutating("NodeUnpublishVolume", NodeUnpublishVolumeRequestSchema, subject, (request) =>
      done(unpublishSpec(request), unpublishVolume),
    ),
    nodeExpandVolume: mutating("NodeExpandVolume", NodeExpandVolumeRequestSchema, subject, (request) =>
      Effect.map(Effect.flatMap(stage("validate", expandSpec(request)), expandVolume), (capacityBytes) => ({
        capacityBytes,
      })),
    ),
    nodeGetVolumeStats: reading((request: NodeGetVolumeStatsRequest) =>
      Effect.map(Effect.flatMap(statsSpec(request), volumeStats), statsMessage),
    ),
    nodeGetCapabilities: () =>
      Effect.succeed({ capabilities: OFFERED.map((type) => ({ type: { case: "rpc" as const, value: { type } } })) }),
    nodeGetInfo: () =>
      Effect.map(Placement, ({ segments }) => ({ nodeId, accessibleTopology: { segments: { ...segments } } })),
  } satisfies ServiceImpl<typeof Node, unknown>;
};

export const nodeOptions = ({ nodeId, instanceId }: Flags): NodeOptions => ({ nodeId, instanceId });

export const nodeRole = (flags: Flags, world: World) =>
  role({
    name: "node",
    layer: Layer.mergeAll(volumesLayer(world), world.host, world.placement),
    serves: [served(Node, node(nodeOptions(flags)))],
  });
