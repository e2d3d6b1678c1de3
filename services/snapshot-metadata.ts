/**
 * The CSI SnapshotMetadata service: which ranges of bytes a snapshot has, or two snapshots of a volume differ in, as
 * streams. It is what incremental backups copy by.
 *
 * Not here: how that is found out (lib/changed-blocks/changed-blocks.ts).
 *
 * 1. Ranges have any length (VARIABLE_LENGTH). A stream has at least one message, because it carries the capacity.
 * 2. A page is asked of Ceph when the caller has taken the one before (lib/grpc/bridge.ts), so memory does not grow
 *    with the image.
 * 3. Few pages are asked at once, whatever the number of streams, and one whose caller leaves ends early, as far as librbd
 *    can end it (lib/ceph/live/snapshots.ts). No stop of the driver waits for it (lib/grpc/bridge.ts).
 */
import * as Effect from "effect/Effect";
import * as Stream from "effect/Stream";
import { allocatedBlocks, type Blocks, changedBlocks } from "../lib/changed-blocks/changed-blocks.ts";
import { InvalidRequest } from "../lib/csi/errors.ts";
import {
  BlockMetadataType,
  type GetMetadataAllocatedRequest,
  type GetMetadataDeltaRequest,
  SnapshotMetadata,
} from "../lib/gen/csi_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { toRpcError } from "../lib/operations/outcomes.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import { optionalCredentials, text } from "./fields.ts";

const wanted = ({ secrets, startingOffset, maxResults }: GetMetadataAllocatedRequest | GetMetadataDeltaRequest) =>
  Effect.gen(function* () {
    if (startingOffset < 0n) return yield* new InvalidRequest({ field: "starting_offset", reason: "is negative" });
    if (maxResults < 0) return yield* new InvalidRequest({ field: "max_results", reason: "is negative" });
    return { credentials: yield* optionalCredentials(secrets), startingOffset, maxResults };
  });

const message = ({ capacityBytes, blocks }: Blocks) => ({
  blockMetadataType: BlockMetadataType.VARIABLE_LENGTH,
  volumeCapacityBytes: capacityBytes,
  blockMetadata: blocks.map(({ offset, length }) => ({ byteOffset: offset, sizeBytes: length })),
});

const allocated = (request: GetMetadataAllocatedRequest) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const snapshotId = yield* text("snapshot_id", request.snapshotId);
      return allocatedBlocks(snapshotId, yield* wanted(request));
    }),
  ).pipe(
    Stream.map(message),
    Stream.mapError((error) => toRpcError(error)),
  );

const delta = (request: GetMetadataDeltaRequest) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const base = yield* text("base_snapshot_id", request.baseSnapshotId);
      const target = yield* text("target_snapshot_id", request.targetSnapshotId);
      return changedBlocks(base, target, yield* wanted(request));
    }),
  ).pipe(
    Stream.map(message),
    Stream.mapError((error) => toRpcError(error)),
  );

export const snapshotMetadata = () =>
  ({ getMetadataAllocated: allocated, getMetadataDelta: delta }) satisfies ServiceImpl<
    typeof SnapshotMetadata,
    unknown
  >;

export const snapshotMetadataRole = (world: World) =>
  role({
    name: "snapshot metadata",
    layer: volumesLayer(world),
    serves: [served(SnapshotMetadata, snapshotMetadata())],
  });
