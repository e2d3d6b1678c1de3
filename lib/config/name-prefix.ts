/**
 * The prefixes that StorageClass, VolumeSnapshotClass and VolumeGroupSnapshotClass give to names of images and RBD
 * groups (`volumeNamePrefix`, `snapshotNamePrefix`, `volumeGroupNamePrefix`): one rule for all of them. Pure.
 */
import * as Result from "effect/Result";
import { hasControl } from "../text/printable.ts";

const MAX_PREFIX_BYTES = 200;

/** The prefix, or why no name can begin with it. */
export const readNamePrefix = (prefix: string): Result.Result<string, string> => {
  if (prefix === "") return Result.fail("must not be empty");
  if (hasControl(prefix)) return Result.fail("must not hold control characters");
  if (/[/@]/.test(prefix)) return Result.fail('must not hold "/" or "@"');
  if (!prefix.isWellFormed()) return Result.fail("must be valid Unicode");
  if (Buffer.byteLength(prefix) > MAX_PREFIX_BYTES) return Result.fail(`must have at most ${MAX_PREFIX_BYTES} bytes`);
  return Result.succeed(prefix);
};
