/**
 * One spec of the suite, run on a cluster: the program of ./program.ts as a process of its own, which is killed if it has no
 * end.
 */
import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Result } from "./results.ts";
import { focusOf, readReport, type Spec, type SpecReport, textOf } from "./specs.ts";

/** What a spec is run with. */
export interface Runner {
  readonly program: string;
  /** File of ./driver.ts's definition. */
  readonly definition: string;
  readonly kubeconfig: string;
  readonly kubectl: string;
  /** Folder for reports. */
  readonly work: string;
}

/** The suite's own limit of a spec ends it in order; this one ends a process that does not end. */
const LIMIT_MINUTES = 30;
const PATIENCE_MS = (LIMIT_MINUTES + 5) * 60_000;

/** What Ginkgo's report says of a spec; undefined where it was not run. */
export const judge = (reports: ReadonlyArray<SpecReport>, text: string): Pick<Result, "result" | "reason"> => {
  const found = reports.find((report) => report.LeafNodeType === "It" && textOf(report) === text);
  const reason = found?.Failure?.Message ?? "";
  if (found?.State === "passed") return { result: "passed", reason: "" };
  // a spec that was not chosen is skipped without a reason
  if (found?.State === "skipped" && reason !== "") return { result: "does not apply", reason };
  const hook = reports.find(({ LeafNodeType, State }) => LeafNodeType !== "It" && State === "failed");
  const other = hook?.Failure?.Message ?? `Ginkgo's report calls the spec ${found?.State ?? "unknown"}`;
  return { result: "failed", reason: reason === "" ? other : reason };
};

const reportOf = (file: string): ReadonlyArray<SpecReport> | undefined => {
  try {
    return readReport(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
};

/** Runs a spec; its log is written to a file. `undefined`: it was interrupted. */
export const runSpec = async (
  { program, definition, kubeconfig, kubectl, work }: Runner,
  { text }: Spec,
  log: string,
  interrupted: AbortSignal,
): Promise<Result | undefined> => {
  const report = join(work, "report.json");
  rmSync(report, { force: true });
  const started = Date.now();
  const output = openSync(log, "w");
  const child = Bun.spawn(
    [
      "setpriv",
      "--pdeathsig",
      "KILL",
      "--",
      program,
      "--provider=local",
      `--storage.testdriver=${definition}`,
      `--kubeconfig=${kubeconfig}`,
      `--kubectl-path=${kubectl}`,
      `--e2e-output-dir=${work}`,
      `--ginkgo.focus=${focusOf(text)}`,
      `--ginkgo.json-report=${report}`,
      `--ginkgo.timeout=${LIMIT_MINUTES}m`,
      "--ginkgo.v",
      "--ginkgo.no-color",
    ],
    { cwd: work, stdin: "ignore", stdout: output, stderr: output },
  );
  closeSync(output);
  const end = () => child.kill("SIGKILL");
  const timer = setTimeout(end, PATIENCE_MS);
  interrupted.addEventListener("abort", end);
  await child.exited;
  clearTimeout(timer);
  interrupted.removeEventListener("abort", end);
  if (interrupted.aborted) return undefined;
  const found = reportOf(report);
  const reason = `the suite ended without a report, with ${child.signalCode ?? `status ${child.exitCode}`}`;
  const verdict = found === undefined ? { result: "failed" as const, reason } : judge(found, text);
  return { ...verdict, seconds: (Date.now() - started) / 1000, at: new Date(started).toISOString() };
};
