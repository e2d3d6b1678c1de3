/**
 * `npm run e2e`: the end-to-end suite of Kubernetes for CSI drivers on the cluster of `npm run cluster`, one spec at a time,
 * one line each. It goes on where an earlier one ended: a spec that has a result at the driver's commit is not run again, and
 * those come first that nobody has run at any commit.
 *
 *   npm run e2e                    all that have no result yet
 *   npm run e2e -- --focus=TEXT    those whose text has TEXT in it, also those that have a result
 *   npm run e2e -- --draw=8        eight that apply, which the commit chooses, also those that have a result
 *   npm run e2e -- --minutes=15    begins no spec later than that
 *   npm run e2e -- --failed        those that failed
 *   npm run e2e -- --keep          leaves the cluster running until it is interrupted
 *   npm run e2e -- --on=DIR        on a cluster that --keep left running
 *   npm run e2e -- --table         writes docs/conformance.md, and runs nothing
 *
 * Not a test suite of `npm test`: it takes hours.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clusterLacks } from "../cluster/cluster.ts";
import { temporaryFolder } from "../rig/folder.ts";
import { kubernetesVersion } from "../rig/kubernetes/program.ts";
import { DEFINITION } from "./driver.ts";
import { suiteLacks, suitePrograms } from "./program.ts";
import {
  allResults,
  driverCommit,
  readResults,
  type Result,
  type Results,
  resultsFolder,
  writeResults,
} from "./results.ts";
import { runSpec } from "./run-spec.ts";
import { countLeftOut, inDrawnOrder, leftOut, listSpecs, shortName, type Spec } from "./specs.ts";
import { makeKubectl, openStanding, type Standing, startStanding } from "./standing.ts";
import { lastRun, writeTable, writtenRows } from "./table.ts";

const option = (name: string): string | undefined =>
  process.argv.find((arg) => arg.startsWith(`--${name}=`))?.slice(`--${name}=`.length);
const flag = (name: string): boolean => process.argv.includes(`--${name}`);
const OPTIONS = ["focus", "draw", "minutes", "on"];
const FLAGS = ["failed", "keep", "table"];

const checkArguments = (): void => {
  const known = (arg: string): boolean =>
    FLAGS.some((name) => arg === `--${name}`) || OPTIONS.some((name) => arg.startsWith(`--${name}=`));
  for (const name of ["draw", "minutes"]) {
    const value = option(name);
    if (value !== undefined && !/^[1-9]\d*$/.test(value)) {
      throw new Error(`--${name}=${value}: write how many, as in --${name}=8`);
    }
  }
  const unknown = process.argv.slice(2).find((arg) => !known(arg));
  if (unknown === undefined) return;
  const names = [...OPTIONS.map((name) => `--${name}=…`), ...FLAGS.map((name) => `--${name}`)];
  throw new Error(`no option ${unknown}: write ${names.join(", ")} or nothing`);
};

const interrupted = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => interrupted.abort());
const untilInterrupted = (): Promise<void> =>
  new Promise((done) => {
    if (interrupted.signal.aborted) done();
    interrupted.signal.addEventListener("abort", () => done());
  });

const started = performance.now();
const say = (line: string): void =>
  console.log(`    ${((performance.now() - started) / 1000).toFixed(1).padStart(7)} s   ${line}`);

/** Milliseconds from the start on, after which no spec begins. */
const limitMs = Number(option("minutes") ?? "Infinity") * 60_000;
const isLate = (): boolean => performance.now() - started >= limitMs;

interface Plan {
  readonly specs: ReadonlyArray<Spec>;
  /** So many that apply are enough. */
  readonly enough: number;
  /** How often one that fails is run. The draw is for machines that nobody watches, where two attempts tell a hiccup. */
  readonly attempts: number;
}

/** What is to be run. */
const plan = (specs: ReadonlyArray<Spec>, results: Results): Plan => {
  const [focus, draw] = [option("focus"), option("draw")];
  const known = ({ text }: Spec): Result | undefined => results.specs[shortName(text)];
  const runnable = specs.filter((spec) => leftOut(spec) === undefined);
  if (draw !== undefined) return { specs: inDrawnOrder(runnable, results.commit), enough: Number(draw), attempts: 2 };
  const all = { enough: Number.POSITIVE_INFINITY, attempts: 1 };
  if (focus !== undefined) return { ...all, specs: runnable.filter(({ text }) => text.includes(focus)) };
  if (flag("failed")) return { ...all, specs: runnable.filter((spec) => known(spec)?.result === "failed") };
  const last = lastRun(writtenRows(), allResults());
  const when = ({ text }: Spec): string => last(shortName(text));
  const without = runnable.filter((spec) => known(spec) === undefined);
  return { ...all, specs: without.toSorted((a, b) => when(a).localeCompare(when(b))) };
};

const logName = (spec: Spec): string =>
  `${shortName(spec.text)
    .replaceAll(/[^A-Za-z0-9]+/g, "-")
    .replaceAll(/^-|-$/g, "")
    .slice(0, 200)}.log`;

const tell = (at: string, spec: Spec, { result, reason, seconds }: Result, log: string): void => {
  const word = result === "failed" ? "FAILED" : result;
  console.log(`${at.padStart(7)}  ${word.padEnd(14)} ${seconds.toFixed(1).padStart(6)} s  ${shortName(spec.text)}`);
  if (result === "does not apply") console.log(`${" ".repeat(9)}${reason.split("\n")[0] ?? ""}`);
  if (result === "failed") console.log(`${" ".repeat(9)}${log}: ${reason.split("\n")[0] ?? ""}`);
};

interface Sum {
  passed: number;
  failed: number;
  /** A line for each that failed, as the suites of `npm test` write it. */
  failures: Array<string>;
}

/** Runs the specs, and keeps what comes of each. */
const runAll = async (
  { specs, enough, attempts }: Plan,
  results: Results,
  standing: Standing,
  runner: Omit<Parameters<typeof runSpec>[0], "kubeconfig">,
): Promise<Sum> => {
  const sum: Sum = { passed: 0, failed: 0, failures: [] };
  for (const [index, spec] of specs.entries()) {
    if (interrupted.signal.aborted || sum.passed + sum.failed >= enough) break;
    if (isLate()) {
      console.log(leftOutForTime(enough - sum.passed - sum.failed, specs.length - index));
      break;
    }
    const log = join(resultsFolder(results.commit), logName(spec));
    const run = async (): Promise<Result | undefined> => {
      const running = runSpec({ ...runner, kubeconfig: standing.kubeconfig }, spec, log, interrupted.signal);
      const result = await Promise.race([running, standing.broken]);
      if (result === undefined) return undefined;
      results.specs[shortName(spec.text)] = result;
      writeResults(results);
      tell(`${index + 1}/${specs.length}`, spec, result, log);
      return result;
    };
    let result = await run();
    for (let left = attempts - 1; left > 0 && result?.result === "failed"; left--) result = await run();
    if (result === undefined) break;
    if (result.result === "passed") sum.passed += 1;
    if (result.result === "failed") {
      sum.failed += 1;
      sum.failures.push(`failed: e2e: ${shortName(spec.text)}: ${result.reason.split("\n")[0] ?? ""}`);
    } else rmSync(log, { force: true });
  }
  return sum;
};

/** As the suites of `npm test` say it: of `wanted` that were to be run `left` are there at most. */
const leftOutForTime = (wanted: number, left: number): string =>
  `left out: e2e: ${Math.min(wanted, left)} specs: ${option("minutes")} minutes have passed`;

const newResults = (commit: string): Results => ({
  commit,
  kubernetes: kubernetesVersion,
  all: 0,
  leftOut: {},
  specs: {},
});

/** While it starts, an interruption ends this process, and what it started ends with it. */
const newCluster = (dir: string, agnhost: string): Promise<Standing> => {
  const cut = untilInterrupted().then((): never => {
    throw new Error("interrupted");
  });
  return Promise.race([startStanding(dir, agnhost, say), cut]);
};

const keepRunning = async (dir: string, { kubeconfig, broken }: Standing): Promise<void> => {
  console.log(`
the cluster stays until this is interrupted (Ctrl-C): npm run e2e -- --on=${dir}
  KUBECONFIG=${kubeconfig}`);
  await Promise.race([untilInterrupted(), broken]);
};

/** All that is known at a commit. */
const tellKnown = ({ commit, all, leftOut: without, specs }: Results): void => {
  const count = (wanted: Result["result"]) => Object.values(specs).filter(({ result }) => result === wanted).length;
  const runnable = all - Object.values(without).reduce((sum, each) => sum + each, 0);
  const known = `${count("passed")} passed, ${count("failed")} failed, ${count("does not apply")} do not apply`;
  console.log(`\nat ${commit}: of ${runnable} specs ${Object.keys(specs).length} have been run: ${known}`);
};

/** -> whether all is well. */
const runOn = async (dir: string, standing: Standing, act: () => Promise<Sum>): Promise<boolean> => {
  try {
    const sum = await act();
    const left = await (interrupted.signal.aborted ? Promise.resolve() : standing.cleared()).then(
      () => 0,
      (error: unknown) => {
        console.log(`failed: e2e: ${error instanceof Error ? error.message : String(error)}`);
        return 1;
      },
    );
    for (const failure of sum.failures) console.log(failure);
    console.log(`${sum.passed} passed, ${sum.failed + left} failed`);
    if (flag("keep") && !interrupted.signal.aborted) await keepRunning(dir, standing);
    return sum.failed + left === 0;
  } finally {
    await standing.stop();
  }
};

/** `undefined` where it takes too long. */
const inTime = async <A>(work: Promise<A>): Promise<A | undefined> => {
  if (limitMs === Number.POSITIVE_INFINITY) return work;
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), limitMs - (performance.now() - started));
  return Promise.race([work, late.promise]).finally(() => clearTimeout(timer));
};

const runSuite = async (): Promise<boolean> => {
  const lacking = clusterLacks() ?? suiteLacks();
  if (lacking !== undefined) throw new Error(lacking);
  const programs = await inTime(suitePrograms(say));
  if (programs === undefined) {
    console.log(`left out: e2e: all specs: the suite was not built within ${option("minutes")} minutes`);
    return true;
  }
  const dir = temporaryFolder("csi-rbd-e2e-");
  const definition = join(dir, "driver.json");
  writeFileSync(definition, JSON.stringify(DEFINITION));
  const specs = await listSpecs(programs.suite, definition, dir);
  const on = option("on");
  const standsAlready = on === undefined ? undefined : openStanding(on);
  const commit = standsAlready?.commit ?? (await driverCommit());
  const known = readResults(commit) ?? newResults(commit);
  const results: Results = { ...known, all: specs.length, leftOut: countLeftOut(specs) };
  const wanted = plan(specs, results);
  say(`${specs.length} specs, ${wanted.specs.length} of them to choose from, for the driver at ${commit}`);
  const kubectl = await makeKubectl(dir);
  const runner = { program: programs.suite, definition, kubectl, work: mkdtempSync(join(dir, "work-")) };
  let good = !Object.values(results.specs).some(({ result }) => result === "failed");
  if (wanted.specs.length > 0 && isLate()) console.log(leftOutForTime(wanted.enough, wanted.specs.length));
  else if (wanted.specs.length > 0) {
    const standing = standsAlready ?? (await newCluster(dir, programs.agnhost));
    good = await runOn(dir, standing, () => runAll(wanted, results, standing, runner));
  }
  tellKnown(results);
  if (good) rmSync(dir, { recursive: true, force: true });
  else console.log(`logs of specs that failed: ${resultsFolder(commit)}; of the cluster: ${dir}`);
  return good;
};

const main = async (): Promise<boolean> => {
  checkArguments();
  if (!flag("table")) return runSuite();
  writeTable(allResults());
  return true;
};

main().then(
  (good) => process.exit(good ? 0 : 1),
  (error: unknown) => {
    console.error(error instanceof Error ? (error.stack ?? error.message) : error);
    process.exit(1);
  },
);
