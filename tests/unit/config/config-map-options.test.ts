// mapOptions and unmapOptions: groups per mounter, and fuzz.
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { parseMapOptions } from "../../../lib/config/map-options.ts";

test.each([
  ["", "", ""],
  ["lock_on_read,queue_depth=1024", "lock_on_read,queue_depth=1024", ""],
  ["krbd:a,b;nbd:c", "a,b", "c"],
  ["nbd:try-netlink", "", "try-netlink"],
  [" KRBD : a ; Nbd : b ", "a", "b"],
  ["krbd:crush_location=zone:z1|rack:r1", "crush_location=zone:z1|rack:r1", ""],
  ["a;krbd:b", "b", ""],
  ["krbd:b;a", "a", ""],
  ["krbd:a;krbd:", "", ""],
  ["a; ;", "a", ""],
  [";;nbd:x;;", "", "x"],
  ["lock_on_read,queue_depth=9\n", "lock_on_read,queue_depth=9", ""],
  ["lock_on_read, queue_depth=9", "lock_on_read,queue_depth=9", ""],
  ["lock_on_read,\r\n\tqueue_depth=9,\r\n", "lock_on_read,queue_depth=9", ""],
  ["lock_on_read\nqueue_depth=9\n", "lock_on_read,queue_depth=9", ""],
  ["krbd:a,\n  b;\nnbd:c\n", "a,b", "c"],
  ["krbd:\n  a\n  b\nnbd:\n  c\n", "a,b", "c"],
  ["\n", "", ""],
  ["a,,b,", "a,b", ""],
])("The parser reads the map options %p", (text, krbd, nbd) => {
  expect(parseMapOptions(text)).toEqual(Result.succeed({ krbd, nbd }));
});

test.each([
  ["crush_location=zone:z1", 'unknown mounter "crush_location=zone"'],
  ["rbd:a", 'unknown mounter "rbd"'],
  [":a", 'unknown mounter ""'],
  ["krbd:a;constructor:b", 'unknown mounter "constructor"'],
  ["a\0b", "control characters"],
  ["krbd:a\tb", "control characters"],
  ["lock_on_read\nfuse:x", "unknown mounter"],
])("The parser refuses the map options %p", (text, reason) => {
  const parsed = parseMapOptions(text);
  expect(Result.isFailure(parsed) ? parsed.failure : "").toContain(reason);
});

test("No map options make the parser throw, and each result is a list of trimmed, printable parts of the text", () => {
  const piece = fc.oneof(fc.constantFrom("krbd", "nbd", "NBD", ":", ";", " ", ",", "="), fc.string({ unit: "binary" }));
  const text = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(""));
  fc.assert(
    fc.property(text, (options) => {
      const parsed = parseMapOptions(options);
      if (Result.isFailure(parsed)) {
        expect(parsed.failure).not.toMatch(/[\n\0]/);
        return;
      }
      for (const part of Object.values(parsed.success) as Array<string>) {
        expect(part).not.toMatch(/[\n\0;]/);
        for (const option of part === "" ? [] : part.split(",")) {
          expect(options).toContain(option);
          expect(option).not.toBe("");
          expect(option).toBe(option.trim());
        }
      }
    }),
    { numRuns: 1000 },
  );
});
