/**
 * How a volume is on this node, as the CSI Node service tells it: its usage, and what is wrong with it, in the words of
 * CSI 1.12 (VolumeCondition) and of 1.13 (VolumeHealth); and whether the node reaches its clusters.
 *
 * Here is the wire only. Not here: what is wrong with a volume (lib/node/health.ts) or with a cluster
 * (lib/node/storage-health.ts).
 */
import * as Effect from "effect/Effect";
import type { InvalidRequest, VolumeNotFound } from "../lib/csi/errors.ts";
import { VOLUME_CONDITION, withCondition } from "../lib/csi/volume-condition.ts";
import { healthMessage, wordsOf } from "../lib/csi/volume-health.ts";
import {
  type Node,
  type NodeGetVolumeHealthRequest,
  type NodeGetVolumeStatsRequest,
  NodeGetVolumeStatsResponseSchema,
  NodeServiceCapability_RPC_Type as Offered,
  StorageHealthErrorType as StorageStatus,
  VolumeUsage_Unit as Unit,
} from "../lib/gen/csi_pb.ts";
import type { ServiceImpl } from "../lib/grpc/service.ts";
import type { Usage } from "../lib/host/host.ts";
import { volumeState, type VolumeState } from "../lib/node/health.ts";
import { type StorageFault, storageFaults } from "../lib/node/storage-health.ts";
import { reading } from "../lib/operations/rpc.ts";
import { pathOf, volumeIdOf, volumePathOf } from "./node-fields.ts";

export const HEALTH_OFFERED: readonly Offered[] = [
  Offered.GET_VOLUME_STATS,
  VOLUME_CONDITION.node,
  Offered.GET_VOLUME_HEALTH,
  Offered.GET_STORAGE_HEALTH,
];

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

/** btrfs makes inodes as it needs them, and counts none. */
const filesystemUsage = (usage: Usage) =>
  usage.totalInodes > 0n ? [bytesMessage(usage), inodesMessage(usage)] : [bytesMessage(usage)];

const usageMessages = ({ usage, deviceBytes }: VolumeState) => {
  if (deviceBytes !== undefined) return { usage: [{ unit: Unit.BYTES, total: deviceBytes }] };
  return usage === undefined ? {} : { usage: filesystemUsage(usage) };
};

const stats = Effect.fnUntraced(function* ({ volumeId: id, volumePath }: NodeGetVolumeStatsRequest) {
  const volumeId = yield* volumeIdOf(id);
  const state = yield* volumeState(volumeId, yield* volumePathOf(volumeId, volumePath));
  return withCondition(NodeGetVolumeStatsResponseSchema, usageMessages(state), wordsOf(state.faults));
});

/** Where the volume is published or, of one that is not, where it is staged; absent: the caller does not say. */
const healthPath = Effect.fnUntraced(function* (
  volumeId: string,
  { volumePublishPath, stagingTargetPath }: NodeGetVolumeHealthRequest,
): Effect.fn.Return<string | undefined, InvalidRequest | VolumeNotFound> {
  if (volumePublishPath !== "") return yield* volumePathOf(volumeId, volumePublishPath);
  if (stagingTargetPath === "") return undefined;
  return `${yield* pathOf("staging_target_path", stagingTargetPath)}/${volumeId}`;
});

const health = Effect.fnUntraced(function* (request: NodeGetVolumeHealthRequest) {
  const volumeId = yield* volumeIdOf(request.volumeId);
  const { faults } = yield* volumeState(volumeId, yield* healthPath(volumeId, request));
  return { volumeHealth: healthMessage(volumeId, faults) };
});

const STORAGE_STATUS: Readonly<Record<StorageFault["status"], StorageStatus>> = {
  degraded: StorageStatus.STORAGE_DEGRADED,
  unreachable: StorageStatus.STORAGE_UNREACHABLE,
};

const storageHealth = Effect.map(storageFaults, (faults) => ({
  backendHealth: faults.map((fault) => ({ ...fault, status: STORAGE_STATUS[fault.status] })),
}));

export const nodeHealth = {
  nodeGetVolumeStats: reading(stats),
  nodeGetVolumeHealth: reading(health),
  nodeGetStorageHealth: reading(() => storageHealth),
} satisfies ServiceImpl<typeof Node, unknown>;
