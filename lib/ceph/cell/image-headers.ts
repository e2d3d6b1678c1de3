/**
 * Reads images without opening them, from the directory of the pool and the headers. Loaded in cells only.
 *
 * Not here: the status of an open image (./status.ts), all that one header says (./header-status.ts).
 *
 * 1. Any number of images takes two rounds: the ids from the directory, then the headers, all at once.
 */
import type { ImageBrief } from "../rbd.ts";
import { Decoder } from "./decoder.ts";
import { list, readMany } from "./omaps.ts";

/** Begins the keys of image metadata in a header. */
export const METADATA = "metadata_";
const CREATED = "create_timestamp";
/** Number of names in one read of the directory. */
const NAMES = 1000;

const utf8 = new TextDecoder();

export const briefs = (
  io: bigint,
  images: readonly string[],
  metadata: readonly string[],
): readonly (ImageBrief | undefined)[] => {
  const ids = idsOf(io, images);
  const known = images.flatMap((image) => {
    const id = ids.get(image);
    return id === undefined ? [] : [{ image, id }];
  });
  const keys = ["size", CREATED, ...metadata.map((key) => METADATA + key)];
  const headers = readMany(
    io,
    known.map(({ id }) => ({ object: `rbd_header.${id}`, keys })),
  );
  const found = new Map<string, ImageBrief>();
  known.forEach(({ image, id }, i) => {
    const header = headers[i];
    const size = header?.get("size");
    if (header === undefined || size === undefined) return;
    const createdAt = timeIn(header.get(CREATED));
    found.set(image, { id, sizeBytes: new Decoder(size).u64(), createdAt, metadata: metadataIn(header) });
  });
  return images.map((image) => found.get(image));
};

export const timeIn = (stamp: Uint8Array | undefined): number => {
  if (stamp === undefined) return 0;
  const decoder = new Decoder(stamp);
  const seconds = decoder.u32();
  return seconds * 1000 + Math.floor(decoder.u32() / 1e6);
};

const idsOf = (io: bigint, images: readonly string[]): ReadonlyMap<string, string> => {
  const parts = Array.from({ length: Math.ceil(images.length / NAMES) }, (_, i) => ({
    object: "rbd_directory",
    keys: images.slice(i * NAMES, (i + 1) * NAMES).map((image) => `name_${image}`),
  }));
  const ids = readMany(io, parts).flatMap((part) => [...(part ?? [])]);
  return new Map(ids.map(([key, value]) => [key.slice("name_".length), new Decoder(value).text()]));
};

export const metadataIn = (entries: ReadonlyMap<string, Uint8Array>): Map<string, string> =>
  new Map(
    [...entries].flatMap(([key, value]) =>
      key.startsWith(METADATA) ? [[key.slice(METADATA.length), utf8.decode(value)] as const] : [],
    ),
  );

/** Reads keys of image metadata from the header with this id. An image that has gone since has none. */
export const someMetadataOf = (io: bigint, id: string, keys: readonly string[]): ReadonlyMap<string, string> => {
  if (keys.length === 0) return new Map();
  const [header] = readMany(io, [{ object: `rbd_header.${id}`, keys: keys.map((key) => METADATA + key) }]);
  return metadataIn(header ?? new Map());
};

/** Reads image metadata from the header with this id, that whose keys begin with `prefix`; undefined: there is no such header. */
export const metadataOf = (io: bigint, id: string, prefix = ""): Map<string, string> | undefined => {
  const keys = { prefix: METADATA + prefix, after: "", limit: Number.MAX_SAFE_INTEGER };
  const entries = list(io, `rbd_header.${id}`, keys);
  return entries && metadataIn(entries);
};
