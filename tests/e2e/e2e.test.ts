/** What is told and kept of the specs: which are run, what a report says of one, and the table in docs/conformance.md. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Results } from "./results.ts";
import { judge } from "./run-spec.ts";
import { countLeftOut, focusOf, inDrawnOrder, leftOut, readReport, shortName, specsOf } from "./specs.ts";
import { document, lastRun, newest, readRows, TABLE } from "./table.ts";

const NAME = "[Testpattern: Dynamic PV (block volmode)] volumes should store data (a+b)";
const TEXT = `External Storage [Driver: rbd.csi.ceph.com] ${NAME}`;

const report = (State: string, message?: string, more: object = {}) => ({
  LeafNodeType: "It",
  ContainerHierarchyTexts: [
    "External Storage [Driver: rbd.csi.ceph.com]",
    "",
    "[Testpattern: Dynamic PV (block volmode)] volumes",
  ],
  ContainerHierarchyLabels: [null, [], ["Slow"]],
  LeafNodeText: "should store data (a+b)",
  LeafNodeLabels: ["Feature:VolumeSnapshotDataSource"],
  State,
  ...(message === undefined ? {} : { Failure: { Message: message } }),
  ...more,
});
const reports = (...all: ReadonlyArray<object>) => readReport(JSON.stringify([{ SpecReports: all }]));

describe("the specs of a report", () => {
  test("have the text that Ginkgo's focus is matched with, and the labels of all that they are in", () => {
    const elsewhere = report("passed", undefined, { ContainerHierarchyTexts: ["[sig-node] Pods"] });
    const hook = { ...report("passed"), LeafNodeType: "BeforeSuite" };
    expect(specsOf(reports(report("passed"), elsewhere, hook))).toEqual([
      { text: TEXT, labels: ["Slow", "Feature:VolumeSnapshotDataSource"] },
    ]);
    expect(shortName(TEXT)).toBe(NAME);
  });

  test("are focused alone", () => {
    const focus = new RegExp(focusOf(TEXT));
    expect(focus.test(`Kubernetes e2e suite ${TEXT}`)).toBe(true);
    expect(focus.test(`Kubernetes e2e suite ${TEXT} twice`)).toBe(false);
    expect(focus.test(`Kubernetes e2e suite ${TEXT.replace("+", "a")}`)).toBe(false);
  });

  test.each([
    ["Slow", "slow"],
    ["Disruptive", "disruptive"],
    ["Feature:Windows", "the feature Windows"],
    ["Feature:snapshotmetadata", "the namespace of a driver that the suite itself has installed"],
    ["Feature:VolumeSnapshotDataSource", undefined],
    ["Feature:volumegroupsnapshot", undefined],
    ["Serial", undefined],
  ])("with the label %s: left out, because %s", (label, reason) => {
    const found = leftOut({ text: TEXT, labels: [label] });
    if (reason === undefined) expect(found).toBeUndefined();
    else expect(found).toContain(reason);
  });

  test("that are left out are counted by their reason", () => {
    const labels = [["Slow"], ["Slow"], [], ["Feature:SELinux"]];
    expect(countLeftOut(labels.map((each) => ({ text: TEXT, labels: each })))).toEqual({
      slow: 2,
      "needs the feature SELinux, which the cluster has not": 1,
    });
  });

  test("are drawn in an order that the commit alone decides", () => {
    const specs = Array.from({ length: 40 }, (_, at) => ({ text: `spec ${at}`, labels: [] }));
    const drawn = inDrawnOrder(specs, "0123456789ab");
    expect(drawn.map(({ text }) => text).toSorted()).toEqual(specs.map(({ text }) => text).toSorted());
    expect(inDrawnOrder(specs.toReversed(), "0123456789ab")).toEqual(drawn);
    expect(inDrawnOrder(specs, "ba9876543210")).not.toEqual(drawn);
  });
});

describe("a report says of a spec that it", () => {
  const other = report("passed", undefined, { LeafNodeText: "should do another thing" });
  test("passed", () => {
    expect(judge(reports(other, report("passed")), TEXT)).toEqual({ result: "passed", reason: "" });
  });
  test("does not apply, in the suite's words", () => {
    const reason = "Driver does not support volume type";
    expect(judge(reports(other, report("skipped", reason)), TEXT)).toEqual({ result: "does not apply", reason });
  });
  test.each(["failed", "timedout", "panicked", "interrupted"])("failed, where its state is %s", (state) => {
    expect(judge(reports(report(state, "why")), TEXT)).toEqual({ result: "failed", reason: "why" });
  });
  test("failed, where it was not run: the reason is that of the hook before it", () => {
    const hook = { ...report("failed", "no API server"), LeafNodeType: "SynchronizedBeforeSuite" };
    expect(judge(reports(hook, report("skipped")), TEXT)).toEqual({ result: "failed", reason: "no API server" });
    expect(judge(reports(other), TEXT).result).toBe("failed");
  });
});

const results = (commit: string, at: string, result: Results["specs"][string]["result"]): Results => ({
  commit,
  kubernetes: "1.36.3",
  all: 5,
  leftOut: { slow: 2 },
  specs: { [NAME]: { result, reason: result === "passed" ? "" : "says | who", seconds: 61.4, at } },
});
const OLD = results("aaaaaaaaaaaa", "2026-01-01T10:00:00.000Z", "does not apply");
const NEW = results("bbbbbbbbbbbb", "2026-01-01T11:00:00.000Z", "passed");

describe("the table", () => {
  test("has the newest result of each spec, and keeps rows that no result replaces", () => {
    const kept = { spec: "another", result: "passed", seconds: "7", commit: "cccccccccccc", day: "2025-12-31" };
    const written = [kept, { ...kept, spec: NAME }];
    const row = { spec: NAME, result: "passed", seconds: "61", commit: "bbbbbbbbbbbb", day: "2026-01-01" };
    expect(newest(written, [NEW, OLD])).toMatchObject([row, kept]);
    expect(newest(written, [OLD])).toMatchObject([
      { ...row, result: "does not apply: says / who", commit: "aaaaaaaaaaaa" },
      kept,
    ]);
  });

  test("and the results say when a spec was run last", () => {
    const written = [{ spec: "another", result: "passed", seconds: "7", commit: "cccccccccccc", day: "2025-12-31" }];
    const last = lastRun(written, [NEW, OLD]);
    expect([NAME, "another", "a third"].map(last)).toEqual(["2026-01-01T11:00:00.000Z", "2025-12-31", ""]);
  });

  test("has no result of files that no commit has", () => {
    expect(newest([], [results("aaaaaaaaaaaa-changed", "2026-01-01T10:00:00.000Z", "passed")])).toEqual([]);
  });

  test("has a failure as such", () => {
    expect(newest([], [results("aaaaaaaaaaaa", "2026-01-01T10:00:00.000Z", "failed")])).toMatchObject([
      { result: "FAILED" },
    ]);
  });

  test("is read as it was written", () => {
    const rows = newest([], [OLD]);
    const text = document(rows, OLD);
    expect(rows).toMatchObject([...readRows(text)]);
    expect(text).toContain("Of the other 3, 1 have been run: 0 passed, 0 failed, and 1 do not apply");
    expect(text).toContain("- 2: slow");
  });

  test("of this checkout has only rows that the command writes", () => {
    const text = readFileSync(TABLE, "utf8");
    const lines = text.split("\n").filter((line) => /^\| (?!spec \||---)/.test(line));
    expect(lines.length).toBeGreaterThan(0);
    expect(readRows(text)).toHaveLength(lines.length);
  });
});
