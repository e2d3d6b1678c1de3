/**
 * The Controller's RPCs that only look: what a request says in protobuf, as lib/listing takes it, and its answer back.
 *
 * 1. Those whose requests bring no credentials are offered only while the administrator has given some for every
 *    cluster: a CO takes what a list lacks for gone.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { parseCredentials } from "../lib/config/secrets.ts";
import { readCapability } from "../lib/csi/capability.ts";
import { InvalidRequest } from "../lib/csi/errors.ts";
import { snapshotMessage } from "../lib/csi/messages.ts";
import { requiredText } from "../lib/csi/request-fields.ts";
import {
  type ControllerGetVolumeRequest,
  ControllerServiceCapability_RPC_Type as Offered,
  type GetCapacityRequest,
  type GetSnapshotRequest,
  type ListSnapshotsRequest,
  type ListVolumesRequest,
} from "../lib/gen/csi_pb.ts";
import { capacity, capacityOf } from "../lib/listing/capacity.ts";
import { canList } from "../lib/listing/cluster-credentials.ts";
import { encodeToken, type ListKind, parseToken } from "../lib/listing/page-token.ts";
import { getSnapshot, listSnapshots } from "../lib/listing/snapshots.ts";
import { type ListedVolume, listVolumes, volumeStatus } from "../lib/listing/volumes.ts";
import { reading } from "../lib/operations/rpc.ts";

/** Those of the request, if it brings any. */
const given = (secrets: Readonly<Record<string, string>>) =>
  Object.keys(secrets).length === 0
    ? Effect.succeed(undefined)
    : Effect.fromResult(parseCredentials(secrets, { allowMigration: false }));

const pageOfRequest = (kind: ListKind, request: { readonly maxEntries: number; readonly startingToken: string }) =>
  Effect.gen(function* () {
    const { maxEntries, startingToken } = request;
    if (maxEntries < 0) return yield* new InvalidRequest({ field: "max_entries", reason: "is negative" });
    return { maxEntries, after: yield* Effect.fromResult(parseToken(kind, startingToken)) };
  });

const volumeFields = ({ volumeId, capacityBytes, nodes, condition }: ListedVolume) => ({
  volume: { volumeId, capacityBytes },
  status: { publishedNodeIds: [...nodes], volumeCondition: condition },
});

const volumes = (request: ListVolumesRequest) =>
  Effect.gen(function* () {
    const { after, maxEntries } = yield* pageOfRequest("volumes", request);
    const { entries, next } = yield* listVolumes(after, maxEntries);
    return { entries: entries.map(volumeFields), nextToken: next === undefined ? "" : encodeToken("volumes", next) };
  });

const volume = (request: ControllerGetVolumeRequest) =>
  Effect.gen(function* () {
    const volumeId = yield* Effect.fromResult(requiredText("volume_id", request.volumeId));
    return volumeFields(yield* volumeStatus(volumeId));
  });

const snapshots = (request: ListSnapshotsRequest) =>
  Effect.gen(function* () {
    const page = yield* pageOfRequest("snapshots", request);
    const { entries, next } = yield* listSnapshots(request, yield* given(request.secrets), page);
    return {
      entries: entries.map((entry) => ({ snapshot: snapshotMessage(entry) })),
      nextToken: next === undefined ? "" : encodeToken("snapshots", next),
    };
  });

const snapshot = (request: GetSnapshotRequest) =>
  Effect.gen(function* () {
    const snapshotId = yield* Effect.fromResult(requiredText("snapshot_id", request.snapshotId));
    return { snapshot: snapshotMessage(yield* getSnapshot(snapshotId, yield* given(request.secrets))) };
  });

const space = ({ volumeCapabilities, parameters, accessibleTopology }: GetCapacityRequest) =>
  Effect.gen(function* () {
    const unfit = volumeCapabilities.some((each) => Result.isFailure(readCapability("volume_capabilities", each)));
    // CSI: the capacity for volumes that have all of these capabilities.
    const found = unfit ? capacityOf(0n) : yield* capacity(parameters, accessibleTopology?.segments);
    return {
      availableCapacity: found.availableBytes,
      maximumVolumeSize: found.maximumBytes,
      minimumVolumeSize: found.minimumBytes,
    };
  });

export const listing = {
  listVolumes: reading(volumes),
  controllerGetVolume: reading(volume),
  listSnapshots: reading(snapshots),
  getSnapshot: reading(snapshot),
  getCapacity: reading(space),
};

const WITH_CREDENTIALS = [
  Offered.LIST_VOLUMES,
  Offered.LIST_VOLUMES_PUBLISHED_NODES,
  Offered.LIST_SNAPSHOTS,
  Offered.GET_VOLUME,
  Offered.VOLUME_CONDITION,
  Offered.GET_CAPACITY,
];

/** What can be offered just now. */
export const listingOffered = Effect.map(canList, (can) => [Offered.GET_SNAPSHOT, ...(can ? WITH_CREDENTIALS : [])]);
