/**
 * Names of objects by placement group: which name leads to which. Loaded in cells only.
 *
 * Source: Ceph's rjenkins hash (src/common/ceph_hash.cc), stable modulo (src/include/types.h) and `hash_key` of a pool.
 */
const utf8 = new TextEncoder();

const GOLDEN = 0x9e37_79b9;

type Three = [a: number, b: number, c: number];

/** Bob Jenkins' mix of three words of 32 bits. */
const mix = (words: Three): void => {
  let [a, b, c] = words;
  a = ((a - b - c) ^ (c >>> 13)) | 0;
  b = ((b - c - a) ^ (a << 8)) | 0;
  c = ((c - a - b) ^ (b >>> 13)) | 0;
  a = ((a - b - c) ^ (c >>> 12)) | 0;
  b = ((b - c - a) ^ (a << 16)) | 0;
  c = ((c - a - b) ^ (b >>> 5)) | 0;
  a = ((a - b - c) ^ (c >>> 3)) | 0;
  b = ((b - c - a) ^ (a << 10)) | 0;
  c = ((c - a - b) ^ (b >>> 15)) | 0;
  words[0] = a;
  words[1] = b;
  words[2] = c;
};

const BLOCK = 12;

/** The hash of a text, as an unsigned number of 32 bits. */
export const rjenkins = (text: string): number => {
  const bytes = utf8.encode(text);
  const words: Three = [GOLDEN | 0, GOLDEN | 0, 0];
  const byte = (at: number, shift: number): number => (bytes[at] ?? 0) << shift;
  const word = (at: number): number => byte(at, 0) + byte(at + 1, 8) + byte(at + 2, 16) + byte(at + 3, 24);
  let at = 0;
  for (; bytes.length - at >= BLOCK; at += BLOCK) {
    words[0] = (words[0] + word(at)) | 0;
    words[1] = (words[1] + word(at + 4)) | 0;
    words[2] = (words[2] + word(at + 8)) | 0;
    mix(words);
  }
  // The lowest byte of the last word is for the length.
  words[0] = (words[0] + word(at)) | 0;
  words[1] = (words[1] + word(at + 4)) | 0;
  words[2] = (words[2] + bytes.length + byte(at + 8, 8) + byte(at + 9, 16) + byte(at + 10, 24)) | 0;
  mix(words);
  return words[2] >>> 0;
};

/** The placement group of an object in a pool that has so many; "" is the default namespace. */
export const groupOf = (namespace: string, object: string, groups: number): number => {
  const mask = 2 ** Math.ceil(Math.log2(groups)) - 1;
  const hash = rjenkins(namespace === "" ? object : `${namespace}\u001f${object}`);
  const group = (hash & mask) >>> 0;
  return group < groups ? group : (hash & (mask >>> 1)) >>> 0;
};

/** One name for each placement group; none of them is the name of an object. */
export const nameForEach = (namespace: string, groups: number): readonly string[] => {
  const names = new Map<number, string>();
  for (let i = 0; names.size < groups; i += 1) {
    const name = `csi-rbd.group.${i}`;
    const group = groupOf(namespace, name, groups);
    if (!names.has(group)) names.set(group, name);
  }
  return [...names.values()];
};
