/** What the documentation says in tables is what tests hold the code to. */
import { expect, test } from "bun:test";
import { Glob } from "bun";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FLAGS } from "../../lib/config/flag-table.ts";

const checkout = join(import.meta.dir, "../..");
const read = (path: string) => readFileSync(join(checkout, path), "utf8");

interface Row {
  readonly rpc: string;
  readonly case: string;
  readonly calls: readonly string[];
}

test("docs/calls.md is the tables of calls, row by row", () => {
  const tables = [...new Glob("tests/golden/*-calls.json").scanSync(checkout)].toSorted();
  expect(tables.length).toBeGreaterThan(0);
  const rows = tables.flatMap((path) => JSON.parse(read(path)) as readonly Row[]);
  const lines = rows.map(
    ({ rpc, case: what, calls }) =>
      `| ${rpc} | ${what} | ${calls.length} | ${calls.map((call) => `\`${call}\``).join(" ")} |`,
  );
  const documented = read("docs/calls.md")
    .split("\n")
    .filter((line) => line.startsWith("| ") && !line.startsWith("| RPC") && !line.startsWith("| ---"));
  expect(documented).toEqual(lines);
});

test("README or a page of docs/ names every flag that has an effect", () => {
  const pages = ["README.md", ...new Glob("docs/*.md").scanSync(checkout)].map(read).join("\n");
  const named = new Set([...pages.matchAll(/--([a-z][a-z-]*)/g)].map(([, name]) => name));
  expect(Object.keys(FLAGS).filter((name) => !named.has(name))).toEqual([]);
});
