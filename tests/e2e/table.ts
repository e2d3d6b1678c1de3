/**
 * docs/conformance.md: what came of each spec, at which commit of the driver. `npm run e2e -- --table` writes it from the
 * results in the cache; a spec that this machine has no result of keeps the row that it has.
 *
 * Invariant: a row is of a spec that was run, at a commit.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../rig/suite.ts";
import { isCommitted, type Results } from "./results.ts";

export interface Row {
  readonly spec: string;
  /** passed, FAILED, or "does not apply: …". */
  readonly result: string;
  readonly seconds: string;
  readonly commit: string;
  readonly day: string;
}

export const TABLE = join(checkout, "docs", "conformance.md");

const ROW = /^\| (.+) \| (.+) \| (\d+) \| ([0-9a-f]+) \| (\d{4}-\d{2}-\d{2}) \|$/gm;
/** One line of a cell: Markdown reads a bar as the cell's end. */
const cell = (text: string): string => text.replaceAll("|", "/").replaceAll(/\s+/g, " ").trim();

export const readRows = (text: string): ReadonlyArray<Row> =>
  [...text.matchAll(ROW)].map(([, spec = "", result = "", seconds = "", commit = "", day = ""]) => ({
    spec,
    result,
    seconds,
    commit,
    day,
  }));

/** Those of the document as it is. */
export const writtenRows = (): ReadonlyArray<Row> => (existsSync(TABLE) ? readRows(readFileSync(TABLE, "utf8")) : []);

interface TimedRow extends Row {
  /** More precise than its day. */
  readonly at: string;
}

const rowsOf = ({ commit, specs }: Results): ReadonlyArray<TimedRow> =>
  Object.entries(specs).map(([spec, { result, reason, seconds, at }]) => ({
    spec: cell(spec),
    result: result === "failed" ? "FAILED" : cell([result, ...(reason === "" ? [] : [reason])].join(": ")),
    seconds: seconds.toFixed(0),
    commit,
    day: at.slice(0, 10),
    at,
  }));

/** The newest result of each spec. */
export const newest = (written: ReadonlyArray<Row>, all: ReadonlyArray<Results>): ReadonlyArray<TimedRow> => {
  const rows = new Map<string, TimedRow>(written.map((row) => [row.spec, { ...row, at: row.day }]));
  for (const row of all.filter(({ commit }) => isCommitted(commit)).flatMap(rowsOf)) {
    if (row.at >= (rows.get(row.spec)?.at ?? "")) rows.set(row.spec, row);
  }
  return [...rows.values()].toSorted((a, b) => (a.spec < b.spec ? -1 : 1));
};

/** When the newest result of a spec was had, as ISO 8601 writes it; "": nobody has run it yet. */
export const lastRun = (written: ReadonlyArray<Row>, all: ReadonlyArray<Results>): ((spec: string) => string) => {
  const runs = new Map(newest(written, all).map(({ spec, at }) => [spec, at]));
  return (spec) => runs.get(cell(spec)) ?? "";
};

const list = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .toSorted(([, a], [, b]) => b - a)
    .map(([reason, count]) => `- ${count}: ${reason}`)
    .join("\n");

/** The document. */
export const document = (rows: ReadonlyArray<Row>, { kubernetes, all, leftOut }: Results): string => {
  const without = Object.values(leftOut).reduce((sum, count) => sum + count, 0);
  const count = (result: string) => rows.filter((row) => row.result.startsWith(result)).length;
  return `# Conformance

\`npm run e2e\` runs the end-to-end suite that Kubernetes ${kubernetes} has for CSI drivers (\`External Storage\`), with the chart of
this checkout and [values for topology, capacity and group snapshots](../tests/e2e/driver.ts), on a Kubernetes of one node
with a real Ceph. The node is a virtual machine and emulated, so times are not those of a machine. \`npm run e2e -- --table\`
writes this file: each row is a spec's newest run, and the commit is the last one that changed the driver or its chart, as it
was on the machine of the run. A commit that this history does not have reached it together with others, as the next one of
that day or later.

The suite has ${all} specs for [what it is told of the driver](../tests/e2e/driver.ts). ${without} are not run:

${list(leftOut)}

Of the other ${all - without}, ${rows.length} have been run: ${count("passed")} passed, ${count("FAILED")} failed, and ${count("does not apply")} do not apply to this driver or
this cluster, in the words of the suite.

| spec | result | seconds | commit | day |
| --- | --- | --- | --- | --- |
${rows.map(({ spec, result, seconds, commit, day }) => `| ${spec} | ${result} | ${seconds} | ${commit} | ${day} |`).join("\n")}
`;
};

/** Writes the document. */
export const writeTable = (all: ReadonlyArray<Results>): void => {
  const last = all
    .filter(({ commit }) => isCommitted(commit))
    .toSorted((a, b) => latest(a).localeCompare(latest(b)))
    .at(-1);
  if (last === undefined) throw new Error("no results of a commit on this machine: run npm run e2e first");
  writeFileSync(TABLE, document(newest(writtenRows(), all), last));
};

const latest = ({ specs }: Results): string =>
  Object.values(specs)
    .map(({ at }) => at)
    .toSorted()
    .at(-1) ?? "";
