/** The archive writer, read back by GNU tar. */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "bun:test";
import { type Entry, entriesOf, tar } from "../../container/tar.ts";
import { must } from "../rig/place.ts";

const work = mkdtempSync(join(tmpdir(), "csi-rbd-tar-"));
afterAll(() => rmSync(work, { recursive: true }));

const file = (name: string, text: string): Entry => ({ name, mode: 0o640, content: { file: Buffer.from(text) } });
const deep = `${"a".repeat(90)}/${"b".repeat(90)}`;

test("GNU tar reads back what a folder had: contents, modes, links, and names longer than a field", async () => {
  const [from, to] = [join(work, "from"), join(work, "to")];
  for (const folder of [join(from, deep), to]) mkdirSync(folder, { recursive: true });
  writeFileSync(join(from, "block"), "x".repeat(512));
  writeFileSync(join(from, deep, "file"), "deep");
  symlinkSync("a", join(from, "link"));
  // a link to a folder is a link, and what is behind it is not taken twice
  symlinkSync("a".repeat(90), join(from, "to-folder"));
  chmodSync(join(from, "block"), 0o751);
  const archive = join(work, "archive.tar");
  writeFileSync(archive, tar(entriesOf(from), 1_000_000_000));
  const listed = (await must({}, ["tar", "-tvf", archive, "--numeric-owner", "--full-time", "--utc"]))
    .trim()
    .split("\n");
  expect(listed.length).toBe(6);
  for (const line of listed) expect(line).toMatch(/^\S+ 0\/0 +\d+ 2001-09-09 01:46:40 /);
  await must({}, ["tar", "-xf", archive, "-C", to]);
  expect(readFileSync(join(to, "block"), "utf8")).toBe("x".repeat(512));
  expect(lstatSync(join(to, "block")).mode & 0o7777).toBe(0o751);
  expect(readFileSync(join(to, deep, "file"), "utf8")).toBe("deep");
  expect(readlinkSync(join(to, "to-folder"))).toBe("a".repeat(90));
});

test("the order in which entries are given does not matter", () => {
  const entries = ["b", "a/c", "a-", "a"].map((name) => file(name, name));
  expect(tar(entries, 1)).toEqual(tar(entries.toReversed(), 1));
});

test("a name or a link that does not fit is an error", () => {
  expect(() => tar([file("n".repeat(101), "")], 1)).toThrow("cannot hold the name");
  expect(() => tar([{ name: "l", mode: 0o777, content: { link: "t".repeat(101) } }], 1)).toThrow(
    "cannot hold the link",
  );
});
