/**
 * The guest's kernel: Debian's own package of this release, downloaded and unpacked into the cache, never installed.
 *
 * Invariant: an unpacked kernel is complete or absent: made beside its final name and renamed when done.
 */
import { existsSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "./place.ts";
import { cacheFolder } from "./roots.ts";

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
  const unfinished = join(kernels, `unfinished~${process.pid}`);
  rmSync(unfinished, { recursive: true, force: true });
  cacheFolder("kernel", `unfinished~${process.pid}`, "root");
  await must({ cwd: unfinished }, ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name], {
    timeoutMs: 5 * 60_000,
  });
  const archive = readdirSync(unfinished).find((file) => file.endsWith(".deb")) ?? "";
  const root = join(unfinished, "root");
  await must({}, ["dpkg", "-x", join(unfinished, archive), root]);
  await must({}, ["depmod", "-b", root, describe(root).version]);
  const final = join(kernels, name);
  if (!existsSync(final)) renameSync(root, final);
  rmSync(unfinished, { recursive: true, force: true });
  return describe(final);
};
