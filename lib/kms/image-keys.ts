/**
 * The metadata of an encrypted image: its wrapped key and its state, under ceph-csi's names and under the older ones.
 *
 * Not here: keys that a store keeps itself, and the LUKS header.
 *
 * 1. What is not set is not set: reading writes nothing.
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

export interface ImageKeys {
  readonly wrapped: string | undefined;
  /** The wrapped key has the name that older drivers gave it. */
  readonly isOldName: boolean;
  readonly state: EncryptionState;
}

/** One call. The keys that a drivers of long ago wrote count where the newer ones are absent. */
export const readImageKeys = Effect.fnUntraced(function* ({
  pool,
  imageName,
}: ImageRef): Effect.fn.Return<ImageKeys, CephError, Rbd> {
  const [brief] = yield* (yield* Rbd).imageBriefs(pool, [imageName], [DEK, STATE, OLD.dek, OLD.state]);
  if (brief === undefined) {
    return yield* new ImageNotFound({ op: "rbd_metadata_get", subject: imageLabel(pool, imageName) });
  }
  const text = (key: string, old: string) => brief.metadata.get(key) || brief.metadata.get(old) || undefined;
  const wrapped = text(DEK, OLD.dek);
  return {
    wrapped,
    isOldName: wrapped !== undefined && !brief.metadata.get(DEK),
    state: stateOf(text(STATE, OLD.state)),
  };
});

const stateOf = (text: string | undefined): EncryptionState => {
  if (text === undefined) return "none";
  if (text === PREPARED) return "prepared";
  return text === ENCRYPTED ? "encrypted" : { other: text };
};

/** How many bytes the header of an encrypted image takes, in front of the device that pods see. */
export const headerBytes = Effect.fnUntraced(function* ({
  pool,
  imageName,
}: ImageRef): Effect.fn.Return<bigint, CephError, Rbd> {
  const [brief] = yield* (yield* Rbd).imageBriefs(pool, [imageName], [HEADER_SIZE]);
  const written = brief?.metadata.get(HEADER_SIZE) ?? "";
  return /^\d{1,15}$/.test(written) ? BigInt(written) : LUKS_HEADER_BYTES;
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

/** Records that the image is formatted. `headerBytes`: the size of its LUKS header, where it is known. */
export const markEncrypted = Effect.fnUntraced(function* (
  { pool, imageName }: ImageRef,
  headerBytes?: bigint,
): Effect.fn.Return<void, CephError, Rbd> {
  const size = headerBytes === undefined ? {} : { [HEADER_SIZE]: String(headerBytes) };
  yield* (yield* Rbd).imageMetaSet(pool, imageName, { [STATE]: ENCRYPTED, ...size });
});
