/**
 * The device of a staged volume: its size after the image has grown, and who can write to it.
 *
 * Not here: the filesystem on it (./prepare-filesystem.ts), and the order of steps (./publish.ts, ./expand.ts).
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { Precondition } from "../csi/errors.ts";
import { MIB } from "../csi/size.ts";
import type { HostError } from "../host/errors.ts";
import { type DeviceState, Host } from "../host/host.ts";
import type { MountEntry, MountTable } from "../host/mountinfo.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
import type { StagedDevice } from "./staged-device.ts";

/**
 * Sets the device itself read-only, or writable again, because a read-only mount of its node keeps nobody from writing.
 * One device cannot be both for two users on one node. Who has a read-only mount of it, as ceph-csi makes one, is no writer.
 */
export const guardDevice = Effect.fnUntraced(function* (
  { top }: StagedDevice,
  readOnly: boolean,
  uses: MountTable,
): Effect.fn.Return<void, HostError | Precondition, Host> {
  if (top.readOnly === readOnly) return;
  const others = (readOnly ? uses.filter(isWriter) : uses).map(({ point }) => point);
  if (others.length > 0) {
    const [is, asked] = readOnly ? ["writable", "read-only"] : ["read-only", "writable"];
    return yield* new Precondition({
      subject: `device ${top.path}`,
      problem: `is published ${is} at ${others.join(", ")}, and cannot be ${asked} on the same node`,
      remedy: "Unpublish it there first",
      holders: others,
    });
  }
  yield* (yield* Host).setReadOnly(top.path, readOnly);
});

const isWriter = ({ options }: MountEntry): boolean => !options.includes("ro");

/** As `guardDevice` for a reader that has the device already: its pod may run, so a device that stays writable is no failure. */
export const guardForReader = (device: StagedDevice, uses: MountTable): Effect.Effect<void, never, Host> =>
  Effect.catch(guardDevice(device, true, uses), ({ message }) =>
    Effect.logWarning(`${device.top.path} stays writable, though its mount for a reader is read-only: ${message}`),
  );

/** How long the kernel may take to learn the new size of an image. */
const SIZE_PATIENCE = "30 seconds";

/** The state of the mapped image as soon as it has that many bytes. */
export const sizedAtLeast = Effect.fnUntraced(function* (
  { mapped }: StagedDevice,
  requiredBytes: bigint,
  patience: Duration.Input = SIZE_PATIENCE,
): Effect.fn.Return<DeviceState, HostError | Precondition, Host> {
  const host = yield* Host;
  const look = host.deviceState(mapped.path).pipe(
    Effect.filterOrFail(
      (state): state is DeviceState => state !== undefined && state.sizeBytes >= requiredBytes,
      (state) =>
        new Precondition({
          subject: `device ${mapped.path}`,
          problem: `has ${state?.sizeBytes ?? 0n} bytes, but the request asks for ${requiredBytes}`,
          remedy: "The image has to be grown first (ControllerExpandVolume)",
        }),
    ),
  );
  return yield* untilDeadline(look, {
    while: ({ _tag }) => _tag === "Precondition",
    first: "100 millis",
    factor: 2,
    longest: "2 seconds",
    patience,
  });
});

/** A filesystem may leave an end of its device unused that is too short for one more of its groups. */
const slackOf = (sizeBytes: bigint): bigint => (sizeBytes / 100n > 16n * MIB ? sizeBytes / 100n : 16n * MIB);

export const proveGrown = (
  { top }: StagedDevice,
  filesystemBytes: bigint,
  sizeBytes: bigint,
): Effect.Effect<void, Precondition> =>
  filesystemBytes + slackOf(sizeBytes) >= sizeBytes
    ? Effect.void
    : Effect.fail(
        new Precondition({
          subject: `the filesystem on ${top.path}`,
          problem: `has ${filesystemBytes} bytes after it was grown, but its device has ${sizeBytes}`,
          remedy: 'Look at the log of the kernel ("dmesg"), then retry',
        }),
      );
