/**
 * NodeUnpublishVolume: unmounts a target path, and removes it.
 *
 * 1. Only mounts of volumes are unmounted, and only an empty target is removed.
 */
import * as Effect from "effect/Effect";
import type { LockHeld } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { unmountAll } from "./mounts.ts";

export interface UnpublishSpec {
  readonly volumeId: string;
  /** The request's target_path. */
  readonly targetPath: string;
}

export type UnpublishError = HostError | LockHeld;

export const unpublishVolume = Effect.fn("node.unpublishVolume")(function* (
  spec: UnpublishSpec,
): Effect.fn.Return<void, UnpublishError, Host | Locks> {
  const keys = [LockKey.volume(spec.volumeId), LockKey.targetPath(spec.targetPath)];
  yield* (yield* Locks).with(keys, unpublishLocked(spec));
});

const unpublishLocked = Effect.fnUntraced(function* ({
  targetPath,
}: UnpublishSpec): Effect.fn.Return<void, HostError, Host> {
  const host = yield* Host;
  const target = yield* stage("look at node", host.resolvePath(targetPath));
  if (target === undefined) return;
  yield* stage("unmount", unmountAll(target));
  yield* stage("remove target", host.removePath(target));
});
