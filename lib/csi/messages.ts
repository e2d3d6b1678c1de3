/**
 * Snapshots and group snapshots as recipes answer them, and the CSI messages that the wire makes of them.
 *
 * Not here: requests (./request-fields.ts, services/), and how a recipe finds out what it answers.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SnapshotSchema, VolumeGroupSnapshotSchema } from "../gen/csi_pb.ts";

/** A snapshot as CSI describes it. */
export interface CsiSnapshot {
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** Whether volumes can be restored from it. */
  readonly ready: boolean;
  /** Set for a member of a group snapshot. */
  readonly groupSnapshotId?: string;
  /** From where volumes that are restored from it can be reached; absent or empty: from everywhere, or not known. */
  readonly usableFrom?: readonly Readonly<Record<string, string>>[];
}

/** A group snapshot as CSI describes it. */
export interface CsiGroupSnapshot {
  readonly groupSnapshotId: string;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** Whether every member is. */
  readonly ready: boolean;
  readonly snapshots: readonly CsiSnapshot[];
}

const MS = 1000;

const timestamp = (ms: number) => ({ seconds: BigInt(Math.floor(ms / MS)), nanos: Math.round((ms % MS) * 1e6) });

export const snapshotMessage = ({ createdAt, ready, usableFrom = [], ...snapshot }: CsiSnapshot) =>
  ({
    ...snapshot,
    creationTime: timestamp(createdAt),
    readyToUse: ready,
    ...(usableFrom.length > 0 && { accessibleTopology: usableFrom.map((segments) => ({ segments: { ...segments } })) }),
  }) satisfies MessageInitShape<typeof SnapshotSchema>;

export const groupSnapshotMessage = ({ groupSnapshotId, createdAt, ready, snapshots }: CsiGroupSnapshot) =>
  ({
    groupSnapshotId,
    snapshots: snapshots.map(snapshotMessage),
    creationTime: timestamp(createdAt),
    readyToUse: ready,
  }) satisfies MessageInitShape<typeof VolumeGroupSnapshotSchema>;
