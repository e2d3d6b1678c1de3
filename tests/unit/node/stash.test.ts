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
};
const read = (text: string) => Result.getOrUndefined(decodeImageMeta(text));

describe("a stash", () => {
  test("has all keys, in their order, without a space or a newline", () => {
    expect(encodeImageMeta(STASH)).toBe(
      '{"Version":3,"pool":"rbd","radosNamespace":"","image":"csi-vol-1","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}',
    );
  });

  test("escapes what Go escapes", () => {
    expect(encodeImageMeta({ ...STASH, unmapOptions: "a<b>&\u2028" })).toContain(
      String.raw`"a\u003cb\u003e\u0026\u2028"`,
    );
  });

  test("of any content is read back as it was", () => {
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
    });
    fc.assert(fc.property(record, (stash) => expect(read(encodeImageMeta(stash))).toEqual(stash)));
  });

  test("of an old version lacks keys", () => {
    expect(read('{"Version":1,"pool":"rbd","image":"csi-vol-1","accessType":false}')).toEqual(STASH);
  });

  test("of a new version has more, and keys in another case", () => {
    expect(read('{"VERSION":9,"Pool":"rbd","IMAGE":"csi-vol-1","future":{"a":1},"AccessType":true}')).toEqual({
      ...STASH,
      nbd: true,
    });
  });

  test("with null has what Go has then: nothing", () => {
    expect(read('{"pool":"rbd","image":"csi-vol-1","radosNamespace":null}')).toEqual(STASH);
  });

  for (const [what, text] of [
    ["empty", ""],
    ["cut off", encodeImageMeta(STASH).slice(0, 40)],
    ["no object", "[]"],
    ["without an image", '{"pool":"rbd"}'],
    ["without a pool", '{"image":"csi-vol-1"}'],
    ["of other types", '{"pool":"rbd","image":7}'],
    ["with a word for a boolean", '{"pool":"rbd","image":"x","encrypted":"false"}'],
  ] as const) {
    test(`that is ${what} is corrupt`, () => expect(Result.isFailure(decodeImageMeta(text))).toBe(true));
  }

  test("of any text is read or refused, and never thrown", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void decodeImageMeta(text)));
  });
});
