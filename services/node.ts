/**
 * The CSI Node service: volumes on this machine, as a filesystem or as a raw block device.
 *
 * Here is the wire only: from a request to checked values, and from values to the response. Not here: what an RPC does,
 * which is one recipe in one file of lib/node each.
 *
 * 1. A request that is wrong changes nothing.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { isOfFiles, readEncryption } from "../lib/config/encryption.ts";
import type { Flags } from "../lib/config/flags.ts";
import type { InvalidSecret } from "../lib/config/errors.ts";
import { asksReadOnly, parseNodeParameters } from "../lib/config/node-parameters.ts";
import { parseCredentials } from "../lib/config/secrets.ts";
import { type Capability, readCapability, refusalOfEncryptedFiles } from "../lib/csi/capability.ts";
import { InvalidRequest, type VolumeNotFound } from "../lib/csi/errors.ts";
import { refusalOfMount } from "../lib/csi/filesystems.ts";
import { POD_ACCOUNT, PUBLISHED_ACCOUNTS } from "../lib/csi/service-accounts.ts";
import {
  Node,
  type NodeExpandVolumeRequest,
  NodeExpandVolumeRequestSchema,
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
} from "../lib/gen/csi_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { type NodeState, nodeState } from "../lib/kube/node-state.ts";
import { Placement } from "../lib/kube/placement.ts";
import { attachedToNode } from "../lib/kube/staged-volumes.ts";
import { ClientRecord, type ClientRecordService, makeClientRecord } from "../lib/node/client-record.ts";
import { type ExpandSpec, expandVolume } from "../lib/node/expand.ts";
import { makePodLimits, type PodLimitsService } from "../lib/node/io-limits.ts";
import type { Limitable } from "../lib/node/staged-before.ts";
import { type Healable, Healing, type HealingService, makeHealing } from "../lib/node/healing.ts";
import { leftPublished, leftStaged, overLeftOvers, type PublishedPlace } from "../lib/node/left-over.ts";
import type { StagedPlace } from "../lib/node/staged-volume.ts";
import { type PublishedPod, type PublishSpec, publishVolume } from "../lib/node/publish.ts";
import {
  makePublishedNodeRecord,
  PublishedNodeRecord,
  type PublishedNodeRecordService,
} from "../lib/node/published-node-record.ts";
import { type StageSpec, stageVolume } from "../lib/node/stage.ts";
import { type UnpublishSpec, unpublishVolume } from "../lib/node/unpublish.ts";
import { unstageVolume } from "../lib/node/unstage.ts";
import { readVolumeContext, type VolumeContext } from "../lib/node/volume-context.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating } from "../lib/operations/rpc.ts";
import { remark } from "../lib/operations/remark.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { byVolume } from "./fields.ts";
import { type Checked, pathOf, volumeIdOf, volumePathOf } from "./node-fields.ts";
import { HEALTH_OFFERED, nodeHealth } from "./node-health.ts";

export interface NodeParts {
  readonly nodeId: string;
  readonly record: PublishedNodeRecordService;
  readonly clients: ClientRecordService;
  readonly healing: HealingService;
  readonly limits: PodLimitsService;
}

// --------------------------------------------------------------------------------------- from a request to values

const capabilityOf = Effect.fnUntraced(function* ({
  volumeCapability,
}: NodeStageVolumeRequest | NodePublishVolumeRequest): Checked<Capability> {
  return yield* Effect.fromResult(readCapability("volume_capability", volumeCapability));
});

const stagedPlace = Effect.fnUntraced(function* (
  request: NodeStageVolumeRequest | NodeUnstageVolumeRequest | NodePublishVolumeRequest,
): Checked<StagedPlace> {
  const volumeId = yield* volumeIdOf(request.volumeId);
  return { volumeId, stagingPath: yield* pathOf("staging_target_path", request.stagingTargetPath) };
});

const publishedPlace = Effect.fnUntraced(function* (request: NodePublishVolumeRequest): Checked<PublishedPlace> {
  const targetPath = yield* pathOf("target_path", request.targetPath);
  return { ...(yield* stagedPlace(request)), targetPath };
});

const stageSpec = Effect.fnUntraced(function* (
  request: NodeStageVolumeRequest,
): Effect.fn.Return<StageSpec, InvalidRequest | InvalidSecret> {
  const { access, mode, multiNode, ...capability } = yield* capabilityOf(request);
  const { volumeId, stagingPath } = yield* stagedPlace(request);
  const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
  const context = yield* Effect.fromResult(readVolumeContext(volumeId, request.volumeContext));
  yield* remark(context.remarks);
  const unfit = isOfFiles(context.encryption) ? refusalOfEncryptedFiles(access) : undefined;
  if (unfit !== undefined) return yield* new InvalidRequest({ field: "volume_capability", reason: unfit });
  const mappedReadOnly = asksReadOnly(context);
  const readOnly = capability.readOnly || mappedReadOnly;
  const refusal = access.kind === "filesystem" ? refusalOfMount(access.type, readOnly) : undefined;
  if (refusal !== undefined) {
    return yield* new InvalidRequest({ field: "volume_capability.mount.fs_type", reason: refusal });
  }
  // The filesystem of a single reader may have a journal to replay, so its device is writable.
  const mapReadOnly = mappedReadOnly || mode === Mode.MULTI_NODE_READER_ONLY || (access.kind === "block" && readOnly);
  const shared = mode === Mode.MULTI_NODE_READER_ONLY || mode === Mode.MULTI_NODE_MULTI_WRITER;
  const sharedWriters = multiNode && !mapReadOnly ? Mode[mode] : undefined;
  const { secrets } = request;
  const how = { access, readOnly, mapReadOnly, shared, sharedWriters };
  return { volumeId, stagingPath, credentials, secrets, context, ...how };
});

/** A context that no stage takes says nothing: the volume is staged already. */
const isMappedReadOnly = (context: Readonly<Record<string, string>>): boolean =>
  Result.match(parseNodeParameters(context), {
    onFailure: () => false,
    onSuccess: asksReadOnly,
  });

const podOf = ({ volumeContext, publishContext }: NodePublishVolumeRequest): PublishedPod => {
  const named = ["namespace", "name"].map((part) => volumeContext[`csi.storage.k8s.io/pod.${part}`] ?? "");
  return {
    name: named.filter((part) => part !== "").join("/"),
    serviceAccount: volumeContext[POD_ACCOUNT] ?? "",
    allowed: publishContext[PUBLISHED_ACCOUNTS] ?? "",
  };
};

/** No stage here takes a context that cannot be read; another driver may have staged the volume. */
const hasEncryptedFiles = (context: Readonly<Record<string, string>>): boolean =>
  Result.match(readEncryption(context), {
    onFailure: () => context["encryptionType"] === "file",
    onSuccess: isOfFiles,
  });

const publishSpec = Effect.fnUntraced(function* (request: NodePublishVolumeRequest): Checked<PublishSpec> {
  const { access, mode, readOnly } = yield* capabilityOf(request);
  const place = yield* publishedPlace(request);
  const once = mode === Mode.SINGLE_NODE_SINGLE_WRITER;
  const takesNoWrites = request.readonly || readOnly || isMappedReadOnly(request.volumeContext);
  const encryptedFiles = hasEncryptedFiles(request.volumeContext);
  const unfit = encryptedFiles ? refusalOfEncryptedFiles(access) : undefined;
  if (unfit !== undefined) return yield* new InvalidRequest({ field: "volume_capability", reason: unfit });
  return {
    ...place,
    access,
    readOnly: takesNoWrites,
    encryptedFiles,
    once,
    pod: podOf(request),
  };
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

/** Of a volume ID or path that cannot be, nothing is there. */
const ofReadable = <E, R>(left: Effect.Effect<readonly string[], E | InvalidRequest, R>) =>
  Effect.catchTag(left, "InvalidRequest", () => Effect.succeed<readonly string[]>([]));

/** A request that is refused must not make kubelet forget what is there of the volume. */
const stageChecked = (request: NodeStageVolumeRequest) =>
  overLeftOvers(
    "stage",
    request.volumeId,
    ofReadable(Effect.flatMap(stagedPlace(request), leftStaged)),
  )(stageSpec(request));

/** As `stageChecked`. */
const publishChecked = (request: NodePublishVolumeRequest) =>
  overLeftOvers(
    "publish",
    request.volumeId,
    ofReadable(Effect.flatMap(publishedPlace(request), leftPublished)),
  )(publishSpec(request));

// ----------------------------------------------------------------------------------------------------- the service

const OFFERED: readonly Offered[] = [
  Offered.STAGE_UNSTAGE_VOLUME,
  ...HEALTH_OFFERED,
  Offered.EXPAND_VOLUME,
  Offered.SINGLE_NODE_MULTI_WRITER,
];

/** Checks the request, then runs the recipe; the response is empty. */
const done = <S, E, R, E2, R2>(spec: Effect.Effect<S, E, R>, recipe: (spec: S) => Effect.Effect<void, E2, R2>) =>
  Effect.as(Effect.flatMap(stage("validate", spec), recipe), {});

/** Gives a recipe what this process knows of the volumes that it staged. */
export const withRecords =
  ({ record, clients }: Pick<NodeParts, "record" | "clients">) =>
  <A, E, R>(recipe: Effect.Effect<A, E, R>) =>
    recipe.pipe(
      Effect.provideService(PublishedNodeRecord, record),
      Effect.provideService(ClientRecord, ClientRecord.of(clients)),
    );

export const node = ({ nodeId, healing, limits, ...records }: NodeParts) => {
  const recorded = withRecords(records);
  const staged = (spec: StageSpec) =>
    Effect.flatMap(stageVolume(spec), (found) => {
      healing.remember(spec);
      return limits.remember(spec, found);
    });
  const unstaged = (place: StagedPlace) =>
    Effect.tap(unstageVolume(place), () =>
      Effect.sync(() => {
        healing.forget(place.volumeId);
        limits.forget(place.volumeId);
      }),
    );
  const published = (request: NodePublishVolumeRequest) => (spec: PublishSpec) =>
    Effect.tap(publishVolume(spec), () => {
      const { volumeContext, secrets } = request;
      const context = readVolumeContext(spec.volumeId, volumeContext);
      const credentials = parseCredentials(secrets, { allowMigration: true });
      // Nothing has staged a volume with a context that cannot be read.
      if (Result.isFailure(context)) return Effect.void;
      const volume = {
        context: context.success,
        credentials: Result.isSuccess(credentials) ? credentials.success : undefined,
      };
      return stage("limit I/O", limits.published(volume, spec.targetPath));
    });
  return {
    nodeStageVolume: mutating("NodeStageVolume", NodeStageVolumeRequestSchema, byVolume, (request) =>
      recorded(done(stageChecked(request), staged)),
    ),
    nodeUnstageVolume: mutating("NodeUnstageVolume", NodeUnstageVolumeRequestSchema, byVolume, (request) =>
      recorded(Effect.provideService(done(stagedPlace(request), unstaged), Healing, Healing.of(healing))),
    ),
    nodePublishVolume: mutating("NodePublishVolume", NodePublishVolumeRequestSchema, byVolume, (request) =>
      done(publishChecked(request), published(request)),
    ),
    nodeUnpublishVolume: mutating("NodeUnpublishVolume", NodeUnpublishVolumeRequestSchema, byVolume, (request) =>
      done(unpublishSpec(request), unpublishVolume),
    ),
    nodeExpandVolume: mutating("NodeExpandVolume", NodeExpandVolumeRequestSchema, byVolume, (request) =>
      Effect.map(
        Effect.flatMap(stage("validate", expandSpec(request)), expandVolume).pipe(
          recorded,
          Effect.provideService(Healing, Healing.of(healing)),
        ),
        (capacityBytes) => ({ capacityBytes }),
      ),
    ),
    ...nodeHealth,
    nodeGetCapabilities: () =>
      Effect.succeed({ capabilities: OFFERED.map((type) => ({ type: { case: "rpc" as const, value: { type } } })) }),
    nodeGetInfo: () =>
      Effect.map(Placement, ({ segments }) => ({ nodeId, accessibleTopology: { segments: { ...segments } } })),
  } satisfies ServiceImpl<typeof Node, unknown>;
};

/** A volume, by a context and secrets that a stage would take; none by others. */
const limitable = (
  volumeId: string,
  { volumeContext, secrets }: Pick<NodePublishVolumeRequest, "volumeContext" | "secrets">,
): readonly Limitable[] => {
  const context = readVolumeContext(volumeId, volumeContext);
  const credentials = parseCredentials(secrets, { allowMigration: true });
  if (Result.isFailure(context) || Result.isFailure(credentials)) return [];
  return [{ context: context.success, credentials: credentials.success }];
};

/** kubelet stages a volume with the first mode of its PersistentVolume, or as ReadWriteOnce where there is none. */
const stagedMode = ([mode = "ReadWriteOnce"]: readonly string[], context: VolumeContext) => ({
  shared: mode === "ReadOnlyMany" || mode === "ReadWriteMany",
  mapReadOnly: mode === "ReadOnlyMany" || asksReadOnly(context),
});

/** The volumes that Kubernetes has attached to this node, as NodeStageVolume was asked to stage them. */
const attachedVolumes = ({ driverName, nodeId }: Flags, world: World) =>
  attachedToNode(driverName, nodeId).pipe(
    Effect.map(({ staged, volumeIds }) => ({
      staged: staged.flatMap(({ volumeId, accessModes, ...given }): readonly Healable[] =>
        limitable(volumeId, given).map((volume) => ({ ...volume, ...stagedMode(accessModes, volume.context) })),
      ),
      volumeIds,
    })),
    Effect.provide(world.kube),
  );

/** What Kubernetes shows of this node; `undefined`: it does not tell, which holds up no volume for long. */
const shownOf = (nodeId: string, world: World): Effect.Effect<NodeState | undefined> =>
  nodeState(nodeId).pipe(
    Effect.provide(world.kube),
    Effect.timeout("5 seconds"),
    Effect.catch(({ message }) =>
      Effect.as(Effect.logDebug(`which machine node ${nodeId} is, is not known: ${message}`), undefined),
    ),
  );

/** What one process has of the node: its memory of what it staged is in them. */
export const nodeParts = (flags: Flags, world: World): NodeParts => {
  const attached = attachedVolumes(flags, world);
  return {
    nodeId: flags.nodeId,
    record: makePublishedNodeRecord(flags.nodeId, flags.instanceId),
    clients: makeClientRecord(flags.nodeId, flags.enableFencing, shownOf(flags.nodeId, world)),
    healing: makeHealing(attached),
    limits: makePodLimits(attached),
  };
};

export const nodeRole = (flags: Flags, world: World) => {
  const parts = nodeParts(flags, world);
  return role({
    name: "node",
    layer: Layer.mergeAll(volumesLayer(world), world.host, world.placement),
    serves: [served(Node, node(parts))],
    runs: Effect.all([withRecords(parts)(parts.healing.watch), parts.limits.watch], {
      concurrency: "unbounded",
      discard: true,
    }),
  });
};
