/**
 * What came of the specs: a file in the cache for each commit of the driver, written after every spec, so that a later
 * command goes on where one ended.
 *
 * Invariant: the file is complete, of this spec or of the one before: it is written beside its name and renamed.
 */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { must } from "../rig/place.ts";
import { cacheFolder } from "../rig/roots.ts";
import { checkout } from "../rig/suite.ts";

const Result = z.object({
  result: z.enum(["passed", "does not apply", "failed"]),
  /** The suite's own words for what does not apply, and for what failed. */
  reason: z.string(),
  seconds: z.number(),
  /** When it was run, as ISO 8601 writes it. */
  at: z.string(),
});
export type Result = z.infer<typeof Result>;

const Results = z.object({
  /** Of the driver. */
  commit: z.string(),
  kubernetes: z.string(),
  /** How many specs the suite has, and how many are not run, by reason. */
  all: z.number(),
  leftOut: z.record(z.string(), z.number()),
  /** By the spec's short name. */
  specs: z.record(z.string(), Result),
});
export type Results = z.infer<typeof Results>;

/** What the driver and its image are made of: a commit of anything else leaves results as they are. */
const DRIVER = ["lib", "services", "charts", "container", "package-lock.json"];

/** The last commit that changed the driver, marked where files of it differ. */
export const driverCommit = async (): Promise<string> => {
  const git = async (...words: ReadonlyArray<string>) =>
    (await must({ cwd: checkout }, ["git", ...words, "--", ...DRIVER])).trim();
  const commit = await git("log", "-1", "--abbrev=12", "--format=%h");
  return (await git("status", "--porcelain")) === "" ? commit : `${commit}-changed`;
};

export const isCommitted = (commit: string): boolean => !commit.endsWith("-changed");

/** Folder of a commit's results and logs. */
export const resultsFolder = (commit: string): string => cacheFolder("e2e", commit);
const fileOf = (commit: string): string => join(resultsFolder(commit), "results.json");

export const readResults = (commit: string): Results | undefined => {
  const file = fileOf(commit);
  return existsSync(file) ? Results.parse(JSON.parse(readFileSync(file, "utf8"))) : undefined;
};

export const writeResults = (results: Results): void => {
  const file = fileOf(results.commit);
  writeFileSync(`${file}.new`, `${JSON.stringify(results, null, 2)}\n`);
  renameSync(`${file}.new`, file);
};

/** Those of all commits that are in the cache. */
export const allResults = (): ReadonlyArray<Results> =>
  readdirSync(cacheFolder("e2e")).flatMap((commit) => readResults(commit) ?? []);
