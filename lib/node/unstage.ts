/**
 * NodeUnstageVolume: unmounts the staging target, closes and unmaps the volume's devices, and removes what a stage has made.
 *
 * Not here: which devices are the volume's (./staged-volume.ts).
 *
 * 1. Nothing is removed while the volume is still published on this node.
 * 2. image-meta.json goes last, because the next call finds by it what is left.
 */
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import { sortUnmapOptions } from "../config/krbd-options.ts";
import { isLogStrategy } from "../config/node-parameters.ts";
import type { LockHeld, Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { oneLine } from "../text/printable.ts";
import { ClientRecord } from "./client-record.ts";
import { removeLayer } from "./crypt-layer.ts";
import { Healing, type HealNeeds } from "./healing.ts";
import { logFileOf } from "./image-meta.ts";
import { unmountAll } from "./mounts.ts";
import { PublishedNodeRecord } from "./published-node-record.ts";
import {
  devicesOfVolume,
  lookAtStagedVolume,
  proveUnpublished,
  removeImageMeta,
  type StagedVolume,
  type StagedPlace,
} from "./staged-volume.ts";

export type UnstageError = HostError | LockHeld | Precondition;

type Needs = Healing | HealNeeds;

export const unstageVolume = Effect.fn("node.unstageVolume")(function* (
  spec: StagedPlace,
): Effect.fn.Return<void, UnstageError, Needs | Locks> {
  yield* (yield* Locks).with([LockKey.volume(spec.volumeId)], unstageLocked(spec));
});

/** The options for the unmap. An older driver may have staged the volume with some that the rbd tool does not take. */
const usableOptions = Effect.fnUntraced(function* ({ imageMeta, volumeId }: StagedVolume): Effect.fn.Return<string> {
  if (imageMeta.kind !== "read") return "";
  // rbd-nbd takes any setting of Ceph, so only the tool itself knows what it refuses.
  if (imageMeta.meta.nbd) return imageMeta.meta.unmapOptions;
  const { usable, others } = sortUnmapOptions(imageMeta.meta.unmapOptions);
  if (others.length > 0) {
    const dropped = others.map((each) => oneLine(each)).join(", ");
    yield* Effect.logWarning(
      `volume ${volumeId} is unmapped without ${dropped} of its unmapOptions, which "rbd unmap" does not take`,
    );
  }
  return usable;
});

/** A log that stays is no reason to fail: the volume is unmapped. */
const endLog = Effect.fnUntraced(function* ({
  volumeId,
  imageMeta,
}: StagedVolume): Effect.fn.Return<void, never, Host> {
  if (imageMeta.kind !== "read" || !imageMeta.meta.nbd) return;
  const { image, logDir, logFileStrategy } = imageMeta.meta;
  if (logDir === "" || !isLogStrategy(logFileStrategy)) return;
  // The log of a migrated volume has the name of its image.
  for (const cookie of new Set([volumeId, image])) {
    const log = { path: logFileOf(logDir, cookie), strategy: logFileStrategy };
    yield* Effect.catch((yield* Host).endLog(log), ({ message }) => Effect.logWarning(message));
  }
});

const unstageLocked = Effect.fnUntraced(function* ({
  volumeId,
  stagingPath,
}: StagedPlace): Effect.fn.Return<void, UnstageError, Needs> {
  const host = yield* Host;
  const now = yield* stage("look at node", lookAtStagedVolume({ volumeId, stagingPath }));
  const devices = yield* devicesOfVolume(now);
  yield* proveUnpublished(now, devices);
  const { stagingTarget } = now;
  if (now.mounts.length > 0) {
    // A filesystem whose device has no process cannot write what it holds back.
    const { revive } = yield* Healing;
    for (const { mapped } of devices) if (!mapped.served) yield* stage("revive", revive(volumeId, mapped));
  }
  if (stagingTarget !== undefined) yield* stage("unmount", unmountAll(stagingTarget));
  // With the target go its mounts in other namespaces, which keep the device busy. What is in the way of it keeps the image
  // from no other node: that is told at the end.
  const removal =
    stagingTarget === undefined
      ? Exit.void
      : yield* Effect.exit(stage("remove target", host.removePath(stagingTarget)));
  const unmapOptions = yield* usableOptions(now);
  for (const device of devices) {
    yield* removeLayer(device);
    yield* stage("unmap", host.unmap(device.mapped, unmapOptions));
  }
  yield* stage("end log", endLog(now));
  yield* removal;
  // Also what a write of it left that was cut off.
  if (stagingTarget !== undefined || now.imageMeta.kind !== "absent") {
    yield* stage("remove image-meta", removeImageMeta(stagingPath));
  }
  yield* stage("remove published node", (yield* PublishedNodeRecord).unstaged(volumeId));
  const { enabled, unstaged } = yield* ClientRecord;
  if (enabled) yield* stage("forget client", unstaged(volumeId));
});
