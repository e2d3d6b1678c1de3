/** The check of the import table, over a tree that is wrong in every way. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const top = mkdtempSync(join(tmpdir(), "csi-rbd-rooms-"));
afterAll(() => rmSync(top, { recursive: true }));

const FILES: Readonly<Record<string, string>> = {
  "README.md": "## How it is built\n\n    lib/text   words\n",
  "lib/loose.ts": "",
  "lib/text/up.ts": 'import type {\n  Flag,\n} from "../config/flags.ts";\n',
  "lib/config/flags.ts": 'export * from "../text/up.ts";\nexport interface Flag {}\n',
  "lib/csi/dynamic.ts": 'export const late = () => import("../text/up.ts");\n',
  "lib/host/cell.ts": "",
  "lib/node/stage.ts": 'import { dlopen } from "bun:ffi";\n',
  "lib/process/compose.ts": 'import "../host/cell.ts";\n',
  "services/main.ts": '// import { x } from "../lib/text/up.ts"\n',
  "tests/unit/x.test.ts": 'import { Flag } from "../../lib/config/flags.ts";\n',
  "container/build.ts": "",
};

describe("the import table", () => {
  for (const [name, text] of Object.entries(FILES)) {
    mkdirSync(join(top, dirname(name)), { recursive: true });
    writeFileSync(join(top, name), text);
  }
  const { stderr, exitCode } = Bun.spawnSync(["node", join(import.meta.dir, "rooms.mjs"), top]);
  const lines = stderr.toString().split("\n");

  test.each([
    ["a loose file", "rooms: lib/loose.ts is in no room: move it into a folder that says what it is about"],
    [
      "an import against the table, of a type",
      "rooms: lib/text/up.ts imports lib/config/flags.ts: lib/text must not import lib/config",
    ],
    ["a line that nothing needs", "rooms: lib/csi does not import lib/gen: take it out of its line"],
    ["a circle", "rooms: rooms import each other in a circle: lib/text -> lib/config -> lib/text"],
    ["a guarded file", "rooms: lib/process/compose.ts imports lib/host/cell.ts, which is for lib/host alone"],
    [
      "a guarded package",
      "rooms: lib/node/stage.ts imports bun:ffi, which is for lib/ceph/cell, lib/host, lib/process, tests/ceph, tests/unit alone",
    ],
    ["a room that README lacks", 'rooms: README.md, "How it is built", has no line for lib/config'],
  ])("names %s", (_, line) => {
    expect(lines).toContain(line);
    expect(exitCode).toBe(1);
  });

  test("takes a late import for one, and a comment for none", () => {
    expect(lines).not.toContain("rooms: lib/csi does not import lib/text: take it out of its line");
    expect(lines.filter((line) => line.includes("services/main.ts"))).toEqual([]);
  });

  test("holds for this checkout", () => {
    const own = Bun.spawnSync(["node", join(import.meta.dir, "rooms.mjs")]);
    expect(own.stderr.toString()).toBe("");
  });
});
