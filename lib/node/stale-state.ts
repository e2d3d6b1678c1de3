/**
 * Clears what an earlier stage left on the node, before the volume is staged anew: a filesystem that failed, and mapped
 * devices that are not mounted.
 *
 * 1. Nothing is cleared that somebody else on the node still uses.
 */
import * as Effect from "effect/Effect";
import { Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { imageSpec } from "../host/mapped-device.ts";
import { stage } from "../operations/pipeline.ts";
import type { Comparison } from "./compare-with-request.ts";
import { removeLayer } from "./crypt-layer.ts";
import { unmapOptionsOf } from "./map-image.ts";
import { unmountAll } from "./mounts.ts";
import { otherMounts, type StagedDevice } from "./staged-device.ts";
import type { StagedVolume } from "./staged-volume.ts";
import type { VolumeContext } from "./volume-context.ts";

/** `own` are the devices of the image. Their map options may differ from those that the request asks for. */
export const clearStaleState = Effect.fnUntraced(function* (
  now: StagedVolume,
  found: Comparison,
  own: readonly StagedDevice[],
  context: VolumeContext,
): Effect.fn.Return<void, HostError | Precondition, Host> {
  const host = yield* Host;
  if (found.state === "broken") yield* stage("unmount broken filesystem", unmountBroken(now, found));
  for (const device of own) {
    yield* proveUnmounted(now, device);
    yield* removeLayer(device);
    yield* stage("unmap left-over", host.unmap(device.mapped, unmapOptionsOf(context, device.mapped.mapper)));
  }
});

const unmountBroken = Effect.fnUntraced(function* (
  { volumeId, stagingTarget, mountTable }: StagedVolume,
  { device, why }: Comparison & { state: "broken" },
): Effect.fn.Return<void, HostError | Precondition, Host> {
  if (stagingTarget === undefined) return;
  const users = device === undefined ? [] : otherMounts(mountTable, device, [stagingTarget]);
  if (users.length > 0) {
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem: `must be staged anew because ${why}, but it is still published at ${users.join(", ")}`,
      remedy: "End the pods that use it",
      holders: users,
    });
  }
  yield* Effect.logWarning(`volume ${volumeId} is staged anew because ${why}`);
  yield* unmountAll(stagingTarget);
});

const proveUnmounted = (
  { stagingTarget, mountTable }: StagedVolume,
  device: StagedDevice,
): Effect.Effect<void, Precondition> => {
  const users = otherMounts(mountTable, device, [stagingTarget]);
  if (users.length === 0) return Effect.void;
  return Effect.fail(
    new Precondition({
      subject: `image ${imageSpec(device.mapped)}`,
      problem: `is already mapped as ${device.mapped.path}, and mounted at ${users.join(", ")}`,
      remedy: "Unmount it there, then retry",
      holders: users,
    }),
  );
};
