/**
 * Sets image metadata. Loaded in cells only.
 *
 * Not here: reading it (./image-headers.ts).
 *
 * 1. An image is not opened: that takes a dozen trips to the OSDs, three of them writes. The object class writes the same
 *    keys of the header as `rbd_metadata_set`, all at once.
 * 2. An image with journaling is opened, because librbd writes each change into its journal first, for the mirror.
 */
import { FFIType as T } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { type Call, changeAll } from "./changes.ts";
import { Decoder } from "./decoder.ts";
import { encode, type Field } from "./encoder.ts";
import { bind, check, ENOENT, plain } from "./ffi.ts";
import { METADATA } from "./image-headers.ts";
import { readMany } from "./omaps.ts";
import { existing, id, withImage } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_metadata_set: { args: [T.u64, T.cstring, T.cstring], returns: T.i32 },
  rbd_metadata_remove: { args: [T.u64, T.cstring], returns: T.i32 },
});

/** Image metadata to be set; `undefined` removes. */
export type Metadata = Readonly<Record<string, string | undefined>>;

type Entry = readonly [key: string, value: string | undefined];

const FEATURES = "features";
const utf8 = new TextDecoder();

/** Writes only if a key has to change: a copy usually has nothing to remove. */
export const metaSet = (io: bigint, image: string, entries: Metadata): void => {
  const header = `rbd_header.${existing(id(io, image))}`;
  const keys = [FEATURES, ...Object.keys(entries).map((key) => METADATA + key)];
  const now = existing(readMany(io, [{ object: header, keys }])[0]);
  const changes = Object.entries(entries).filter(([key, value]) => textOf(now.get(METADATA + key)) !== value);
  if (changes.length === 0) return;
  if (isJournaled(now.get(FEATURES))) return withImage(io, image, "write", (handle) => setEach(handle, changes));
  const [result = 0] = changeAll(io, [{ object: header, state: "require", calls: callsOf(changes) }]);
  if (result === -ENOENT) throw new Errno("rbd_open", ENOENT);
  check("rbd_metadata_set", result);
};

const textOf = (bytes: Uint8Array | undefined): string | undefined => bytes && utf8.decode(bytes);

const isJournaled = (features: Uint8Array | undefined): boolean =>
  features !== undefined && (new Decoder(features).u64() & FEATURE_BITS.journaling) !== 0n;

const callsOf = (entries: readonly Entry[]): readonly Call[] => {
  const set = entries.flatMap(([key, value]): readonly Field[] =>
    value === undefined ? [] : [{ text: plain(key) }, { text: plain(value) }],
  );
  const removed = entries.flatMap(([key, value]) => (value === undefined ? [key] : []));
  return [
    ...(set.length === 0 ? [] : [{ method: "metadata_set", input: encode({ u32: set.length / 2 }, ...set) }]),
    ...removed.map((key) => ({ method: "metadata_remove", input: encode({ text: plain(key) }) })),
  ];
};

const setEach = (handle: bigint, [first, ...others]: readonly Entry[]): void => {
  const apply = ([key, value]: Entry) => {
    if (value !== undefined) {
      check("rbd_metadata_set", rbd.rbd_metadata_set(handle, plain(key), plain(value)));
      return;
    }
    const result = rbd.rbd_metadata_remove(handle, plain(key));
    if (result !== -ENOENT) check("rbd_metadata_remove", result);
  };
  if (first !== undefined) apply(first);
  midway(() => others.forEach(apply));
};
