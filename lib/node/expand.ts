/**
 * NodeExpandVolume: waits until the kernel knows the new size of the image, and grows the LUKS layer, if there is one, and the
 * filesystem to it.
 *
 * Not here: growing the image (lib/volume/expand.ts).
 *
 * 1. The size in the answer is that of the image, as the request has it: LUKS takes its header of it. The filesystem is
 *    proven to fill the device that it is on.
 */
import * as Effect from "effect/Effect";
import { type LockHeld, Precondition, type VolumeNotFound } from "../csi/errors.ts";
import { SizeOutOfRange } from "../csi/size.ts";
import type { HostError } from "../host/errors.ts";
import { Host, LEAST_RESIZED_BTRFS } from "../host/host.ts";
import { isReadOnly, type MountEntry } from "../host/mountinfo.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { growLayer } from "./crypt-layer.ts";
import { proveGrown, sizedAtLeast } from "./device.ts";
import { Healing, type HealError, type HealNeeds } from "./healing.ts";
import type { StagedDevice } from "./staged-device.ts";
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

export type ExpandError = HealError | HostError | LockHeld | Precondition | SizeOutOfRange | VolumeNotFound;

/** -> the bytes of the volume's image. */
export const expandVolume = Effect.fn("node.expandVolume")(function* (
  spec: ExpandSpec,
): Effect.fn.Return<bigint, ExpandError, Healing | HealNeeds | Locks> {
  return yield* (yield* Locks).with([LockKey.volume(spec.volumeId)], expandLocked(spec));
});

const expandLocked = Effect.fnUntraced(function* ({
  volumeId,
  path,
  requiredBytes,
  limitBytes,
}: ExpandSpec): Effect.fn.Return<bigint, ExpandError, Healing | HealNeeds> {
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
  const { sizeBytes } = yield* stage("wait for size", grownDevice(volumeId, device, requiredBytes));
  if (limitBytes > 0n && sizeBytes > limitBytes) {
    return yield* new SizeOutOfRange({ reason: `the volume has ${sizeBytes} bytes, but limit_bytes is ${limitBytes}` });
  }
  if (device.mapped.crypt?.integrity === true) {
    return yield* new SizeOutOfRange({
      reason: `volume ${volumeId} has integrity (integrityMode), and such a volume keeps the size that it was made with. Nothing is lost: copy its data into a larger volume`,
    });
  }
  const topBytes = yield* growLayer(device, sizeBytes);
  if (kind === "filesystem") {
    const filesystem = { device: device.top.path, type: entry.fsType };
    const grow = Effect.catchTag(host.growFilesystem(filesystem, entry.point), "HostFailed", (error) =>
      Effect.fail(isReadOnly(entry) ? growsNowhere(volumeId, entry) : error),
    );
    const grown = yield* stage("grow filesystem", grow);
    yield* Effect.mapError(proveGrown(device, grown, topBytes), (error) =>
      entry.fsType === "btrfs" && topBytes < LEAST_RESIZED_BTRFS ? tooSmallToGrow(volumeId, topBytes) : error,
    );
  }
  return sizeBytes;
});

/** How long an rbd-nbd process may take to tell the kernel the new size. That of Ceph 16 never does. */
const TELL_PATIENCE = "3 seconds";

const grownDevice = Effect.fnUntraced(function* (volumeId: string, device: StagedDevice, requiredBytes: bigint) {
  if (device.mapped.mapper === "krbd") return yield* sizedAtLeast(device, requiredBytes);
  const renewed = Effect.flatMap(Healing, ({ renew }) =>
    Effect.andThen(renew(volumeId, device.mapped), sizedAtLeast(device, requiredBytes)),
  );
  return yield* Effect.catchTag(sizedAtLeast(device, requiredBytes, TELL_PATIENCE), "Precondition", () => renewed);
});

const tooSmallToGrow = (volumeId: string, bytes: bigint): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `has a device of ${bytes} bytes now, but the kernel grows a btrfs to no less than ${LEAST_RESIZED_BTRFS} bytes`,
    remedy: "Nothing is lost: its filesystem keeps its size. Ask for 256 MiB or more",
  });

const growsNowhere = (volumeId: string, { point }: MountEntry): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `is mounted read-only at ${point}, and its filesystem grows only while it is writable`,
    remedy: "Nothing is lost: it grows when the volume is next staged writable",
  });
