/**
 * The filesystem of a volume before it is mounted: repaired by fsck if there is one, made if there is none.
 *
 * 1. A device is formatted only if blkid finds nothing on it, its first bytes are zeros, and librbd says that no extent
 *    of the image is allocated: none behind the header, of an encrypted one. One with integrity, of which everything was written
 *    once, is read through instead, unless that was just now. Before that it was mapped here, and proven to have no other user (./mappable.ts).
 *    What a mkfs that was cut off has left is refused: it cannot be told from data, and its mkfs may still write on another node.
 * 2. Nothing is formatted for readers. They get any filesystem that the kernel mounts; one that is never checked or grown here is
 *    for nobody else. A static volume is formatted like any other, after the same proof.
 */
import { constants } from "node:os";
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { FILE_ENCRYPTION, FOR_READERS } from "../csi/filesystems.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { AS_BLOCK, chooseFilesystem, type ChosenFilesystem, isEverywhere, isWritten } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import { stage } from "../operations/pipeline.ts";
import { readsAsZeros } from "./crypt-wipe.ts";
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

/** How it can be told whether anything was ever written to the device. */
export interface NeverWritten {
  /** Where its bytes begin in the image, which is behind the header of an encrypted one. */
  readonly from: bigint;
  /** Zeros were just written to all of it. */
  readonly wiped: boolean;
}

/** Fails if this node lacks what such a filesystem needs. "" is for the one that is there, or the default. */
export const proveServed = Effect.fnUntraced(function* (
  type: string,
): Effect.fn.Return<void, HostError | Precondition, Host> {
  if (isEverywhere(type)) return;
  const lack = yield* stage("look at kernel", (yield* Host).filesystemLack(type));
  if (lack !== undefined) return yield* new Precondition({ subject: "this node", ...lack });
});

/** -> the filesystem that is on the device then. */
export const prepareFilesystem = Effect.fnUntraced(function* (
  { type: requested, readOnly, context, encryptsFiles }: FilesystemWanted,
  image: VolumeImage,
  { mapped, top }: StagedDevice,
  { from, wiped }: NeverWritten,
): Effect.fn.Return<ChosenFilesystem, CephError | HostError | Precondition, Host | Rbd> {
  const host = yield* Host;
  const tagged = mapped.crypt?.integrity === true;
  const isReadOnly = mapped.crypt?.readOnly === true;
  const read = <A, R>(look: Effect.Effect<A, HostError, R>) =>
    tagged ? Effect.mapError(look, untagged(isReadOnly)) : look;
  const found = yield* stage("probe", read(host.probe(top.path)));
  const refuse = (reason: string) => new UnexpectedContent({ op: "format", subject: top.path, reason });
  const label = imageLabel(image.pool, image.imageName);
  if (found.kind === "filesystem" && found.unfinished) {
    return yield* refuse(`image ${label} holds an unfinished ${found.type}. ${cutOff(label)}`);
  }
  const chosen = yield* chooseFilesystem(top.path, found, requested);
  const { type, mountType, blank } = chosen;
  if (requested === "") yield* proveServed(type);
  if (encryptsFiles && type !== FILE_ENCRYPTION) {
    return yield* refuse(`it holds ${type}, and files are encrypted in ${FILE_ENCRYPTION} only (encryptionType file)`);
  }
  if (!blank) {
    if (!readOnly && !isWritten(type)) {
      const reason = `it holds ${type}, which a node mounts for readers only (${FOR_READERS}). For writers: ${AS_BLOCK}`;
      return yield* new UnexpectedContent({ op: "mount", subject: top.path, reason });
    }
    if (requested !== "" && requested !== type) {
      yield* Effect.logWarning(
        `image ${label} holds ${type}, and the request asks for ${requested}: it is mounted as ${mountType}, and stays ${type}`,
      );
    }
    if (!readOnly) yield* repairFilesystem(top.path, type);
    return chosen;
  }
  if (readOnly) {
    return yield* refuse(
      "it is blank, and the volume is staged read-only. Write to it before you stage it for readers",
    );
  }
  // A cipher makes noise of the zeros of an image.
  const zeroed = from > 0n || (found.kind === "blank" && found.zeroed);
  const rbd = yield* Rbd;
  const hasData: Effect.Effect<boolean, CephError | HostError, Host> = tagged
    ? Effect.map(wiped ? Effect.succeed(true) : read(readsAsZeros(top)), (zeros) => !zeros)
    : rbd.imageHasData(image.pool, image.imageName, "any", from);
  if (!zeroed || (yield* stage("prove empty", hasData))) {
    return yield* refuse(`it has no filesystem, but image ${label} holds data. ${cutOff(label)}`);
  }
  yield* stage("format", host.mkfs({ device: top.path, type, options: context.mkfsOptions, encryptsFiles }));
  return chosen;
});

/** Of a read through a layer with integrity, as the kernel has it where tag and data do not fit. */
const { EILSEQ, EIO } = constants.errno;

const untagged =
  (isReadOnly: boolean) =>
  (error: HostError): HostError =>
    error._tag === "HostFailed" && [EILSEQ, EIO].includes(error.errno)
      ? new UnexpectedContent({
          op: error.op,
          subject: error.subject,
          reason: `it has integrity, and a sector of it cannot be read: ${error.reason}. ${isReadOnly ? NOT_REPLAYED : NO_TAG}`,
        })
      : error;

/** What a node has written last is in the journal: of a snapshot of a volume in use, or after the node went down. */
const NOT_REPLAYED =
  "It is mapped read-only, and so its journal is not replayed, by which the sector may be whole. Stage it once for a writer (ReadWriteOnce), which replays the journal, then for readers. If the writer cannot read it either, that failure says more";

const NO_TAG =
  'If the log of the kernel says "INTEGRITY AEAD ERROR", the sector has no valid tag: the wipe of the driver that formatted the volume was cut off, or stored bytes were changed. If nothing was ever written to the volume, it may be deleted and made anew';

const cutOff = (label: string): string =>
  `A mkfs that was cut off leaves this, and so does a filesystem that lost its beginning. Look at it: map it by hand ("rbd map --read-only ${label}"), open it with "cryptsetup open --readonly" if it is encrypted, run "wipefs" and "debugfs" on the device, or "rbd export ${label} FILE". If nothing was ever written to the volume, it may be deleted and made anew`;

const repairFilesystem = Effect.fnUntraced(function* (
  device: string,
  type: string,
): Effect.fn.Return<void, HostError, Host> {
  const output = yield* stage("repair filesystem", (yield* Host).fsck({ device, type }));
  if (output !== "") yield* Effect.logWarning(`fsck.${type} of ${device}: ${output}`);
});
