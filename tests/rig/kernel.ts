/**
 * The guest's kernel: Debian's own package of this release, downloaded and unpacked into the cache, never installed.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { must } from "./place.ts";
import { cacheFolder } from "./roots.ts";
import { unpackTo } from "./unpacked.ts";

export interface Kernel {
  /** Folder that holds boot/ and lib/modules/. */
  readonly dir: string;
  /** As `uname -r` tells it. */
  readonly version: string;
  readonly image: string;
}

/** The concrete package behind the release's kernel metapackage. */
const packageName = async (): Promise<string> => {
  const meta = process.arch === "arm64" ? "linux-image-arm64" : "linux-image-amd64";
  const shown = await must({}, ["apt-cache", "depends", "--no-recommends", "--no-suggests", meta]);
  const name = /Depends: (linux-image-\S+)/.exec(shown)?.[1];
  if (name === undefined) throw new Error(`apt knows no kernel behind ${meta}: run apt-get update`);
  return name;
};

const describe = (dir: string): Kernel => {
  const version = readdirSync(join(dir, "lib", "modules"))[0] ?? "";
  return { dir, version, image: join(dir, "boot", `vmlinuz-${version}`) };
};

/** The kernel for the guest; downloaded (70 MB) on first use. */
export const guestKernel = async (say: (line: string) => void = console.log): Promise<Kernel> => {
  const kernels = cacheFolder("kernel");
  const cached = readdirSync(kernels).find((name) => /^linux-image-[^~]*$/.test(name));
  // any one that is there will do: a newer package is no reason to need the network again
  if (cached !== undefined) return describe(join(kernels, cached));
  const name = await packageName().catch(async () => {
    await must({}, ["apt-get", "-q", "update"], { timeoutMs: 5 * 60_000 });
    return packageName();
  });
  say(`fetching the guest's kernel: ${name}`);
  const final = join(kernels, name);
  await unpackTo(final, name, (root) => must({}, ["depmod", "-b", root, describe(root).version]));
  return describe(final);
};
