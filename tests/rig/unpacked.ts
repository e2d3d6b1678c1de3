/**
 * Debian packages unpacked into the cache, never installed: a service that one of them carries does not start here.
 *
 * Invariant: an unpacked package is complete or absent: made beside its final name and renamed when done.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "./place.ts";
import { cacheFolder, inPlace } from "./roots.ts";

/** Downloads a package and unpacks it into the folder `final`, after `finish` has completed what it holds. */
export const unpackTo = async (
  final: string,
  name: string,
  finish: (root: string) => Promise<unknown> = () => Promise.resolve(),
): Promise<void> => {
  const unfinished = `${final}~${process.pid}`;
  rmSync(unfinished, { recursive: true, force: true });
  const root = join(unfinished, "root");
  mkdirSync(root, { recursive: true });
  await must({ cwd: unfinished }, ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name], {
    timeoutMs: 5 * 60_000,
  });
  const archive = readdirSync(unfinished).find((file) => file.endsWith(".deb")) ?? "";
  await must({}, ["dpkg", "-x", join(unfinished, archive), root]);
  await finish(root);
  inPlace(root, final);
  rmSync(unfinished, { recursive: true, force: true });
};

/** Root folder of an unpacked package; downloaded on first use. */
export const unpacked = async (name: string, say: (line: string) => void = console.log): Promise<string> => {
  const final = join(cacheFolder("packages"), name);
  // any version that is there will do: a newer one is no reason to need the network again
  if (existsSync(final)) return final;
  say(`fetching Debian's ${name}`);
  await unpackTo(final, name).catch(async () => {
    // the index may be missing or too old
    await must({}, ["apt-get", "-q", "update"], { timeoutMs: 5 * 60_000 });
    return unpackTo(final, name);
  });
  return final;
};

/** Whether `unpacked` can answer here. */
export const canUnpack = (name: string): boolean =>
  existsSync(join(cacheFolder("packages"), name)) || (Bun.which("apt-get") !== null && Bun.which("dpkg") !== null);
