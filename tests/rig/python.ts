/**
 * Python packages for tests: installed by name and version from where this machine's own pip takes them, into the cache.
 *
 * Not a virtual environment: a folder for PYTHONPATH, which can be moved when it is complete.
 * Invariant: a folder is complete or absent, and holds what one Python of this machine can load.
 */
import { createHash } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "./place.ts";
import { cacheFolder, inPlace } from "./roots.ts";

/** Why this machine cannot install Python packages; undefined where it can. */
export const pythonLacks = (): string | undefined => {
  if (Bun.which("python3") === null) return "no python3";
  const { exitCode } = Bun.spawnSync(["python3", "-m", "pip", "--version"], { stdio: ["ignore", "ignore", "ignore"] });
  return exitCode === 0 ? undefined : "no pip for python3";
};

/** The folder with these packages, such as `moto==5.2.5`; installed on first use. */
export const pythonPackages = async (packages: readonly string[]): Promise<string> => {
  const version = (await must({}, ["python3", "--version"])).trim();
  const id = createHash("sha256")
    .update([version, ...packages].join("\n"))
    .digest("hex")
    .slice(0, 16);
  const folder = join(cacheFolder("python"), id);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.${process.pid}`;
  const words = "-m pip install --quiet --no-input --disable-pip-version-check --target".split(" ");
  try {
    await must({}, ["python3", ...words, unfinished, ...packages], { timeoutMs: 10 * 60_000 });
    inPlace(unfinished, folder);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return folder;
};
