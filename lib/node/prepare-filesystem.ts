/**
 * The filesystem of a volume before it is mounted: repaired by fsck if there is one, made if there is none.
 *
 * 1. A device is formatted only if blkid finds nothing on it, its first bytes are zeros, and librbd says that no extent
 *    of the image is allocated: none behind the header, of an encrypted one. Before that it was mapped here, and proven to have no other user (./mappable.ts).
 *    The one exception is an image on which this driver began to format and did not end (./format-mark.ts).
 * 2. Nothing is formatted for readers. A static volume is formatted like any other, after the same proof.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { chooseFilesystem } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import { stage } from "../operations/pipeline.ts";
import { removeFormatMark, setFormatMark } from "./format-mark.ts";
import type { StagedDevice } from "./staged-device.ts";
import type { VolumeContext, VolumeImage } from "./volume-context.ts";

export interface FilesystemWanted {
  /** "" for the one that is there, or the default. */
  readonly type: string;
  readonly readOnly: boolean;
  readonly context: Pick<VolumeContext, "mkfsOptions">;
  /** Whether the image has the mark of a format that did not end. */
  readonly marked: boolean;
}

/**
 * -> the type of the filesystem, which is on the device then. `from`: where the device's bytes begin in the image, which is
 * behind the header of an encrypted one.
 */
export const prepareFilesystem = Effect.fnUntraced(function* (
  { type: requested, readOnly, context, marked }: FilesystemWanted,
  image: VolumeImage,
  { top }: StagedDevice,
  from: bigint,
): Effect.fn.Return<string, CephError | HostError, Host | Rbd> {
  const host = yield* Host;
  const found = yield* stage("probe", host.probe(top.path));
  const { type, blank } = yield* chooseFilesystem(top.path, found, requested);
  if (!blank) {
    if (readOnly) return type;
    // mkfs writes what blkid looks for last.
    if (marked) yield* removeFormatMark(image);
    yield* repairFilesystem(top.path, type);
    return type;
  }
  const refuse = (reason: string) => new UnexpectedContent({ op: "format", subject: top.path, reason });
  if (readOnly) {
    return yield* refuse(
      "it is blank, and the volume is staged read-only. Write to it before you stage it for readers",
    );
  }
  // A cipher makes noise of the zeros of an image.
  const zeroed = from > 0n || (found.kind === "blank" && found.zeroed);
  const hasData = (yield* Rbd).imageHasData(image.pool, image.imageName, "any", from);
  const isEmpty = zeroed && !(yield* stage("prove empty", hasData));
  if (!isEmpty && !marked) {
    return yield* refuse(
      'it has no filesystem, but the image holds data. Look at it with "rbd export" before you format it by hand',
    );
  }
  if (!isEmpty) {
    yield* Effect.logWarning(
      `image ${imageLabel(image.pool, image.imageName)} is formatted anew, because an earlier mkfs did not end`,
    );
  }
  yield* setFormatMark(image, type);
  yield* stage("format", host.mkfs({ device: top.path, type, options: context.mkfsOptions }));
  yield* removeFormatMark(image);
  return type;
});

const repairFilesystem = Effect.fnUntraced(function* (
  device: string,
  type: string,
): Effect.fn.Return<void, HostError, Host> {
  const output = yield* stage("repair filesystem", (yield* Host).fsck({ device, type }));
  if (output !== "") yield* Effect.logWarning(`fsck.${type} of ${device}: ${output}`);
});
