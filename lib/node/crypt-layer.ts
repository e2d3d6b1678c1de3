/**
 * The LUKS layer of an encrypted volume, between its mapped image and what is mounted or bound.
 *
 * An image has a state in its metadata: "prepared" since it was created, "encrypted" since it was first staged. This is
 * the order of the first stage, and what a crash after each step leaves to the next one:
 *
 *   luksFormat      begun: no header, or one without a key slot, which no key ever opened. It is formatted again.
 *   luksOpen        a whole header under the state "prepared": opened with the key, and not formatted.
 *   "encrypted"     only now is anything written through the layer. From here on it is never formatted, whatever is there.
 *   mkfs            as on a plain device: see ./prepare-filesystem.ts.
 *
 * Not here: where the key comes from (lib/kms), and cryptsetup (lib/host/crypt.ts).
 *
 * 1. A device is formatted only under the state "prepared", if it holds no header with a key slot and nothing where a
 *    header goes, and if librbd says that no extent behind the header is allocated.
 * 2. A passphrase that opens nothing changes nothing.
 * 3. A layer is found by the device under it (lib/host/crypt-layers.ts), whoever opened it.
 * 4. Two nodes never format at the same time, also if both may have the volume: each has the image open when it looks
 *    whether another has, so at most one goes on.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Cipher } from "../config/cipher.ts";
import { LUKS_HEADER_BYTES } from "../config/encryption.ts";
import { Precondition } from "../csi/errors.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { type CryptHeader, Host, type OpenedCrypt } from "../host/host.ts";
import { CRYPT_PREFIX, imageSpec } from "../host/mapped-device.ts";
import type { KeyNotFound, KmsError } from "../kms/errors.ts";
import { type EncryptionState, markEncrypted, readImageKeys, STATE, stateText } from "../kms/image-keys.ts";
import type { Key, Texts } from "../kms/key-store.ts";
import { Kms } from "../kms/kms.ts";
import { keyOfImage } from "../kms/volume-key.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import { proveOurs } from "./mappable.ts";
import { type StagedDevice, stackOver } from "./staged-device.ts";
import { toImageName, type VolumeImage } from "./volume-context.ts";

export interface LayerWanted {
  readonly volumeId: string;
  /** The secrets of the request. */
  readonly secrets: Texts;
  /** Whether nobody can write to the device itself. */
  readonly mapReadOnly: boolean;
  /** Whether other nodes may have the volume at the same time. */
  readonly shared: boolean;
  readonly context: { readonly cipher: Cipher };
}

/** What opens the layer of a volume, and what may be done if there is none yet. */
export interface LayerKey {
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
  return { state, key: yield* keyOfImage(store, volumeId, found) };
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
      remedy: 'Set encrypted: "true" in the volumeAttributes of its PersistentVolume',
    }),
  );
};

export interface AddedLayer {
  readonly device: StagedDevice;
  /** Where the volume's own bytes begin in the image. */
  readonly from: bigint;
}

/**
 * Opens the layer over a device that was just mapped, and makes it first if the volume never had one. `before` is the
 * image as it was before the map.
 */
export const addLayer = Effect.fnUntraced(function* (
  wanted: LayerWanted,
  image: VolumeImage,
  bare: StagedDevice,
  { key, state }: LayerKey,
  before: ImageStatus,
): Effect.fn.Return<AddedLayer, CephError | HostError | Precondition, Compensations | Host | Rbd> {
  const host = yield* Host;
  const { mapped } = bare;
  const { volumeId, mapReadOnly, context } = wanted;
  const device = mapped.path;
  const header = yield* stage("look for LUKS header", host.cryptHeader(device));
  if (header.kind !== "whole") {
    // An image that is not shared was found so when it was mapped.
    if (wanted.shared) yield* stage("prove alone", proveOurs(image, false, before, bare));
    yield* proveNeverUsed(wanted, image, device, { header, state });
    const over = header.kind === "none" ? "blank" : header.kind;
    yield* stage("format LUKS", host.formatCrypt({ device, key, cipher: context.cipher.arguments, over }));
  }
  const name = `${CRYPT_PREFIX}${volumeId}`;
  const open = host.openCrypt({ device, name, key, readOnly: mapReadOnly });
  const { crypt, headerBytes }: OpenedCrypt = yield* step("open LUKS", open, {
    undo: (opened) => host.closeCrypt(opened.crypt),
  });
  if (state === "prepared") yield* stage("record encrypted", markEncrypted(image, headerBytes));
  return { device: stackOver({ ...mapped, crypt }), from: headerBytes };
});

/** Fails unless nothing was ever written to the image but what a luksFormat that did not end has written. */
const proveNeverUsed = Effect.fnUntraced(function* (
  { mapReadOnly, context: { cipher } }: LayerWanted,
  { pool, imageName }: VolumeImage,
  subject: string,
  { header, state }: { readonly header: Exclude<CryptHeader, { kind: "whole" }>; readonly state: LayerKey["state"] },
): Effect.fn.Return<void, CephError | UnexpectedContent, Rbd> {
  const refuse = (reason: string) => new UnexpectedContent({ op: "luksFormat", subject, reason });
  const holds = contentOf(header);
  const hasData = (yield* Rbd).imageHasData(pool, imageName, "any", LUKS_HEADER_BYTES);
  if (state === "encrypted") {
    const neverOpened = header.kind === "half-made" && !(yield* stage("look for data", hasData));
    const spec = imageSpec({ ...pool, image: imageName });
    return yield* refuse(
      neverOpened
        ? `${STATE} says that LUKS is on it, but it holds ${holds}: no key ever opened it, and nothing was written to it. Run "rbd image-meta set ${spec} ${STATE} ${stateText("prepared")}", then retry`
        : `${STATE} says that LUKS is on it, but it holds ${holds}. Restore its header from a backup ("cryptsetup luksHeaderRestore"), or the image from a snapshot`,
    );
  }
  if (header.kind === "none" && !header.zeroed) {
    return yield* refuse(
      `it is to be encrypted, but it holds ${holds}. Look at it with "rbd export" before you empty it by hand`,
    );
  }
  if (cipher.unserved !== undefined) return yield* refuse(`integrityMode of its StorageClass ${cipher.unserved}`);
  if (mapReadOnly) {
    return yield* refuse("it has no LUKS header, and is mapped read-only. Stage it for a writer first");
  }
  if (yield* stage("prove empty", hasData)) {
    return yield* refuse(
      'it has no LUKS header, but the image holds data. Look at it with "rbd export" before you empty it by hand',
    );
  }
});

const contentOf = (header: Exclude<CryptHeader, { kind: "whole" }>): string => {
  if (header.kind === "half-made") return "a LUKS header without key slots";
  if (header.content.kind !== "blank") return header.content.type;
  return header.zeroed ? "nothing where a header goes" : "data that no tool knows";
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
