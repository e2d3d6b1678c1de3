/**
 * The Controller's RPCs that only look: from protobuf to the values of lib/listing, and from its answers to protobuf.
 *
 * Not here: how the answers are found (lib/listing).
 *
 * 1. RPCs whose requests bring no credentials are offered only while the administrator has given credentials for every
 *    cluster, because a CO takes what a list lacks for gone.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { readCapability } from "../lib/csi/capability.ts";
import { InvalidRequest } from "../lib/csi/errors.ts";
import { snapshotMessage } from "../lib/csi/messages.ts";
import { VOLUME_CONDITION, withCondition } from "../lib/csi/volume-condition.ts";
import { healthMessage } from "../lib/csi/volume-health.ts";
import {
  type ControllerGetVolumeHealthRequest,
  type ControllerGetVolumeRequest,
  ControllerGetVolumeResponse_VolumeStatusSchema as StatusSchema,
  type ControllerListVolumeHealthRequest,
  ControllerServiceCapability_RPC_Type as Offered,
  type GetCapacityRequest,
  type GetSnapshotRequest,
  type ListSnapshotsRequest,
  type ListVolumesRequest,
  ListVolumesResponse_VolumeStatusSchema as ListedStatusSchema,
} from "../lib/gen/csi_pb.ts";
import { capacity, capacityOf } from "../lib/listing/capacity.ts";
import { canList } from "../lib/listing/cluster-credentials.ts";
import { encodeToken, type ListKind, parseToken } from "../lib/listing/page-token.ts";
import { getSnapshot, listSnapshots } from "../lib/listing/snapshots.ts";
import {
  listVolumeHealth,
  listVolumes,
  type VolumeHealth,
  volumeHealth,
  volumeStatus,
} from "../lib/listing/volumes.ts";
import { reading } from "../lib/operations/rpc.ts";
import { optionalCredentials, text, volumeIdText } from "./fields.ts";

const pageOf = Effect.fnUntraced(function* (
  kind: ListKind,
  { maxEntries, startingToken }: { readonly maxEntries: number; readonly startingToken: string },
) {
  if (maxEntries < 0) return yield* new InvalidRequest({ field: "max_entries", reason: "is negative" });
  return { maxEntries, after: yield* Effect.fromResult(parseToken(kind, startingToken)) };
});

const volumes = Effect.fnUntraced(function* (request: ListVolumesRequest) {
  const { after, maxEntries } = yield* pageOf("volumes", request);
  const { entries, next } = yield* listVolumes(after, maxEntries);
  return {
    entries: entries.map(({ volumeId, capacityBytes, nodes, fault }) => ({
      volume: { volumeId, capacityBytes },
      status: withCondition(ListedStatusSchema, { publishedNodeIds: [...nodes] }, fault?.message),
    })),
    nextToken: next === undefined ? "" : encodeToken("volumes", next),
  };
});

const volume = Effect.fnUntraced(function* (request: ControllerGetVolumeRequest) {
  const { volumeId, capacityBytes, nodes, fault } = yield* volumeStatus(
    yield* volumeIdText("volume_id", request.volumeId),
  );
  return {
    volume: { volumeId, capacityBytes },
    status: withCondition(StatusSchema, { publishedNodeIds: [...nodes] }, fault?.message),
  };
});

// ---------------------------------------------------------------------------------------------- health of volumes

const messageOf = ({ volumeId, fault }: VolumeHealth) => healthMessage(volumeId, fault === undefined ? [] : [fault]);

const unhealthyVolumes = Effect.fnUntraced(function* (request: ControllerListVolumeHealthRequest) {
  const { after, maxEntries } = yield* pageOf("volume health", request);
  const { entries, next } = yield* listVolumeHealth(yield* optionalCredentials(request.secrets), after, maxEntries);
  return {
    entries: entries.map(messageOf),
    nextToken: next === undefined ? "" : encodeToken("volume health", next),
  };
});

const health = Effect.fnUntraced(function* (request: ControllerGetVolumeHealthRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  return { volumeHealth: messageOf(yield* volumeHealth(volumeId, yield* optionalCredentials(request.secrets))) };
});

// ------------------------------------------------------------------------------------------ snapshots and capacity

const snapshots = Effect.fnUntraced(function* (request: ListSnapshotsRequest) {
  const page = yield* pageOf("snapshots", request);
  const { entries, next } = yield* listSnapshots(request, yield* optionalCredentials(request.secrets), page);
  return {
    entries: entries.map((entry) => ({ snapshot: snapshotMessage(entry) })),
    nextToken: next === undefined ? "" : encodeToken("snapshots", next),
  };
});

const snapshot = Effect.fnUntraced(function* (request: GetSnapshotRequest) {
  const snapshotId = yield* text("snapshot_id", request.snapshotId);
  return { snapshot: snapshotMessage(yield* getSnapshot(snapshotId, yield* optionalCredentials(request.secrets))) };
});

const space = Effect.fnUntraced(function* ({ volumeCapabilities, parameters, accessibleTopology }: GetCapacityRequest) {
  const refused = volumeCapabilities.some((each) => Result.isFailure(readCapability("volume_capabilities", each)));
  // CSI: the capacity for volumes that have all of these capabilities.
  const { availableBytes, maximumBytes, minimumBytes } = refused
    ? capacityOf(0n)
    : yield* capacity(parameters, accessibleTopology?.segments);
  return { availableCapacity: availableBytes, maximumVolumeSize: maximumBytes, minimumVolumeSize: minimumBytes };
});

export const listing = {
  listVolumes: reading(volumes),
  controllerGetVolume: reading(volume),
  controllerListVolumeHealth: reading(unhealthyVolumes),
  controllerGetVolumeHealth: reading(health),
  listSnapshots: reading(snapshots),
  getSnapshot: reading(snapshot),
  getCapacity: reading(space),
};

const WITH_CREDENTIALS: readonly Offered[] = [
  Offered.LIST_VOLUMES,
  Offered.LIST_VOLUMES_PUBLISHED_NODES,
  Offered.LIST_SNAPSHOTS,
  Offered.GET_VOLUME,
  VOLUME_CONDITION.controller,
  Offered.GET_VOLUME_HEALTH,
  Offered.LIST_VOLUME_HEALTH,
  Offered.GET_CAPACITY,
];

/** The capabilities that can be offered now. */
export const listingOffered = Effect.map(canList, (can) => [Offered.GET_SNAPSHOT, ...(can ? WITH_CREDENTIALS : [])]);
