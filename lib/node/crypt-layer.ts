/**
 * The LUKS layer of an encrypted volume, between its mapped image and what is mounted or bound.
 *
 * An image has a state in its metadata: "prepared" since it was created, "encrypted" since it was first staged. This is
 * the order of the first stage, and what a crash after each step leaves to the next one:
 *
 *   luksFormat      begun: no header, or one without a key slot, which no key ever opened. It is formatted again.
 *                   With integrity it has an order of its own, and a record: see ./crypt-wipe.ts.
 *   luksOpen        a whole header under the state "prepared": opened with the key, and not formatted.
 *   "encrypted"     only now is anything written through the layer. From here on it is never formatted, whatever is there.
 *   mkfs            as on a plain device: see ./prepare-filesystem.ts.
 *
 * Not here: where the key comes from (lib/kms), and cryptsetup (lib/host/crypt.ts).
 *
 * 1. A device is formatted only under the state "prepared", if it holds no header with a key slot and nothing where a
 *    header goes, and if librbd says that no extent behind the header is allocated or, in place of that, if the image has
 *    the record of a wipe that is proven to be over (./wipe-record.ts), and nothing is where a header and its key slots go.
 *    With integrity nothing is there in either case.
 * 2. A passphrase that opens nothing changes nothing.
 * 3. A layer is found by the device under it (lib/host/crypt-layers.ts), whoever opened it.
 * 4. A layer with integrity is neither made nor opened for a volume that several nodes may write to: each keeps its tags by
 *    itself, and the journal of one writes over what another has written.
 * 5. Two nodes never format at the same time, also if both may have the volume: each has the image open when it looks
 *    whether another has, so at most one goes on.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Blocklist } from "../ceph/blocklist.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Cipher } from "../config/cipher.ts";
import { LUKS_HEADER_BYTES } from "../config/encryption.ts";
import { refusalOfTags } from "../csi/capability.ts";
import { InvalidRequest, Precondition } from "../csi/errors.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { type CryptHeader, Host, type OpenedCrypt } from "../host/host.ts";
import { CRYPT_PREFIX, imageSpec } from "../host/mapped-device.ts";
import type { KeyNotFound, KmsError } from "../kms/errors.ts";
import {
  type EncryptionState,
  type ImageKeys,
  markEncrypted,
  readImageKeys,
  STATE,
  stateText,
  WIPING,
} from "../kms/image-keys.ts";
import type { Key, Texts } from "../kms/key-store.ts";
import { Kms } from "../kms/kms.ts";
import { keyOfImage } from "../kms/volume-key.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import type { ClientRecord } from "./client-record.ts";
import { formatWithIntegrity } from "./crypt-wipe.ts";
import { proveOurs } from "./mappable.ts";
import { type StagedDevice, stackOver } from "./staged-device.ts";
import { toImageName, type VolumeImage } from "./volume-context.ts";
import { proveWipeOver } from "./wipe-record.ts";

export interface LayerWanted {
  readonly volumeId: string;
  /** The secrets of the request. */
  readonly secrets: Texts;
  /** Whether nobody can write to the device itself. */
  readonly mapReadOnly: boolean;
  /** Whether other nodes may have the volume at the same time. */
  readonly shared: boolean;
  /** The access mode, if other nodes may write to the volume, too. */
  readonly sharedWriters: string | undefined;
  readonly context: { readonly cipher: Cipher };
}

/** What opens the layer of a volume, and what may be done if there is none yet. */
export interface LayerKey extends Pick<ImageKeys, "stateAsRead" | "wiping" | "integrity"> {
  readonly key: Key;
  readonly state: "prepared" | "encrypted";
}

/** The key of a volume, before anything is changed on the node; `undefined`: its device is not encrypted. */
export const layerKey = Effect.fnUntraced(function* (
  { volumeId, secrets }: LayerWanted,
  image: VolumeImage,
): Effect.fn.Return<LayerKey | undefined, CephError | KeyNotFound | KmsError | Precondition, Kms | Rbd> {
  const { encryption, journal } = image;
  if (encryption?.type === "file") return undefined;
  // A volume that is in a journal is what that says.
  if (encryption === undefined && journal !== undefined) return undefined;
  const found = yield* readImageKeys(image);
  if (encryption === undefined) return yield* provePlain(image, found.state);
  const state = yield* proveState(image, found.state);
  const store = yield* (yield* Kms).open({ ...encryption, secrets });
  const { stateAsRead, wiping, integrity } = found;
  return { state, stateAsRead, wiping, integrity, key: yield* keyOfImage(store, volumeId, found) };
});

const proveState = (
  image: VolumeImage,
  state: EncryptionState,
): Effect.Effect<"prepared" | "encrypted", Precondition> => {
  if (state === "prepared" || state === "encrypted") return Effect.succeed(state);
  const { pool, imageName } = image;
  const is = state === "none" ? "does not have" : `has the unknown value ${stateText(state)} in`;
  return Effect.fail(
    new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `${is} the metadata ${STATE}, which the image of an encrypted volume has. It was not touched`,
      remedy: `If LUKS is on it, run "rbd image-meta set ${imageSpec(toImageName(image))} ${STATE} encrypted"`,
    }),
  );
};

const provePlain = (image: VolumeImage, state: EncryptionState): Effect.Effect<undefined, Precondition> => {
  if (state === "none") return Effect.succeed(undefined);
  const { pool, imageName } = image;
  return Effect.fail(
    new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `is that of an encrypted volume, as its metadata ${STATE} says, but the volume is not said to be encrypted`,
      remedy:
        'Make its PersistentVolume anew, with encrypted: "true" in volumeAttributes, which cannot be changed: set its reclaim policy to Retain first',
    }),
  );
};

export interface AddedLayer {
  readonly device: StagedDevice;
  /** Where the volume's own bytes begin in the image. */
  readonly from: bigint;
  /** All of the layer was just wiped. */
  readonly wiped: boolean;
}

/**
 * Opens the layer over a device that was just mapped, and makes it first if the volume never had one. `before` is the
 * image as it was before the map, `watcher` the device's client among its watchers, if it is known.
 */
export const addLayer = Effect.fnUntraced(function* (
  wanted: LayerWanted,
  image: VolumeImage,
  bare: StagedDevice,
  layer: LayerKey,
  before: ImageStatus,
  watcher: string | undefined,
): Effect.fn.Return<
  AddedLayer,
  CephError | HostError | InvalidRequest | Precondition,
  Blocklist | ClientRecord | Compensations | Host | Rbd
> {
  const host = yield* Host;
  const { mapped } = bare;
  const { volumeId, mapReadOnly, context } = wanted;
  const { key, state } = layer;
  const device = mapped.path;
  const name = `${CRYPT_PREFIX}${volumeId}`;
  const header = yield* stage("look for LUKS header", host.cryptHeader(device));
  yield* proveOneWriter(wanted, layer, header);
  // Under "encrypted" there is data: what could harm it was let in when that was set.
  if (state === "prepared" && layer.wiping !== undefined) {
    yield* stage("prove wipe over", proveWipeOver(image, before, layer.wiping));
  }
  if (header.kind !== "whole") {
    const alone = proveOurs(image, false, before, bare);
    // An image that is not shared was found so when it was mapped.
    const its = wanted.shared ? yield* stage("prove alone", alone) : watcher;
    yield* proveNeverUsed(wanted, image, device, header, layer);
    const over = header.kind === "none" ? "blank" : header.kind;
    const { arguments: cipher, integrity } = context.cipher;
    const format = { device, key, cipher, over } as const;
    if (integrity === undefined) yield* stage("format LUKS", host.formatCrypt(format));
    else {
      const proven = { image, now: layer, watcher: its, proveAlone: alone };
      yield* formatWithIntegrity({ ...format, name, integrity }, proven);
    }
  }
  const open = host.openCrypt({ device, name, key, readOnly: mapReadOnly });
  const { crypt, headerBytes }: OpenedCrypt = yield* step("open LUKS", open, {
    undo: (opened) => host.closeCrypt(opened.crypt),
  });
  const integrity = crypt.integrity === true;
  // Of another driver's there may be more to record, or the record of a wipe that it has overtaken.
  const mark = stage("record encrypted", markEncrypted(image, { headerBytes, integrity }));
  if (state === "prepared") yield* mark;
  else if (!mapReadOnly && (layer.wiping !== undefined || (integrity && !layer.integrity)))
    yield* orWarn(
      mark,
      integrity && !layer.integrity
        ? `that volume ${volumeId} has integrity could not be recorded`
        : `the record of a wipe of volume ${volumeId} is out of date, and could not be removed`,
    );
  const wiped = header.kind !== "whole" && integrity;
  return { device: stackOver({ ...mapped, crypt }), from: headerBytes, wiped };
});

/** Fails if several nodes may write to the volume, and its layer has integrity, or is about to get it. */
const proveOneWriter = (
  { sharedWriters, context }: LayerWanted,
  { integrity }: LayerKey,
  header: CryptHeader,
): Effect.Effect<void, InvalidRequest> => {
  const has =
    integrity || (header.kind === "whole" ? header.integrity === true : context.cipher.integrity !== undefined);
  if (sharedWriters === undefined || !has) return Effect.void;
  return Effect.fail(new InvalidRequest({ field: "volume_capability", reason: refusalOfTags(sharedWriters) }));
};

/** A volume that is encrypted is staged also by a user who may not write metadata. */
const orWarn = <R>(mark: Effect.Effect<void, CephError, R>, what: string): Effect.Effect<void, never, R> =>
  Effect.catch(mark, ({ message }) => Effect.logWarning(`${what}, the next stage tries again: ${message}`));

/** Fails unless nothing was ever written to the image but what a format that did not end has written. */
const proveNeverUsed = Effect.fnUntraced(function* (
  { mapReadOnly, context }: LayerWanted,
  { pool, imageName }: VolumeImage,
  subject: string,
  header: Exclude<CryptHeader, { kind: "whole" }>,
  { state, wiping }: LayerKey,
): Effect.fn.Return<void, CephError | UnexpectedContent, Rbd> {
  const refuse = (reason: string) => new UnexpectedContent({ op: "luksFormat", subject, reason });
  const holds = contentOf(header);
  const hasData = (yield* Rbd).imageHasData(pool, imageName, "any", LUKS_HEADER_BYTES);
  if (state === "encrypted") {
    if (header.kind === "half-made" && wiping !== undefined) {
      return yield* refuse(
        `${STATE} says that LUKS is on it, but it holds ${holds}, and the record of a wipe that was cut off (${WIPING}): another driver has set the state since, and no key ever opened that header. If nobody ever wrote to the volume, it may be deleted and made anew`,
      );
    }
    const neverOpened = header.kind === "half-made" && !(yield* stage("look for data", hasData));
    const spec = imageSpec({ ...pool, image: imageName });
    return yield* refuse(
      neverOpened
        ? `${STATE} says that LUKS is on it, but it holds ${holds}: no key ever opened it, and nothing was written to it. Run "rbd image-meta set ${spec} ${STATE} ${stateText("prepared")}", then retry`
        : `${STATE} says that LUKS is on it, but it holds ${holds}. Restore its header from a backup ("cryptsetup luksHeaderRestore"), or the image from a snapshot`,
    );
  }
  const isWiped = wiping !== undefined;
  const needsAll = isWiped || context.cipher.integrity !== undefined;
  if (header.kind === "none" && !(needsAll ? header.allZeroed : header.zeroed)) {
    const remedy =
      header.content.kind === "filesystem"
        ? 'If that is what the volume is to hold, it is right as it is: make a PersistentVolume without encrypted: "true" for it'
        : 'Look at it with "rbd export" before you empty it by hand';
    return yield* refuse(`it is to be encrypted, but it holds ${holds}. ${remedy}`);
  }
  if (mapReadOnly) {
    return yield* refuse("it has no LUKS header, and is mapped read-only. Stage it for a writer first");
  }
  // The wipe has written to all of it.
  if (!isWiped && (yield* stage("prove empty", hasData))) {
    return yield* refuse(
      'it has no LUKS header, but the image holds data. Look at it with "rbd export" before you empty it by hand',
    );
  }
});

const contentOf = (header: Exclude<CryptHeader, { kind: "whole" }>): string => {
  if (header.kind === "half-made") return "a LUKS header without key slots";
  if (header.content.kind !== "blank") return header.content.type;
  return header.allZeroed ? "nothing where a header goes" : "data that no tool knows";
};

/** Closes the layer over a device, if there is one. */
export const removeLayer = ({ mapped: { crypt } }: StagedDevice): Effect.Effect<void, HostError, Host> =>
  crypt === undefined ? Effect.void : Effect.flatMap(Host, (host) => stage("close LUKS", host.closeCrypt(crypt)));

/** Grows the layer over a device to the size of its image; -> the bytes of what is mounted or bound. */
export const growLayer = Effect.fnUntraced(function* (
  { mapped: { crypt, path } }: StagedDevice,
  mappedBytes: bigint,
): Effect.fn.Return<bigint, HostError, Host> {
  if (crypt === undefined) return mappedBytes;
  return yield* stage("grow LUKS", (yield* Host).resizeCrypt(crypt, path));
});
