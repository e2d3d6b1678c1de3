/**
 * The filesystem of a volume before it is mounted: repaired by fsck if there is one, made if there is none.
 *
 * 1. A device is formatted only if blkid finds nothing on it, its first bytes are zeros, and librbd says that no extent
 *    of the image is allocated: none behind the header, of an encrypted one. Before that it was mapped here, and proven to have no other user (./mappable.ts).
 *    What a mkfs that was cut off has left is refused: it cannot be told from data, and its mkfs may still write on another node.
 * 2. Nothing is formatted for readers. A static volume is formatted like any other, after the same proof.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import { FILE_ENCRYPTION } from "../csi/filesystems.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { chooseFilesystem } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import { stage } from "../operations/pipeline.ts";
import type { StagedDevice } from "./staged-device.ts";
import type { VolumeContext, VolumeImage } from "./volume-context.ts";

export interface FilesystemWanted {
  /** "" for the one that is there, or the default. */
  readonly type: string;
  readonly readOnly: boolean;
  readonly context: Pick<VolumeContext, "mkfsOptions">;
  /** Whether files are to be encrypted in it. */
  readonly encryptsFiles: boolean;
}

/**
 * -> the type of the filesystem, which is on the device then. `from`: where the device's bytes begin in the image, which is
 * behind the header of an encrypted one.
 */
export const prepareFilesystem = Effect.fnUntraced(function* (
  { type: requested, readOnly, context, encryptsFiles }: FilesystemWanted,
  image: VolumeImage,
  { top }: StagedDevice,
  from: bigint,
): Effect.fn.Return<string, CephError | HostError, Host | Rbd> {
  const host = yield* Host;
  const found = yield* stage("probe", host.probe(top.path));
  const refuse = (reason: string) => new UnexpectedContent({ op: "format", subject: top.path, reason });
  const label = imageLabel(image.pool, image.imageName);
  if (found.kind === "filesystem" && found.unfinished) {
    return yield* refuse(`image ${label} holds an unfinished ${found.type}. ${cutOff(label)}`);
  }
  const { type, blank } = yield* chooseFilesystem(top.path, found, requested);
  if (encryptsFiles && type !== FILE_ENCRYPTION) {
    return yield* refuse(`it holds ${type}, and files are encrypted in ${FILE_ENCRYPTION} only (encryptionType file)`);
  }
  if (!blank) {
    if (!readOnly) yield* repairFilesystem(top.path, type);
    return type;
  }
  if (readOnly) {
    return yield* refuse(
      "it is blank, and the volume is staged read-only. Write to it before you stage it for readers",
    );
  }
  // A cipher makes noise of the zeros of an image.
  const zeroed = from > 0n || (found.kind === "blank" && found.zeroed);
  const hasData = (yield* Rbd).imageHasData(image.pool, image.imageName, "any", from);
  if (!zeroed || (yield* stage("prove empty", hasData))) {
    return yield* refuse(`it has no filesystem, but image ${label} holds data. ${cutOff(label)}`);
  }
  yield* stage("format", host.mkfs({ device: top.path, type, options: context.mkfsOptions, encryptsFiles }));
  return type;
});

const cutOff = (label: string): string =>
  `A mkfs that was cut off leaves this, and so does a filesystem that lost its beginning. Look at it: map it by hand ("rbd map --read-only ${label}"), then run "wipefs" and "debugfs" on its device, or "rbd export ${label} FILE". If nothing was ever written to the volume, it may be deleted and made anew`;

const repairFilesystem = Effect.fnUntraced(function* (
  device: string,
  type: string,
): Effect.fn.Return<void, HostError, Host> {
  const output = yield* stage("repair filesystem", (yield* Host).fsck({ device, type }));
  if (output !== "") yield* Effect.logWarning(`fsck.${type} of ${device}: ${output}`);
});
