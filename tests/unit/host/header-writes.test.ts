/** How the header of a layer with integrity goes on its device: part by part, and no part after a sign to end. */
import { expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { headerWrites, writeHeader } from "../../../lib/host/crypt-integrity.ts";

const HEADER = [
  { at: 0, bytes: new Uint8Array(64 << 10).fill(1) },
  { at: 4 << 20, bytes: new Uint8Array(64 << 10).fill(2) },
  { at: 8 << 20, bytes: new Uint8Array(64 << 10).fill(3) },
];
const SIZE = 16 << 20;

/** What is on a device after the first writes. */
const after = (count: number): Buffer => {
  const all = Buffer.alloc(SIZE);
  for (const pieces of headerWrites(HEADER).slice(0, count)) for (const [at, bytes] of pieces) all.set(bytes, at);
  return all;
};

/** Writes to a file in place of a device. Both are called before the n-th part after the beginning, from 1. */
const written = (
  forget: (part: number, fd: number) => void,
  left: (part: number) => void = () => undefined,
): { readonly bytes: Buffer; readonly error: unknown } => {
  const folder = mkdtempSync(join(tmpdir(), "header-"));
  const path = join(folder, "device");
  writeFileSync(path, Buffer.alloc(SIZE));
  const fd = openSync(path, "r+");
  let [forgotten, asked] = [0, 0];
  let error: unknown;
  try {
    writeHeader(fd, HEADER, {
      forget: () => forget((forgotten += 1), fd),
      left: () => left((asked += 1)),
    });
  } catch (thrown) {
    error = thrown;
  } finally {
    closeSync(fd);
  }
  const bytes = readFileSync(path);
  rmSync(folder, { recursive: true });
  return { bytes, error };
};

test("A header is written in four parts, and before each but the first the device is read anew", () => {
  const parts: number[] = [];
  const { bytes, error } = written((part) => void parts.push(part));
  expect([error, parts, bytes.equals(after(4))]).toEqual([undefined, [1, 2, 3], true]);
});

test.each([1, 2, 3])("Once another client has written, no part follows: before part %d", (at) => {
  const theirs = Buffer.alloc(4096, 9);
  const { bytes, error } = written((part, fd) => part === at && void writeSync(fd, theirs, 0, theirs.length, 0));
  const expected = after(at);
  expected.set(theirs, 0);
  expect([String(error), bytes.equals(expected)]).toEqual([expect.stringContaining("another client"), true]);
});

test.each([1, 2, 3])("Once the time is over, no part follows: before part %d", (at) => {
  const { bytes, error } = written(
    () => undefined,
    (part) => {
      if (part === at) throw new Error("too late");
    },
  );
  expect([String(error), bytes.equals(after(at))]).toEqual([expect.stringContaining("too late"), true]);
});
