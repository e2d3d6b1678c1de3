/**
 * The executable (`npm run build`): dist/csi-rbd, one file with Bun, the driver and its worker threads inside.
 *
 * Invariants:
 * 1. A worker thread lies in the executable as in the checkout, where lib/cells/where.ts looks for it.
 * 2. The executable reads no .env and no bunfig.toml of the folder in which it is started.
 * 3. Two builds of one commit make the same bytes, wherever the checkout lies.
 */
import { mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { run } from "./place.ts";
import { checkout } from "./suite.ts";

const ENTRY = "services/main.ts";
const CELLS = ["lib/ceph/cell/cell.ts", "lib/ceph/cell/waiting-cell.ts", "lib/host/cell.ts"];

/** Names stay, for the stacks in error reports. */
const options = {
  root: checkout,
  target: "bun",
  format: "esm",
  minify: { whitespace: true, syntax: true },
  throw: true,
} as const;

const sources = (names: readonly string[]): string[] => names.map((name) => join(checkout, name));

/** The commit that is checked out, marked where files differ from it; empty outside of a repository. */
export const commit = async (): Promise<string> => {
  const git = async (...words: readonly string[]) => (await run({ cwd: checkout }, ["git", ...words])).stdout.trim();
  try {
    const id = await git("rev-parse", "--short=12", "HEAD");
    return id === "" || (await git("status", "--porcelain", "--untracked-files=no")) === "" ? id : `${id}, changed`;
  } catch {
    return "";
  }
};

/** Makes the executable in one step: who starts it meanwhile gets the old one or the new one. */
export const buildExecutable = async (outfile: string): Promise<void> => {
  // under its own name, which the executable holds
  const unfinished = join(`${outfile}.${process.pid}`, basename(outfile));
  mkdirSync(dirname(unfinished), { recursive: true });
  try {
    await Bun.build({
      ...options,
      entrypoints: sources([ENTRY, ...CELLS]),
      compile: { outfile: unfinished, autoloadDotenv: false, autoloadBunfig: false },
      // halves the time to the first answer
      bytecode: true,
      // a library that is imported when it is needed takes no memory before
      splitting: true,
      // grpc-js's own folder would be in it, as a path of this machine; it is for a service that the driver has not
      define: { BUILD_COMMIT: JSON.stringify(await commit()), __dirname: JSON.stringify("/") },
    });
    renameSync(unfinished, outfile);
  } finally {
    rmSync(dirname(unfinished), { recursive: true, force: true });
  }
};

/** The worker threads as they lie in the executable, for a process that is none; gives the folder that has them. */
export const buildCells = async (into: string): Promise<string> => {
  // the driver asks for them by their names in the checkout
  await Bun.build({ ...options, entrypoints: sources(CELLS), outdir: into, naming: "[dir]/[name].ts" });
  return into;
};

/** The npm packages that have code in the executable, as package-lock.json names them: `node_modules/effect`. */
export const bundledPackages = async (): Promise<ReadonlyArray<string>> => {
  const { metafile } = await Bun.build({ ...options, entrypoints: sources([ENTRY, ...CELLS]), metafile: true });
  const folders = Object.keys(metafile?.inputs ?? {}).map(
    (file) => /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(file)?.[0],
  );
  return [...new Set(folders.filter((folder) => folder !== undefined))].toSorted();
};

if (import.meta.main) {
  const started = performance.now();
  const outfile = join(checkout, "dist/csi-rbd");
  await buildExecutable(outfile);
  const mib = (statSync(outfile).size / 2 ** 20).toFixed(0);
  console.log(`dist/csi-rbd: ${mib} MiB, made in ${((performance.now() - started) / 1000).toFixed(1)} s`);
}
