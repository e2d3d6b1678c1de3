/**
 * Sets image metadata. Loaded in cells only.
 *
 * Not here: reading it (./image-headers.ts).
 *
 * 1. An image is not opened: that takes a dozen trips to the OSDs, three of them writes. The object class writes the same
 *    keys of the header as `rbd_metadata_set`, all at once.
 * 2. An image with journaling is opened, because librbd writes each change into its journal first, for the mirror.
 * 3. Clients that have the image open are told of settings (`conf_…`), as librbd tells them: they read them anew. They are
 *    told also of one that is there already: whoever set it may have died before it told them.
 * 4. Values that are to be compared are compared in the operation that writes. librbd has no such operation: on an image
 *    with journaling the object class writes first, and librbd repeats it.
 */
import { FFIType as T } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { type Call, changeAll } from "./changes.ts";
import { Decoder } from "./decoder.ts";
import { encode, type Field } from "./encoder.ts";
import { bind, check, ECANCELED, ENOENT, plain } from "./ffi.ts";
import { tellClients } from "./header-watchers.ts";
import { METADATA } from "./image-headers.ts";
import { readMany } from "./omaps.ts";
import { existing, id, withImage } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_metadata_set: { args: [T.u64, T.cstring, T.cstring], returns: T.i32 },
  rbd_metadata_remove: { args: [T.u64, T.cstring], returns: T.i32 },
});

/** Image metadata to be set; `undefined` removes. */
export type Metadata = Readonly<Record<string, string | undefined>>;

/** `compare`: values that must be there now; "" stands for an absent key, too. */
export interface MetadataArg {
  readonly entries: Metadata;
  readonly compare?: Readonly<Record<string, string>> | undefined;
}

type Entry = readonly [key: string, value: string | undefined];

const FEATURES = "features";
const utf8 = new TextDecoder();

/** Writes only if a key has to change: a copy usually has nothing to remove. */
export const metaSet = (io: bigint, image: string, entries: Metadata, compare: MetadataArg["compare"] = {}): void => {
  const header = `rbd_header.${existing(id(io, image))}`;
  const keys = [FEATURES, ...Object.keys({ ...entries, ...compare }).map((key) => METADATA + key)];
  const now = existing(readMany(io, [{ object: header, keys }])[0]);
  const expected = Object.entries(compare).map(([key, value]) => [METADATA + key, value] as const);
  if (expected.some(([key, value]) => (textOf(now.get(key)) ?? "") !== value)) throw otherThanExpected();
  const changes = Object.entries(entries).filter(([key, value]) => textOf(now.get(METADATA + key)) !== value);
  const isToTell =
    changes.some(isSetting) || Object.entries(entries).some((each) => isSetting(each) && each[1] !== undefined);
  if (changes.length === 0) {
    if (isToTell) tellClients(io, header);
    return;
  }
  const journaled = isJournaled(now.get(FEATURES));
  if (!journaled || expected.length > 0) {
    const whole = { object: header, state: "require", compare: Object.fromEntries(expected) } as const;
    const [result = 0] = changeAll(io, [{ ...whole, calls: callsOf(changes) }]);
    if (result === -ENOENT) throw new Errno("rbd_open", ENOENT);
    if (result === -ECANCELED) throw otherThanExpected();
    check("rbd_metadata_set", result);
    if (!journaled && isToTell) midway(() => tellClients(io, header));
  }
  if (journaled) withImage(io, image, "write", (handle) => setEach(handle, changes));
};

/** Begins the keys of settings of the client, which hold for this image. */
const SETTING = "conf_";
const isSetting = ([key]: Entry): boolean => key.startsWith(SETTING);
const otherThanExpected = () => new Errno("rados_write_op_operate", ECANCELED);

const textOf = (bytes: Uint8Array | undefined): string | undefined => bytes && utf8.decode(bytes);

const isJournaled = (features: Uint8Array | undefined): boolean =>
  features !== undefined && (new Decoder(features).u64() & FEATURE_BITS.journaling) !== 0n;

/** The call that sets metadata: a key, then its value, and so on; none for nothing. */
export const setCalls = (keysAndValues: readonly Field[]): readonly Call[] =>
  keysAndValues.length === 0
    ? []
    : [{ method: "metadata_set", input: encode({ u32: keysAndValues.length / 2 }, ...keysAndValues) }];

const callsOf = (entries: readonly Entry[]): readonly Call[] => {
  const set = entries.flatMap(([key, value]): readonly Field[] =>
    value === undefined ? [] : [{ text: plain(key) }, { text: plain(value) }],
  );
  const removed = entries.flatMap(([key, value]) => (value === undefined ? [key] : []));
  return [
    ...setCalls(set),
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
