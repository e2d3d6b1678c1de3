/** The bytes of KMIP: requests as a server takes them, and what is not an answer. */
import { expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  answerOf,
  dataIn,
  discoverVersions,
  encrypt,
  getKey,
  keyMaterialIn,
  requestOf,
  speaksOurVersion,
} from "../../../lib/kms/kmip/messages.ts";
import { bytes, decode, enumeration, integer, messageLength, structure, text } from "../../../lib/kms/kmip/ttlv.ts";

const BATCH_ID = Buffer.alloc(16, 0xab);
const hex = (message: Uint8Array) => Buffer.from(message).toString("hex");

test("A request for the versions has the bytes that PyKMIP takes", () => {
  expect(hex(requestOf(discoverVersions, BATCH_ID))).toBe(
    "42007801000000a0" +
      "4200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d0200000004" +
      "000000010000000042000f010000005842005c05000000040000001e000000004200930800000010abababababababababababababababab" +
      "4200790100000028420069010000002042006a0200000004000000010000000042006b02000000040000000400000000",
  );
});

test("A request to encrypt has the key's ID, AES-CBC with PKCS5, the text and the nonce, in this order", () => {
  expect(hex(encrypt("7", Buffer.from("abc"), Buffer.alloc(16, 1)).payload)).toBe(
    "4200790100000070" +
      "42009407000000013700000000000000" +
      "42002b010000003042001105000000040000000100000000" +
      "42005f0500000004000000030000000042002805000000040000000300000000" +
      "4200c208000000036162630000000000" +
      "42003d080000001001010101010101010101010101010101",
  );
});

test("A request for a key has its ID alone", () => {
  expect(hex(getKey("key-1").payload)).toBe("420079010000001042009407000000056b65792d31000000");
});

const response = (...items: readonly Uint8Array[]) =>
  structure(0x42_00_7b, structure(0x42_00_7a, integer(0x42_00_0d, items.length)), ...items);
const item = (operation: number, id: Uint8Array, ...more: readonly Uint8Array[]) =>
  structure(0x42_00_0f, enumeration(0x42_00_5c, operation), bytes(0x42_00_93, id), ...more);
const SUCCESS = enumeration(0x42_00_7f, 0);
const question = encrypt("7", Buffer.from("abc"), Buffer.alloc(16));

test("The text of an answer is what is below its payload", () => {
  const message = response(
    item(0x1f, BATCH_ID, SUCCESS, structure(0x42_00_7c, bytes(0x42_00_c2, Buffer.from("sealed")))),
  );
  const answer = answerOf(question, BATCH_ID, message);
  expect(answer.kind === "success" && Buffer.from(dataIn(answer.payload) ?? []).toString()).toBe("sealed");
});

test("A failure has its reason and its message", () => {
  const message = response(
    item(0x1f, BATCH_ID, enumeration(0x42_00_7f, 1), enumeration(0x42_00_7e, 12), text(0x42_00_7d, "no")),
  );
  expect(answerOf(question, BATCH_ID, message)).toEqual({ kind: "failure", reason: 12, message: "no" });
});

test.each([
  ["to another request", response(item(0x1f, Buffer.alloc(16), SUCCESS))],
  ["to another operation", response(item(0x20, BATCH_ID, SUCCESS))],
  ["with two items", response(item(0x1f, BATCH_ID, SUCCESS), item(0x1f, BATCH_ID, SUCCESS))],
  ["without an item", response()],
  ["that is a request", requestOf(question, BATCH_ID)],
  ["of no bytes", Buffer.alloc(0)],
])("An answer %s is not one", (_what, message) => {
  expect(answerOf(question, BATCH_ID, message).kind).toBe("other");
});

test("A key that is wrapped itself has no bytes for us", () => {
  const wrapped = structure(
    0x42_00_7c,
    structure(0x42_00_8f, structure(0x42_00_40, bytes(0x42_00_45, Buffer.alloc(40)))),
  );
  expect(keyMaterialIn(decode(wrapped))).toBeUndefined();
});

test("Only 1.4 is our version", () => {
  const version = (major: number, minor: number) =>
    structure(0x42_00_69, integer(0x42_00_6a, major), integer(0x42_00_6b, minor));
  const payload = (...versions: readonly Uint8Array[]) => decode(structure(0x42_00_7c, ...versions));
  expect(speaksOurVersion(payload(version(2, 0), version(1, 4)))).toBe(true);
  expect(speaksOurVersion(payload(version(2, 0), version(1, 3)))).toBe(false);
  expect(speaksOurVersion(payload())).toBe(false);
});

test("No bytes make the reader throw, and a message that is cut off is not one", () => {
  const whole = response(item(0x1f, BATCH_ID, SUCCESS));
  for (let end = 0; end < whole.length; end += 1) expect(decode(whole.subarray(0, end))).toBeUndefined();
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.uint8Array({ minLength: 1, maxLength: 8 }), (at, noise) => {
      const broken = Buffer.from(whole);
      broken.set(noise.subarray(0, broken.length - at), at);
      answerOf(question, BATCH_ID, broken);
      messageLength(broken);
    }),
  );
});

test("Structures that are nested without end are not read", () => {
  let nested: Buffer = Buffer.alloc(0);
  for (let depth = 0; depth < 1000; depth += 1) nested = structure(1, nested);
  expect(decode(nested)).toBeUndefined();
});
