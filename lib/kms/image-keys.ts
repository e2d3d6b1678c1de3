/**
 * The metadata of an encrypted image: its wrapped key and its state, under ceph-csi's names and under the older ones.
 *
 * Not here: keys that a store keeps itself, and the LUKS header.
 *
 * 1. What is not set is not set: reading writes nothing.
 * 2. The record of a wipe goes with the write that says "encrypted", and where that is not one write (images with journaling),
 *    after it. librbd copies no key that begins with `.rbd` to a clone, so no copy has it.
 * 3. A wipe is recorded only in place of the record and under the state that were read: ceph-csi changes the state alone.
 */
import * as Effect from "effect/Effect";
import { type CephError, ImageNotFound } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";

import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { LUKS_HEADER_BYTES } from "../config/encryption.ts";

export const DEK = "rbd.csi.ceph.com/dek";
export const STATE = "rbd.csi.ceph.com/encrypted";
export const HEADER_SIZE = "rbd.csi.ceph.com/luks2HeaderSize";
/** `true`: its LUKS layer has integrity. */
export const INTEGRITY = "rbd.csi.ceph.com/luks2Integrity";
/** Its layer is written for the first time, and its header is not on it yet. The text says who does so. */
export const WIPING = ".rbd.csi.ceph.com/wiping";
/** The names that older drivers gave them. A clone does not inherit keys that begin with a dot. */
const OLD = { dek: ".rbd.csi.ceph.com/dek", state: ".rbd.csi.ceph.com/encrypted" } as const;

export const DEK_PLACE = `image metadata ${DEK}`;

/** `prepared`: it has a key, and nothing proves that it is formatted. `encrypted`: it is formatted. */
export type EncryptionState = "none" | "prepared" | "encrypted" | { readonly other: string };

const PREPARED = "encryptionPrepared";
const ENCRYPTED = "encrypted";

export interface ImageRef {
  readonly pool: PoolRef;
  readonly imageName: string;
}

type Metadata = Readonly<Record<string, string>>;

export interface ImageKeys {
  readonly wrapped: string | undefined;
  /** The wrapped key has the name that older drivers gave it. */
  readonly isOldName: boolean;
  readonly state: EncryptionState;
  /** The metadata that says so, as it was read: both names, "" where one is absent. */
  readonly stateAsRead: Metadata;
  /** The record of a wipe of the image, which no data was ever written to then; `undefined`: there is none. */
  readonly wiping: string | undefined;
  /** Whether it is recorded that the layer has integrity. */
  readonly integrity: boolean;
}

/** These keys of the image's metadata, without those that it has not. One call. */
const metadataNow = Effect.fnUntraced(function* (
  { pool, imageName }: ImageRef,
  keys: readonly string[],
): Effect.fn.Return<ReadonlyMap<string, string>, CephError, Rbd> {
  const [brief] = yield* (yield* Rbd).imageBriefs(pool, [imageName], keys);
  if (brief !== undefined) return brief.metadata;
  return yield* new ImageNotFound({ op: "rbd_metadata_get", subject: imageLabel(pool, imageName) });
});

/** One call. The keys that drivers of long ago wrote count where the newer ones are absent. */
export const readImageKeys = Effect.fnUntraced(function* (
  image: ImageRef,
): Effect.fn.Return<ImageKeys, CephError, Rbd> {
  const metadata = yield* metadataNow(image, [DEK, STATE, OLD.dek, OLD.state, WIPING, INTEGRITY]);
  const text = (key: string, old: string) => metadata.get(key) || metadata.get(old) || undefined;
  const wrapped = text(DEK, OLD.dek);
  return {
    wrapped,
    isOldName: wrapped !== undefined && !metadata.get(DEK),
    state: stateOf(text(STATE, OLD.state)),
    stateAsRead: Object.fromEntries([STATE, OLD.state].map((key) => [key, metadata.get(key) ?? ""])),
    wiping: metadata.get(WIPING) || undefined,
    integrity: metadata.get(INTEGRITY) === "true",
  };
});

const stateOf = (text: string | undefined): EncryptionState => {
  if (text === undefined) return "none";
  if (text === PREPARED) return "prepared";
  return text === ENCRYPTED ? "encrypted" : { other: text };
};

/** How the layer of an encrypted image lies in it, as far as it is recorded. */
export interface LayerPlace {
  /** What its header takes of the image, in front of the device that pods see. */
  readonly headerBytes: bigint;
  /** Whether tags lie among its bytes, or will once it is wiped. */
  readonly integrity: boolean;
  /** Whether the wipe is not recorded to be over. */
  readonly wiping: boolean;
  /** Of the image. */
  readonly sizeBytes: bigint;
}

export const layerPlace = Effect.fnUntraced(function* ({
  pool,
  imageName,
}: ImageRef): Effect.fn.Return<LayerPlace, CephError, Rbd> {
  const [brief] = yield* (yield* Rbd).imageBriefs(pool, [imageName], [HEADER_SIZE, INTEGRITY, WIPING]);
  const written = brief?.metadata.get(HEADER_SIZE) ?? "";
  const wiping = Boolean(brief?.metadata.get(WIPING));
  return {
    headerBytes: /^\d{1,15}$/.test(written) ? BigInt(written) : LUKS_HEADER_BYTES,
    integrity: brief?.metadata.get(INTEGRITY) === "true" || wiping,
    wiping,
    sizeBytes: brief?.sizeBytes ?? 0n,
  };
});

/** What an image's metadata is to be set to, and what it must be now: "" is absent. */
interface Claim {
  /** Absent: as it is, whatever it is. */
  readonly wrapped?: { readonly now: string; readonly next: string };
  readonly state?: { readonly now: string; readonly next: string };
}

/** Sets the wrapped key and the state at once. `Raced`, and nothing is set, where either is other than `now`. */
export const claimImageKeys = Effect.fnUntraced(function* (
  { pool, imageName }: ImageRef,
  { wrapped, state }: Claim,
): Effect.fn.Return<void, CephError, Rbd> {
  yield* (yield* Rbd).imageMetaSet(
    pool,
    imageName,
    { ...(wrapped && { [DEK]: wrapped.next }), ...(state && { [STATE]: state.next }) },
    { ...(wrapped && { [DEK]: wrapped.now }), ...(state && { [STATE]: state.now }) },
  );
});

/** "" is absent. */
export const stateText = (state: EncryptionState): string => {
  if (typeof state === "object") return state.other;
  return { none: "", prepared: PREPARED, encrypted: ENCRYPTED }[state];
};

/** Records that the image is formatted, and how. */
export const markEncrypted = Effect.fnUntraced(function* (
  { pool, imageName }: ImageRef,
  { headerBytes, integrity }: Pick<LayerPlace, "headerBytes" | "integrity">,
): Effect.fn.Return<void, CephError, Rbd> {
  yield* (yield* Rbd).imageMetaSet(pool, imageName, {
    [STATE]: ENCRYPTED,
    [HEADER_SIZE]: String(headerBytes),
    [WIPING]: undefined,
    ...(integrity && { [INTEGRITY]: "true" }),
  });
});

/** What an image's metadata says while nobody else formats it: the record of a wipe, and the state. */
type AsRead = Pick<ImageKeys, "stateAsRead" | "wiping">;

const metadataOf = ({ stateAsRead, wiping }: AsRead): Metadata => ({ ...stateAsRead, [WIPING]: wiping ?? "" });

/** Records who wipes the image. `Raced` if anybody has begun to format it since `now` was read. */
export const recordWipe = Effect.fnUntraced(function* (
  { pool, imageName }: ImageRef,
  record: string,
  now: AsRead,
): Effect.fn.Return<void, CephError, Rbd> {
  yield* (yield* Rbd).imageMetaSet(pool, imageName, { [WIPING]: record }, metadataOf(now));
});

/** Whether the metadata still says that. */
export const isUnchanged = Effect.fnUntraced(function* (
  image: ImageRef,
  asRead: AsRead,
): Effect.fn.Return<boolean, CephError, Rbd> {
  const expected = metadataOf(asRead);
  const metadata = yield* metadataNow(image, Object.keys(expected));
  return Object.entries(expected).every(([key, text]) => (metadata.get(key) ?? "") === text);
});
