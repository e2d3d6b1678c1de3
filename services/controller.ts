/**
 * The CSI Controller service: reads requests for the recipes of lib/volume and lib/snapshot, and writes their results as
 * responses.
 *
 * Not here: the recipes' stages, whether Ceph can be reached, and the RPCs that only look
 * (./controller-listing.ts) or that attach (./controller-publish.ts).
 *
 * 1. A request is checked field by field before anything else happens.
 * 2. A capability is advertised only if every RPC of it is served.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { isOfFiles } from "../lib/config/encryption.ts";
import type { Flags } from "../lib/config/flags.ts";
import { type NodeParameters, parseNodeParameters, writesTags } from "../lib/config/node-parameters.ts";
import {
  type Capability,
  filesystemsOf,
  readCapabilities,
  readCapability,
  refusalOfFileEncryption,
  refusalOfIntegrity,
  refusalOfMounts,
  refusalOfTypes,
} from "../lib/csi/capability.ts";
import { InvalidRequest } from "../lib/csi/errors.ts";
import { type CsiSnapshot, snapshotMessage } from "../lib/csi/messages.ts";
import { Kubernetes } from "../lib/fencing/kubernetes.ts";
import {
  Controller,
  type ControllerExpandVolumeRequest,
  ControllerExpandVolumeRequestSchema,
  type ControllerModifyVolumeRequest,
  ControllerModifyVolumeRequestSchema,
  ControllerServiceCapability_RPC_Type as Offered,
  type CreateSnapshotRequest,
  CreateSnapshotRequestSchema,
  type CreateVolumeRequest,
  CreateVolumeRequestSchema,
  type DeleteSnapshotRequest,
  DeleteSnapshotRequestSchema,
  type DeleteVolumeRequest,
  DeleteVolumeRequestSchema,
  type TopologyRequirement,
  type ValidateVolumeCapabilitiesRequest,
  type VolumeContentSource,
} from "../lib/gen/csi_pb.ts";
import { readVolumeContext } from "../lib/node/volume-context.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { Flatten } from "../lib/images/flatten.ts";
import { Purge } from "../lib/images/purge.ts";
import { withTrashDelay } from "../lib/images/trash-delay.ts";
import { type AnswerEarly, stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { readMutableParameters } from "../lib/qos/parameters.ts";
import { AnswersFirst } from "../lib/snapshot/answers-first.ts";
import { createSnapshot } from "../lib/snapshot/create.ts";
import { deleteSnapshot } from "../lib/snapshot/delete.ts";
import type { SourceRequest } from "../lib/volume/copy-source.ts";
import { createVolume } from "../lib/volume/create.ts";
import { deleteVolume } from "../lib/volume/delete.ts";
import { type ExpandRequest, expandVolume } from "../lib/volume/expand.ts";
import { modifyVolume } from "../lib/volume/modify.ts";
import { proveStaticExists, proveVolumeExists, refusalOfBlankImage } from "../lib/volume/prove-exists.ts";
import type { Requirement } from "../lib/volume/topology.ts";
import { listing, listingOffered } from "./controller-listing.ts";
import { publishing, publishingOffered } from "./controller-publish.ts";
import { byVolume, credentials, text, volumeIdText } from "./fields.ts";

// ----------------------------------------------------------------------------------------------------- volumes

const contentSource = (source: VolumeContentSource | undefined) => {
  switch (source?.type.case) {
    case "snapshot":
      return Effect.succeed<SourceRequest>({ kind: "snapshot", id: source.type.value.snapshotId });
    case "volume":
      return Effect.succeed<SourceRequest>({ kind: "volume", id: source.type.value.volumeId });
    default:
      return source === undefined
        ? Effect.succeed(undefined)
        : Effect.fail(
            new InvalidRequest({ field: "volume_content_source", reason: "names neither a snapshot nor a volume" }),
          );
  }
};

const requirement = (asked: TopologyRequirement | undefined): Requirement | undefined =>
  asked && {
    preferred: asked.preferred.map(({ segments }) => segments),
    requisite: asked.requisite.map(({ segments }) => segments),
  };

/** The first capability that an encrypted volume of these parameters does not have. */
const refusalOfEncrypted = (node: NodeParameters, capabilities: readonly Capability[]) => {
  if (isOfFiles(node.encryption)) return refusalOfFileEncryption("volume_capabilities", capabilities);
  return writesTags(node) ? refusalOfIntegrity("volume_capabilities", capabilities) : undefined;
};

const readCreateRequest = Effect.fnUntraced(function* (request: CreateVolumeRequest) {
  const requestName = yield* text("name", request.name);
  const capabilities = yield* Effect.fromResult(readCapabilities("volume_capabilities", request.volumeCapabilities));
  const source = yield* contentSource(request.volumeContentSource);
  if (source === undefined && capabilities.every(({ readOnly }) => readOnly)) {
    const reason =
      "asks only for readers, by access mode or by the mount flag ro, of a volume without a content source, which would stay empty for ever. Add a writable capability or a source";
    return yield* new InvalidRequest({ field: "volume_capabilities", reason });
  }
  const refusal = refusalOfTypes("volume_capabilities", capabilities);
  if (refusal !== undefined) return yield* new InvalidRequest(refusal);
  const { parameters, mutableParameters, secrets, capacityRange, accessibilityRequirements } = request;
  const unfit = refusalOfEncrypted(yield* Effect.fromResult(parseNodeParameters(parameters)), capabilities);
  if (unfit !== undefined) return yield* new InvalidRequest(unfit);
  const topology = requirement(accessibilityRequirements);
  const filesystems = filesystemsOf(capabilities);
  const size = capacityRange ?? {};
  return { requestName, parameters, mutableParameters, secrets, size, source, topology, filesystems };
});

const create = Effect.fnUntraced(function* (request: CreateVolumeRequest) {
  const asked = yield* stage("validate", readCreateRequest(request));
  const { segments, ...volume } = yield* createVolume(asked);
  const { volumeContentSource: contentSource } = request;
  const accessibleTopology = segments === undefined ? [] : [{ segments: { ...segments } }];
  return { volume: { ...volume, accessibleTopology, ...(contentSource && { contentSource }) } };
});

const remove = Effect.fnUntraced(function* (request: DeleteVolumeRequest) {
  const volumeId = yield* stage("validate", volumeIdText("volume_id", request.volumeId));
  const { secrets } = request;
  const who = yield* stage("validate", credentials(secrets, { allowMigration: true }));
  yield* deleteVolume(volumeId, { credentials: who, secrets });
  return {};
});

const readExpandRequest = Effect.fnUntraced(function* (request: ControllerExpandVolumeRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  const { capacityRange: size, volumeCapability } = request;
  if (size === undefined) return yield* new InvalidRequest({ field: "capacity_range", reason: "is missing" });
  const capability =
    volumeCapability && (yield* Effect.fromResult(readCapability("volume_capability", volumeCapability)));
  const block = capability?.access.kind === "block";
  const expand: ExpandRequest = {
    volumeId,
    size,
    block,
    credentials: yield* credentials(request.secrets, { allowMigration: true }),
  };
  return expand;
});

const expand = (request: ControllerExpandVolumeRequest) =>
  Effect.flatMap(stage("validate", readExpandRequest(request)), expandVolume);

const modify = Effect.fnUntraced(function* (request: ControllerModifyVolumeRequest) {
  const volumeId = yield* stage("validate", volumeIdText("volume_id", request.volumeId));
  const asked = yield* stage("validate", Effect.fromResult(readMutableParameters(request.mutableParameters)));
  yield* modifyVolume({
    volumeId,
    asked,
    credentials: yield* stage("validate", credentials(request.secrets, { allowMigration: true })),
  });
  return {};
});

const validateCapabilities = Effect.fnUntraced(function* (request: ValidateVolumeCapabilitiesRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  const { volumeContext, volumeCapabilities, parameters, mutableParameters } = request;
  if (volumeCapabilities.length === 0) {
    return yield* new InvalidRequest({ field: "volume_capabilities", reason: "is missing" });
  }
  const who = yield* credentials(request.secrets, { allowMigration: true });
  const context = readVolumeContext(volumeId, volumeContext);
  // A context that no node takes leads to no static image, but a dynamic volume is found without it.
  const { fixed } = Result.getOrElse(context, () => ({ fixed: undefined }));
  const image = yield* fixed === undefined ? proveVolumeExists(volumeId, who) : proveStaticExists(volumeId, fixed, who);
  if (Result.isFailure(context)) return { message: context.failure.message };
  const read = readCapabilities("volume_capabilities", volumeCapabilities);
  if (Result.isFailure(read)) return { message: read.failure.message };
  const wrongType = refusalOfMounts("volume_capabilities", read.success);
  if (wrongType !== undefined) return { message: new InvalidRequest(wrongType).message };
  const unfit = refusalOfEncrypted(context.success, read.success);
  if (unfit !== undefined) return { message: new InvalidRequest(unfit).message };
  const limits = readMutableParameters(mutableParameters);
  if (Result.isFailure(limits)) return { message: limits.failure.message };
  const tooSmall = yield* refusalOfBlankImage(image, filesystemsOf(read.success), context.success.mkfsOptions);
  if (tooSmall !== undefined) return { message: `volume_capabilities ${tooSmall}` };
  return { confirmed: { volumeContext, volumeCapabilities, parameters, mutableParameters } };
});

// --------------------------------------------------------------------------------------------------- snapshots

type SnapshotAnswer = ReturnType<typeof snapshotAnswer>;
const snapshotAnswer = (snapshot: CsiSnapshot) => ({ snapshot: snapshotMessage(snapshot) });

const takeSnapshot = Effect.fnUntraced(function* (
  request: CreateSnapshotRequest,
  answerEarly: AnswerEarly<SnapshotAnswer>,
) {
  const requestName = yield* stage("validate", text("name", request.name));
  const sourceVolumeId = yield* stage("validate", volumeIdText("source_volume_id", request.sourceVolumeId));
  const { parameters, secrets, accessibilityRequirements } = request;
  const topology = requirement(accessibilityRequirements);
  const snapshot = yield* createSnapshot({ requestName, sourceVolumeId, parameters, secrets, topology }, (early) =>
    answerEarly(snapshotAnswer(early)),
  );
  return snapshotAnswer(snapshot);
});

const removeSnapshot = Effect.fnUntraced(function* (request: DeleteSnapshotRequest) {
  const snapshotId = yield* stage("validate", text("snapshot_id", request.snapshotId));
  const { secrets } = request;
  yield* deleteSnapshot(snapshotId, { credentials: yield* stage("validate", credentials(secrets)), secrets });
  return {};
});

// ------------------------------------------------------------------------------------------------- the service

const OFFERED = [
  Offered.CREATE_DELETE_VOLUME,
  Offered.CREATE_DELETE_SNAPSHOT,
  Offered.CLONE_VOLUME,
  Offered.EXPAND_VOLUME,
  Offered.MODIFY_VOLUME,
  Offered.SINGLE_NODE_MULTI_WRITER,
];

const byName = ({ name }: { readonly name: string }) => name;

export const controller = () =>
  ({
    createVolume: mutating("CreateVolume", CreateVolumeRequestSchema, byName, create),
    deleteVolume: mutating("DeleteVolume", DeleteVolumeRequestSchema, byVolume, remove),
    controllerExpandVolume: mutating("ControllerExpandVolume", ControllerExpandVolumeRequestSchema, byVolume, expand),
    controllerModifyVolume: mutating("ControllerModifyVolume", ControllerModifyVolumeRequestSchema, byVolume, modify),
    validateVolumeCapabilities: reading(validateCapabilities),
    createSnapshot: mutating("CreateSnapshot", CreateSnapshotRequestSchema, byName, takeSnapshot),
    deleteSnapshot: mutating(
      "DeleteSnapshot",
      DeleteSnapshotRequestSchema,
      ({ snapshotId }) => snapshotId,
      removeSnapshot,
    ),
    ...listing,
    ...publishing,
    controllerGetCapabilities: () =>
      Effect.map(listingOffered, (more) => ({
        capabilities: [...OFFERED, ...publishingOffered, ...more].map((type) => ({
          type: { case: "rpc" as const, value: { type } },
        })),
      })),
  }) satisfies ServiceImpl<typeof Controller, unknown>;

/** The layers that recipes need besides Ceph, locks, operations and the configuration. */
export const controllerLayer = Layer.mergeAll(
  Layer.provide(withTrashDelay, Purge.layer),
  Flatten.layer,
  AnswersFirst.layer,
);

/** With fencing the driver asks Kubernetes which nodes are lost. Outside of a pod, and without a kubeconfig, there is none. */
const fencingLayer = ({ enableFencing, kubeconfig }: Flags, { kube }: World) => {
  if (!enableFencing) return Kubernetes.none;
  const asked = Layer.provide(Kubernetes.layer, kube);
  if (kubeconfig !== "") return asked;
  return Layer.catch(asked, ({ message }) =>
    Layer.provideMerge(Kubernetes.none, Layer.effectDiscard(Effect.logWarning(`no node is fenced: ${message}`))),
  );
};

export const controllerRole = (flags: Flags, world: World) =>
  role({
    name: "controller",
    layer: Layer.mergeAll(Layer.provideMerge(controllerLayer, volumesLayer(world)), fencingLayer(flags, world)),
    serves: [served(Controller, controller())],
    runs: AnswersFirst.untilStop,
  });
