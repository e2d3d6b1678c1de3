/**
 * NodeGetVolumeStats: how much of a volume is used, and whether something is wrong with it.
 *
 * 1. A filesystem that fails or does not answer is an abnormal condition, and not an error of the call.
 */
import * as Effect from "effect/Effect";
import type { VolumeNotFound } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host, type Usage } from "../host/host.ts";
import { findMountedVolume, visibleFault } from "./staged-volume.ts";

export interface StatsSpec {
  readonly volumeId: string;
  /** Where the volume is mounted or bound: its staging target, or a target path. */
  readonly path: string;
}

export interface VolumeStats {
  /** Of a filesystem that answers. */
  readonly usage?: Usage;
  /** The bytes of a raw block device. */
  readonly deviceBytes?: bigint;
  /** What is wrong with the volume; `undefined`: nothing. */
  readonly fault: string | undefined;
}

export const volumeStats = Effect.fn("node.volumeStats")(function* ({
  volumeId,
  path,
}: StatsSpec): Effect.fn.Return<VolumeStats, HostError | VolumeNotFound, Host> {
  const { entry, shown } = yield* findMountedVolume(volumeId, path);
  if (shown === undefined) return { fault: `${entry.source} is not mapped any more` };
  if (shown.kind === "block") return { deviceBytes: shown.device.top.sizeBytes, fault: undefined };
  return yield* (yield* Host).usage(entry.point).pipe(
    Effect.map((usage): VolumeStats => ({ usage, fault: visibleFault(entry) })),
    Effect.catch(({ message }) => Effect.succeed<VolumeStats>({ fault: message })),
  );
});
