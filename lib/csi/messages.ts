/**
 * Snapshots as CSI messages, and the types that recipes answer for them.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SnapshotSchema } from "../gen/csi_pb.ts";

const MS = 1000;

export const timestamp = (ms: number) => ({ seconds: BigInt(Math.floor(ms / MS)), nanos: Math.round((ms % MS) * 1e6) });

export const snapshotFields = ({ createdAt, ready, ...snapshot }: TakenSnapshot) =>
  ({ ...snapshot, creationTime: timestamp(createdAt), readyToUse: ready }) satisfies MessageInitShape<
    typeof SnapshotSchema
  >;

export interface TakenSnapshot {
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly ready: boolean;
  /** Of a member of one. */
  readonly groupSnapshotId?: string;
}
