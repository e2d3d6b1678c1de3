/**
 * One run of `bun test` over some folders, counted from its own report.
 *
 * Invariants:
 * 1. A run that ends without a report, by its limit or by a crash counts as a failure, never as nothing.
 * 2. A test that was skipped is named: it counts neither as passed nor as failed. One that failed is named at the end.
 * 3. Past its limit, or when what it needs is gone, a run is killed with everything in its process group.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { argvAt, envAt, type Place } from "./place.ts";

/** Folder of the checkout. */
export const checkout = dirname(dirname(import.meta.dir));

export interface SuiteRun {
  readonly name: string;
  /** Folders of test files, relative to the checkout. */
  readonly folders: ReadonlyArray<string>;
  readonly place: Place;
  /** Where the report is written; a folder visible at `place` under the same path. */
  readonly reports: string;
  readonly limitMs: number;
  /** Default limit of one test, for those that name none. */
  readonly testLimitMs: number;
  /** Further arguments of `bun test`. */
  readonly flags?: ReadonlyArray<string>;
  /** A test that fails is tried once more; the log shows which. For suites that depend on the machine's pace. */
  readonly secondAttempt?: boolean;
  /** Aborted, with the reason, when what the run needs is gone: the cluster, in most cases. */
  readonly needs?: AbortSignal;
}

export interface Outcome {
  readonly name: string;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: ReadonlyArray<string>;
  /** Each test that failed, with the reason on one line. */
  readonly failures?: ReadonlyArray<string>;
  readonly seconds: number;
  /** Why the run did not come to its end. */
  readonly cutShort?: string;
}

const messageOf = (reason: unknown): string => (reason instanceof Error ? reason.message : String(reason));

/** A run that failed as a whole; its reason is printed here, and its first line once more at the end. */
export const failedRun = (name: string, reason: unknown, started = Date.now()): Outcome => {
  const text = messageOf(reason);
  console.error(`\n${name}: ${text}`);
  return {
    name,
    passed: 0,
    failed: 1,
    skipped: [],
    seconds: (Date.now() - started) / 1000,
    cutShort: text.split("\n")[0] ?? "",
  };
};

/** As `failedRun`, of a run that is not begun: its reason was printed in full when it arose. */
export const notBegun = (name: string, reason: unknown): Outcome =>
  failedRun(name, `not begun: ${messageOf(reason).split("\n")[0]}`);

/** Whether a folder of the checkout holds test files. */
export const hasTests = (folder: string): boolean =>
  existsSync(join(checkout, folder)) &&
  readdirSync(join(checkout, folder), { recursive: true, encoding: "utf8" }).some((name) => name.endsWith(".test.ts"));

const entities: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
const attribute = (element: string, name: string): string =>
  (new RegExp(` ${name}="([^"]*)"`).exec(element)?.[1] ?? "").replaceAll(/&(#?\w+);/g, (entity, word: string) =>
    word.startsWith("#") ? String.fromCodePoint(Number(word.slice(1))) : (entities[word] ?? entity),
  );
const testOf = (element: string): string =>
  [attribute(element, "file"), attribute(element, "classname"), attribute(element, "name")]
    .filter((part) => part !== "")
    .join(": ");

const MOST_OF_A_FAILURE = 1000;

/** A failure on one line: its first line, and what a comparison found different. */
const summaryOf = (message: string): string => {
  const [first = "", ...rest] = message.split("\n");
  const different = rest.filter((line) => /^[-+] /.test(line) && !/^[-+] (Expected|Received) {2}[-+] /.test(line));
  return [first, ...different.map((line) => line.replaceAll(/\s+/g, " "))].join(" ").slice(0, MOST_OF_A_FAILURE);
};

interface Report {
  readonly tests: number;
  readonly failed: number;
  readonly skipped: ReadonlyArray<string>;
  readonly failures: ReadonlyArray<string>;
}

/** Counts and names of a JUnit report as Bun writes it; undefined where there is none. */
export const readReport = (file: string): Report | undefined => {
  if (!existsSync(file)) return undefined;
  const text = readFileSync(file, "utf8");
  const total = /<testsuites [^>]*>/.exec(text)?.[0];
  if (total === undefined) return undefined;
  const skipped = text.matchAll(/(<testcase [^>]*[^/])>\s*<skipped/g);
  const failures = text.matchAll(/(<testcase [^>]*[^/])>\s*(<failure [^>]*>)/g);
  return {
    tests: Number(attribute(total, "tests")),
    failed: Number(attribute(total, "failures")),
    skipped: [...skipped].map(([, element = ""]) => testOf(element)),
    failures: [...failures].map(
      ([, element = "", failure = ""]) => `${testOf(element)}: ${summaryOf(attribute(failure, "message"))}`,
    ),
  };
};

/** What a run with those flags of `bun test` amounts to, from its report and its exit status. */
export const judge = (
  name: string,
  report: string,
  exitCode: number,
  started: number,
  flags: ReadonlyArray<string> = [],
): Outcome => {
  const seconds = (Date.now() - started) / 1000;
  const found = readReport(report);
  if (found === undefined) {
    return { name, passed: 0, failed: 1, skipped: [], seconds, cutShort: `exit status ${exitCode}, and no report` };
  }
  const passed = found.tests - found.failed - found.skipped.length;
  // who asks for some tests by name need not be told of all others
  const skipped = flags.some((flag) => /^(-t|--test-name-pattern)\b/.test(flag)) ? [] : found.skipped;
  const counted = { name, passed, failed: found.failed, skipped, failures: found.failures, seconds };
  if (found.failed > 0 || exitCode === 0) return counted;
  const beside = `exit status ${exitCode}, although each test passed: an error outside of the tests, or after the last one`;
  return { ...counted, failed: 1, failures: [beside] };
};

type Tests = Pick<SuiteRun, "folders" | "testLimitMs" | "flags" | "secondAttempt">;

/** The command that runs the tests of some folders and writes its report. */
export const bunTest = (tests: Tests, report: string): Array<string> => [
  process.execPath,
  "test",
  `--timeout=${tests.testLimitMs}`,
  ...(tests.secondAttempt === true ? ["--retry=1"] : []),
  "--reporter=junit",
  `--reporter-outfile=${report}`,
  ...(tests.flags ?? []),
  ...tests.folders.map((folder) => `./${folder}/`),
];

export const runSuite = async (suite: SuiteRun): Promise<Outcome> => {
  const started = Date.now();
  const reasonToStop = (): unknown => (suite.needs?.aborted === true ? suite.needs.reason : undefined);
  if (reasonToStop() !== undefined) return notBegun(suite.name, reasonToStop());
  const report = join(suite.reports, `${suite.name}.xml`);
  rmSync(report, { force: true });
  const place: Place = { ...suite.place, cwd: checkout };
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...argvAt(place, bunTest(suite, report))], {
    cwd: checkout,
    env: envAt(place),
    stdio: ["ignore", "inherit", "inherit"],
    detached: true,
  });
  const endGroup = () => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // nothing of the group is left
    }
  };
  const timer = setTimeout(() => {
    console.error(`${suite.name}: no end within ${suite.limitMs / 1000} s, killed`);
    endGroup();
  }, suite.limitMs);
  const interrupted = () => {
    endGroup();
    process.exit(130);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, interrupted);
  suite.needs?.addEventListener("abort", endGroup);
  const exitCode = await child.exited;
  suite.needs?.removeEventListener("abort", endGroup);
  clearTimeout(timer);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
  endGroup();
  if (reasonToStop() !== undefined) return failedRun(suite.name, reasonToStop(), started);
  return judge(suite.name, report, exitCode, started, suite.flags);
};

/**
 * The closing lines of a run: each suite, the tests that failed, what was left out and why, and the sum alone on the
 * last line.
 * With CI=true a part left out is a failure. Sets the exit status.
 */
export const close = (outcomes: ReadonlyArray<Outcome>, leftOut: ReadonlyArray<string>): void => {
  const skipped = outcomes.flatMap((outcome) => outcome.skipped.map((test) => `${outcome.name}: ${test}`));
  const missing = [...leftOut, ...skipped];
  console.log("");
  for (const { name, passed, failed, seconds, cutShort } of outcomes) {
    const reason = cutShort === undefined ? "" : `: ${cutShort}`;
    console.log(`${name.padEnd(20)} ${passed} passed, ${failed} failed, ${seconds.toFixed(0)} s${reason}`);
  }
  for (const { name, failures = [], cutShort } of outcomes) {
    for (const reason of [...failures, ...(cutShort === undefined ? [] : [cutShort])]) {
      console.log(`failed: ${name}: ${reason}`);
    }
  }
  for (const part of missing) console.log(`left out: ${part}`);
  const passed = outcomes.reduce((sum, outcome) => sum + outcome.passed, 0);
  const failures = outcomes.reduce((sum, outcome) => sum + outcome.failed, 0);
  const failed = failures + (process.env["CI"] === "true" ? missing.length : 0);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
};
