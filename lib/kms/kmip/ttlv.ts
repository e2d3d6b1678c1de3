/**
 * TTLV, the encoding of KMIP (KMIP 1.4, 9.1): an item is a tag of 3 bytes, a type, a length of 4 bytes, and a value that is
 * padded to 8 bytes. Pure.
 *
 * Not here: which items make a message (./messages.ts).
 *
 * 1. No bytes make `decode` throw: what is not TTLV, is cut off or is nested too deeply is `undefined`.
 */

/** The types that this driver sends and reads. Of others the bytes stay as they are. */
const TYPE = { structure: 0x01, integer: 0x02, enumeration: 0x05, text: 0x07, bytes: 0x08 } as const;

export interface Item {
  readonly tag: number;
  readonly type: number;
  /** The value without its padding; of a structure its items, one after the other. */
  readonly value: Uint8Array;
}

const HEAD_BYTES = 8;
const MAX_DEPTH = 16;

const encode = (tag: number, type: number, value: Uint8Array): Buffer => {
  const item = Buffer.alloc(HEAD_BYTES + padded(value.length));
  item.writeUIntBE(tag, 0, 3);
  item.writeUInt8(type, 3);
  item.writeUInt32BE(value.length, 4);
  item.set(value, HEAD_BYTES);
  return item;
};

const padded = (length: number): number => Math.ceil(length / 8) * 8;

const wordOf = (value: number): Buffer => {
  const word = Buffer.alloc(4);
  word.writeInt32BE(value);
  return word;
};

export const structure = (tag: number, ...items: readonly Uint8Array[]): Buffer =>
  encode(tag, TYPE.structure, Buffer.concat(items));
export const integer = (tag: number, value: number): Buffer => encode(tag, TYPE.integer, wordOf(value));
export const enumeration = (tag: number, value: number): Buffer => encode(tag, TYPE.enumeration, wordOf(value));
export const text = (tag: number, value: string): Buffer => encode(tag, TYPE.text, Buffer.from(value));
export const bytes = (tag: number, value: Uint8Array): Buffer => encode(tag, TYPE.bytes, value);

/** How many bytes the message has that begins so; `undefined`: its head is not complete yet. */
export const messageLength = (begin: Buffer): number | undefined =>
  begin.length < HEAD_BYTES ? undefined : HEAD_BYTES + padded(begin.readUInt32BE(4));

/** The only item of these bytes, with everything below it proven to be TTLV. */
export const decode = (message: Uint8Array): Item | undefined => {
  const items = itemsOf(message);
  return items?.length === 1 && items.every((item) => isSound(item, 1)) ? items[0] : undefined;
};

const isSound = (item: Item, depth: number): boolean =>
  item.type !== TYPE.structure ||
  (depth < MAX_DEPTH && (itemsOf(item.value)?.every((below) => isSound(below, depth + 1)) ?? false));

const itemsOf = (value: Uint8Array): readonly Item[] | undefined => {
  const data = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const items: Item[] = [];
  for (let at = 0; at < data.length; ) {
    if (at + HEAD_BYTES > data.length) return undefined;
    const length = data.readUInt32BE(at + 4);
    const begin = at + HEAD_BYTES;
    if (begin + padded(length) > data.length) return undefined;
    items.push({
      tag: data.readUIntBE(at, 3),
      type: data.readUInt8(at + 3),
      value: data.subarray(begin, begin + length),
    });
    at = begin + padded(length);
  }
  return items;
};

/** The items below a structure, on the way of these tags; `undefined`: there is none. */
export const below = (item: Item | undefined, ...tags: readonly number[]): Item | undefined =>
  tags.reduce<Item | undefined>(
    (found, tag) =>
      found?.type === TYPE.structure ? itemsOf(found.value)?.find((each) => each.tag === tag) : undefined,
    item,
  );

/** All items of that tag directly below a structure. */
export const allBelow = (item: Item | undefined, tag: number): readonly Item[] =>
  item?.type === TYPE.structure ? (itemsOf(item.value) ?? []).filter((each) => each.tag === tag) : [];

/** `undefined` where the item is absent or of another type. */
export const numberIn = (item: Item | undefined): number | undefined =>
  (item?.type === TYPE.integer || item?.type === TYPE.enumeration) && item.value.length === 4
    ? Buffer.from(item.value).readInt32BE()
    : undefined;
export const textIn = (item: Item | undefined): string | undefined =>
  item?.type === TYPE.text ? Buffer.from(item.value).toString("utf8") : undefined;
export const bytesIn = (item: Item | undefined): Uint8Array | undefined =>
  item?.type === TYPE.bytes ? item.value : undefined;
