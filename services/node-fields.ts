/**
 * The request fields that every service of a node reads: the ID of a volume, and paths of the node.
 *
 * Not here: fields of one RPC only.
 */
import { resolve } from "node:path";
import * as Effect from "effect/Effect";
import { InvalidRequest, type VolumeNotFound } from "../lib/csi/errors.ts";
import { absolutePath, requiredVolumeId } from "../lib/csi/request-fields.ts";
import { notMountedAt } from "../lib/node/staged-volume.ts";

export type Checked<A> = Effect.fn.Return<A, InvalidRequest>;

/** The volume ID becomes the name of a folder. */
export const volumeIdOf = Effect.fnUntraced(function* (text: string): Checked<string> {
  const volumeId = yield* Effect.fromResult(requiredVolumeId("volume_id", text));
  if (!volumeId.includes("/") && volumeId !== "." && volumeId !== "..") return volumeId;
  const reason = 'must not contain "/" and must not be "." or ".."';
  return yield* new InvalidRequest({ field: "volume_id", reason });
});

export const pathOf = Effect.fnUntraced(function* (field: string, text: string): Checked<string> {
  const path = resolve(yield* Effect.fromResult(absolutePath(field, text)));
  return path === "/" ? yield* new InvalidRequest({ field, reason: 'must not be "/"' }) : path;
});

/** A volume_path. CSI wants NOT_FOUND, and not INVALID_ARGUMENT, for a path at which no volume can be. */
export const volumePathOf = Effect.fnUntraced(function* (
  volumeId: string,
  text: string,
): Effect.fn.Return<string, InvalidRequest | VolumeNotFound> {
  if (text !== "" && !text.startsWith("/")) return yield* notMountedAt(volumeId, text);
  return yield* pathOf("volume_path", text);
});
