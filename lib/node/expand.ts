/**
 * NodeExpandVolume: waits until the kernel knows the new size of the image, and grows the filesystem to it.
 *
 * Not here: growing the image (lib/volume/expand.ts).
 *
 * 1. The size in the answer is that of the device, and the filesystem is proven to fill it.
 */
import * as Effect from "effect/Effect";
import { type LockHeld, Precondition, type VolumeNotFound } from "../csi/errors.ts";
import { SizeOutOfRange } from "../csi/size.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { isReadOnly, type MountEntry } from "../host/mountinfo.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { proveGrown, sizedAtLeast } from "./device.ts";
import { findMountedVolume } from "./staged-volume.ts";

export interface ExpandSpec {
  readonly volumeId: string;
  /** Where the volume is mounted or bound: its staging target, or a target path. */
  readonly path: string;
  /** 0n for no lower limit. */
  readonly requiredBytes: bigint;
  /** 0n for no upper limit. */
  readonly limitBytes: bigint;
}

export type ExpandError = HostError | LockHeld | Precondition | SizeOutOfRange | VolumeNotFound;

/** -> the bytes of the volume's device. */
export const expandVolume = Effect.fn("node.expandVolume")(function* (
  spec: ExpandSpec,
): Effect.fn.Return<bigint, ExpandError, Host | Locks> {
  return yield* (yield* Locks).with([LockKey.volume(spec.volumeId)], expandLocked(spec));
});

const expandLocked = Effect.fnUntraced(function* ({
  volumeId,
  path,
  requiredBytes,
  limitBytes,
}: ExpandSpec): Effect.fn.Return<bigint, ExpandError, Host> {
  const host = yield* Host;
  const { entry, shown } = yield* stage("look at node", findMountedVolume(volumeId, path));
  if (shown === undefined) {
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem: `is mounted at ${entry.point}, but its device ${entry.source} is not mapped any more`,
      remedy: "End the pods that use it: it is then staged anew",
    });
  }
  const { device, kind } = shown;
  const { sizeBytes } = yield* stage("wait for size", sizedAtLeast(device, requiredBytes));
  if (limitBytes > 0n && sizeBytes > limitBytes) {
    return yield* new SizeOutOfRange({ reason: `the volume has ${sizeBytes} bytes, but limit_bytes is ${limitBytes}` });
  }
  if (kind === "filesystem") {
    const filesystem = { device: device.top.path, type: entry.fsType };
    const grow = Effect.catchTag(host.growFilesystem(filesystem, entry.point), "HostFailed", (error) =>
      Effect.fail(isReadOnly(entry) ? growsNowhere(volumeId, entry) : error),
    );
    const grown = yield* stage("grow filesystem", grow);
    yield* proveGrown(device, grown, sizeBytes);
  }
  return sizeBytes;
});

const growsNowhere = (volumeId: string, { point }: MountEntry): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `is mounted read-only at ${point}, and its filesystem grows only while it is writable`,
    remedy: "Nothing is lost: it grows when the volume is next staged writable",
  });
