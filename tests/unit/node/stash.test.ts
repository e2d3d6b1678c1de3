/** image-meta.json: byte for byte what ceph-csi writes, and whatever any version of it wrote is read. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import * as Result from "effect/Result";
import { decodeImageMeta, encodeImageMeta, type ImageMeta } from "../../../lib/node/image-meta.ts";

const STASH: ImageMeta = {
  pool: "rbd",
  namespace: "",
  image: "csi-vol-1",
  unmapOptions: "",
  nbd: false,
  encrypted: false,
  device: "",
  logDir: "",
  logFileStrategy: "",
  serviceAccounts: "",
  encryptedFiles: false,
};
const read = (text: string) => Result.getOrUndefined(decodeImageMeta(text));

describe("the stash", () => {
  test("A stash has all keys in ceph-csi's order, without a space or a newline", () => {
    expect(encodeImageMeta(STASH)).toBe(
      '{"Version":3,"pool":"rbd","radosNamespace":"","image":"csi-vol-1","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}',
    );
  });

  test("What a volume is restricted to comes behind ceph-csi's keys, and ceph-csi ignores keys that it does not know", () => {
    expect(encodeImageMeta({ ...STASH, serviceAccounts: "a,b", encryptedFiles: true })).toEndWith(
      '"logDir":"","logFileStrategy":"","serviceAccounts":"a,b","encryptedFiles":true}',
    );
  });

  test("The writer of a stash escapes the characters that Go escapes", () => {
    expect(encodeImageMeta({ ...STASH, unmapOptions: "a<b>&\u2028" })).toContain(
      String.raw`"a\u003cb\u003e\u0026\u2028"`,
    );
  });

  test("The reader returns a stash of any content as it was written", () => {
    const text = fc.string({ unit: "grapheme" });
    const name = fc.string({ unit: "grapheme", minLength: 1 });
    const record = fc.record({
      pool: name,
      namespace: text,
      image: name,
      unmapOptions: text,
      nbd: fc.boolean(),
      encrypted: fc.boolean(),
      device: text,
      logDir: text,
      logFileStrategy: text,
      serviceAccounts: text,
      encryptedFiles: fc.boolean(),
    });
    fc.assert(fc.property(record, (stash) => expect(read(encodeImageMeta(stash))).toEqual(stash)));
  });

  test("A stash of an old version lacks keys", () => {
    expect(read('{"Version":1,"pool":"rbd","image":"csi-vol-1","accessType":false}')).toEqual(STASH);
  });

  test("A stash of a new version may have more keys, and keys in another letter case", () => {
    expect(read('{"VERSION":9,"Pool":"rbd","IMAGE":"csi-vol-1","future":{"a":1},"AccessType":true}')).toEqual({
      ...STASH,
      nbd: true,
    });
  });

  test("A null in a stash counts as absent, as it does in Go", () => {
    expect(read('{"pool":"rbd","image":"csi-vol-1","radosNamespace":null}')).toEqual(STASH);
  });

  for (const [what, text] of [
    ["empty", ""],
    ["cut off", encodeImageMeta(STASH).slice(0, 40)],
    ["not an object", "[]"],
    ["without an image", '{"pool":"rbd"}'],
    ["without a pool", '{"image":"csi-vol-1"}'],
    ["of other types", '{"pool":"rbd","image":7}'],
    ["with a word for a boolean", '{"pool":"rbd","image":"x","encrypted":"false"}'],
  ] as const) {
    test(`A stash that is ${what} is corrupt`, () => expect(Result.isFailure(decodeImageMeta(text))).toBe(true));
  }

  test("The reader accepts or refuses any text as a stash, and never throws", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void decodeImageMeta(text)));
  });
});
