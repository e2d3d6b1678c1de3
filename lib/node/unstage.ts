/**
 * NodeUnstageVolume: unmounts the staging target, unmaps the volume's devices, and removes what a stage has made.
 *
 * Not here: which devices are the volume's (./staged-volume.ts).
 *
 * 1. Nothing is removed while the volume is still published on this node.
 * 2. image-meta.json goes last, because the next call finds by it what is left.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { sortUnmapOptions } from "../config/krbd-options.ts";
import type { LockHeld, Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { oneLine } from "../text/printable.ts";
import { unmountAll } from "./mounts.ts";
import { PublishedNodeRecord } from "./published-node-record.ts";
import {
  devicesOfVolume,
  lookAtStagedVolume,
  proveSupported,
  proveUnpublished,
  removeImageMeta,
  type StagedVolume,
} from "./staged-volume.ts";

export interface UnstageSpec {
  readonly volumeId: string;
  /** The request's staging_target_path. */
  readonly stagingPath: string;
}

export type UnstageError = HostError | LockHeld | Precondition;

type Needs = Ceph | Host | PublishedNodeRecord;

export const unstageVolume = Effect.fn("node.unstageVolume")(function* (
  spec: UnstageSpec,
): Effect.fn.Return<void, UnstageError, Needs | Locks> {
  yield* (yield* Locks).with([LockKey.volume(spec.volumeId)], unstageLocked(spec));
});

/** The options for the unmap. An older driver may have staged the volume with some that the rbd tool does not take. */
const usableOptions = Effect.fnUntraced(function* ({ imageMeta, volumeId }: StagedVolume): Effect.fn.Return<string> {
  if (imageMeta.kind !== "read") return "";
  const { usable, others } = sortUnmapOptions(imageMeta.meta.unmapOptions);
  if (others.length > 0) {
    const dropped = others.map((each) => oneLine(each)).join(", ");
    yield* Effect.logWarning(
      `volume ${volumeId} is unmapped without ${dropped} of its unmapOptions, which "rbd unmap" does not take`,
    );
  }
  return usable;
});

const unstageLocked = Effect.fnUntraced(function* ({
  volumeId,
  stagingPath,
}: UnstageSpec): Effect.fn.Return<void, UnstageError, Needs> {
  const host = yield* Host;
  const now = yield* stage("look at node", lookAtStagedVolume(volumeId, stagingPath));
  yield* proveSupported(now);
  const devices = yield* devicesOfVolume(now);
  yield* proveUnpublished(now, devices);
  const { imageMeta, stagingTarget } = now;
  if (stagingTarget !== undefined) {
    yield* stage("unmount", unmountAll(stagingTarget));
    yield* stage("remove target", host.removePath(stagingTarget));
  }
  const unmapOptions = yield* usableOptions(now);
  for (const { mapped } of devices) yield* stage("unmap", host.unmap(mapped, unmapOptions));
  if (imageMeta.kind !== "absent") yield* stage("remove image-meta", removeImageMeta(stagingPath));
  yield* stage("remove published node", (yield* PublishedNodeRecord).unstaged(volumeId));
});
