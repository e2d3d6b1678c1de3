/** The list of mounts of a kernel that may leave one out while another goes: it counts when it was the same twice. */
import { expect, test } from "bun:test";
import { readTwice } from "../../../lib/host/paths.ts";

const reads = (...texts: readonly string[]) => {
  let n = 0;
  return { read: () => texts[Math.min(n++, texts.length - 1)] ?? "", count: () => n };
};

test("A list that is the same twice counts", () => {
  const { read, count } = reads("a b");
  expect([readTwice(read), count()]).toEqual(["a b", 2]);
});

test("A list that lacks a mount for a moment does not count", () => {
  const { read } = reads("a b c", "a c", "a b c", "a b c");
  expect(readTwice(read)).toBe("a b c");
});

test("A list that never stays the same is an error, and no answer", () => {
  let n = 0;
  expect(() => readTwice(() => String(n++))).toThrow("it changes all the time");
});
