/**
 * A mapped device itself: its size once the image has grown, and who may write to it.
 *
 * Not here: filesystems on it (lib/host/filesystem.ts) and the order of steps (services/node.ts).
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import { Precondition } from "../csi/errors.ts";
import { MIB } from "../csi/size.ts";
import { type DeviceState, Host } from "../host/host.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import { CurrentOperation } from "../operations/operation.ts";
import type { DomainError } from "../operations/outcomes.ts";

/**
 * A read-only mount does not keep anybody from writing to the device whose node is mounted, so the device itself is
 * set read-only; which it can't be for one consumer alone.
 */
export const guardDevice = (device: MappedDevice, readOnly: boolean, elsewhere: readonly string[]) =>
  Effect.gen(function* () {
    if (device.readOnly === readOnly) return;
    if (elsewhere.length > 0) {
      const state = device.readOnly ? "read-only" : "writable";
      const message = `${device.path} is published ${state} at ${elsewhere.join(", ")}, and a raw device can't be both on one node`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    yield* (yield* Host).setReadOnly(device.path, readOnly);
  });

/** How long the kernel may take to hear of an image's new size. */
const SIZE_PATIENCE = 30_000;

/** The device once it has that many bytes, as it does when its image has grown. */
export const sizedAtLeast = (device: MappedDevice, wanted: bigint): Effect.Effect<DeviceState, DomainError, Host> =>
  Effect.gen(function* () {
    const host = yield* Host;
    const until = (yield* Clock.currentTimeMillis) + SIZE_PATIENCE;
    for (let pause = 100; ; pause = Math.min(pause * 2, 2_000)) {
      const state = yield* host.deviceState(device.path);
      if (state !== undefined && state.sizeBytes >= wanted) return state;
      const operation = yield* CurrentOperation;
      const left = Math.min(until, operation?.deadline ?? until) - (yield* Clock.currentTimeMillis);
      if (left <= pause) {
        const message = `${device.path} has ${state?.sizeBytes ?? 0n} bytes, ${wanted} are asked for: the image has to be grown first`;
        return yield* new Precondition({ subject: "", problem: message });
      }
      yield* Effect.sleep(pause);
    }
  });

/** A filesystem may leave an end unused that is too short for one of its groups. */
export const proveGrown = (device: MappedDevice, filesystem: bigint, sizeBytes: bigint) => {
  const slack = sizeBytes / 100n > 16n * MIB ? sizeBytes / 100n : 16n * MIB;
  if (filesystem + slack >= sizeBytes) return Effect.void;
  const message = `the filesystem on ${device.path} has ${filesystem} bytes after growing, the device ${sizeBytes}`;
  return Effect.fail(new Precondition({ subject: "", problem: message }));
};
