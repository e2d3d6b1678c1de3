/**
 * NodeReclaimSpace: tells the image of a mounted volume which blocks of its filesystem are free (fstrim).
 *
 * Not here: a volume that nobody uses (lib/volume/reclaim.ts).
 *
 * 1. A filesystem is trimmed in pieces, each in one call with a limit. The volume is locked for one piece at a time, so
 *    what kubelet asks meanwhile, an unmount above all, waits for that piece only.
 * 2. Before each piece the mount is proven to be the volume's again.
 */
import * as Effect from "effect/Effect";
import { type LockHeld, Precondition, Unserved, type VolumeNotFound } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host, type Stretch } from "../host/host.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { findMountedVolume, visibleFault } from "./staged-volume.ts";

export interface TrimSpec {
  readonly volumeId: string;
  /** Where the volume is mounted: its staging target, or a target path. */
  readonly path: string;
}

export type TrimError = HostError | LockHeld | Precondition | Unserved | VolumeNotFound;

/** 4096 objects, which a slow cluster removes well within the limit of a call. */
const PIECE_BYTES = 16n << 30n;

export const trimVolume = Effect.fn("node.trimVolume")(function* (
  spec: TrimSpec,
): Effect.fn.Return<void, TrimError, Host | Locks> {
  const locks = yield* Locks;
  for (let offset: bigint | undefined = 0n; offset !== undefined; ) {
    offset = yield* locks.with([LockKey.volume(spec.volumeId)], trimPiece(spec, offset));
  }
});

/** Gives where the next piece begins; `undefined`: this one was the last. */
const trimPiece = Effect.fnUntraced(function* (
  { volumeId, path }: TrimSpec,
  offset: bigint,
): Effect.fn.Return<bigint | undefined, HostError | Precondition | Unserved | VolumeNotFound, Host> {
  const host = yield* Host;
  const point = yield* stage("look at node", trimmablePoint({ volumeId, path }));
  const { totalBytes } = yield* stage("look at filesystem", host.usage(point));
  const next = offset + PIECE_BYTES;
  // A filesystem is a little larger than it says.
  const stretch: Stretch = next < totalBytes ? { offset, length: PIECE_BYTES } : { offset };
  yield* stage("trim", host.trim(point, stretch)).pipe(
    Effect.catchTag("HostRefused", ({ reason }) =>
      Effect.fail(new Unserved({ volumeId, reason: `is on a device that frees no space: ${reason}` })),
    ),
  );
  return next < totalBytes ? next : undefined;
});

const trimmablePoint = Effect.fnUntraced(function* ({ volumeId, path }: TrimSpec) {
  const { entry, shown } = yield* findMountedVolume(volumeId, path);
  const subject = `volume ${volumeId}`;
  const remedy = "End the pods that use it: it is then staged anew";
  if (shown === undefined) {
    const problem = `is mounted at ${entry.point}, but its device ${entry.source} is not mapped any more`;
    return yield* new Precondition({ subject, problem, remedy });
  }
  if (shown.kind === "block") return yield* blockUnserved(volumeId);
  const fault = visibleFault(entry);
  if (fault !== undefined)
    return yield* new Precondition({ subject, problem: `frees no space, because ${fault}`, remedy });
  if (entry.options.includes("ro")) {
    return yield* new Unserved({ volumeId, reason: "is mounted read-only: its filesystem frees nothing" });
  }
  return entry.point;
});

/** Only what is on a raw block volume knows which of its blocks are free. */
export const blockUnserved = (volumeId: string): Unserved =>
  new Unserved({ volumeId, reason: "is a raw block volume: only the program that uses it knows what is free" });
