/**
 * Programs of the checkout in one file each, for the virtual machine: its guest reads files one by one through a slow
 * share, and the driver alone is seven hundred of them.
 *
 * Not a compiled executable: Bun runs these as it runs the checkout.
 * Invariant: the driver's cells lie where the driver looks for them, two folders above its own file.
 */
import { join, relative } from "node:path";
import { buildCells } from "./build.ts";
import { checkout } from "./suite.ts";

const build = async (sources: ReadonlyArray<string>, into: string, naming: string): Promise<void> => {
  const entrypoints = sources.map((source) => join(checkout, source));
  await Bun.build({ entrypoints, root: checkout, outdir: into, naming, target: "bun", throw: true });
};

/** Path of the driver's file, in a folder `into` that is made for it. */
export const bundleDriver = async (into: string): Promise<string> => {
  await Promise.all([build(["services/main.ts"], into, "services/bundled/main.js"), buildCells(into)]);
  return join(into, "services", "bundled", "main.js");
};

/** Path of another program's file. */
export const bundleProgram = async (source: string, into: string): Promise<string> => {
  await build([source], into, "[dir]/[name].js");
  return join(into, relative(checkout, join(checkout, source)).replace(/\.ts$/, ".js"));
};
