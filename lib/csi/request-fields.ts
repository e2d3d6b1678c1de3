/**
 * Checks of a request's fields, which every RPC makes before it does anything: a refused request is INVALID_ARGUMENT,
 * and nothing has changed. Pure.
 *
 * Not here: StorageClass parameters and secrets (lib/config), and capabilities (./capability.ts).
 */
import * as Result from "effect/Result";
import { hasControl } from "../text/printable.ts";
import { InvalidRequest } from "./errors.ts";

type Checked = Result.Result<string, InvalidRequest>;

const refuse = (field: string, reason: string): Checked => Result.fail(new InvalidRequest({ field, reason }));

/** CSI 1.12: a string has at most 128 bytes unless its field says otherwise. */
const MAX_TEXT_BYTES = 128;
/** Linux's PATH_MAX without the NUL at the end. */
const MAX_PATH_BYTES = 4095;

const text = (field: string, value: string, limit: number): Checked => {
  if (value === "") return refuse(field, "is missing");
  const bytes = Buffer.byteLength(value);
  if (bytes > limit) return refuse(field, `has ${bytes} bytes, and at most ${limit} are permitted`);
  if (!value.isWellFormed() || hasControl(value))
    return refuse(field, "must not hold control characters or broken Unicode");
  return Result.succeed(value);
};

/** A required name, or an ID that this driver alone gives out. */
export const requiredText = (field: string, value: string): Checked => text(field, value, MAX_TEXT_BYTES);

/**
 * Linux' NAME_MAX: on its nodes a volume has a folder of this name. The IDs that this driver gives out are shorter. That of a
 * static volume is whatever its PersistentVolume says, and that of one from the in-tree plugin has the pool's name in hex.
 */
const MAX_VOLUME_ID_BYTES = 255;

/** A required volume_id, of a volume that anybody may have named. */
export const requiredVolumeId = (field: string, value: string): Checked => text(field, value, MAX_VOLUME_ID_BYTES);

/** CSI 1.12 allows a node_id more, because it is a host's name in many clusters. */
export const MAX_NODE_ID_BYTES = 256;

/** A required node_id, as long as NodeGetInfo may have given one out. */
export const requiredNodeId = (field: string, value: string): Checked => text(field, value, MAX_NODE_ID_BYTES);

/** A required path, which is absolute and does not hold `..`. */
export const absolutePath = (field: string, value: string): Checked => {
  const checked = text(field, value, MAX_PATH_BYTES);
  if (Result.isFailure(checked)) return checked;
  if (!value.startsWith("/")) return refuse(field, "must be an absolute path");
  if (value.split("/").includes("..")) return refuse(field, 'must not contain ".."');
  return checked;
};
