/**
 * Kubernetes' end-to-end suite for CSI drivers (./suite), and agnhost, which its pods run: built from Kubernetes' Go module
 * into the cache. Where Kubernetes itself is built already, most of it is compiled.
 *
 * Not here: which of its specs are run (./specs.ts).
 * Invariant: both programs are there or none is: they are built beside their final folder, which is renamed when done.
 *
 * By hand: bun tests/e2e/program.ts
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { anyGo, hasGo } from "../rig/go.ts";
import { kubernetesVersion, layOutModule, versionFlags } from "../rig/kubernetes/program.ts";
import { cacheFolder } from "../rig/roots.ts";

const SOURCE = join(import.meta.dir, "suite");
const AGNHOST = "k8s.io/kubernetes/test/images/agnhost";

/** Another suite is another folder. */
const folderOf = (): string => {
  const suite = createHash("sha256")
    .update(readFileSync(join(SOURCE, "e2e_test.go")))
    .digest("hex")
    .slice(0, 12);
  return join(cacheFolder("bin"), `e2e-v${kubernetesVersion}-${suite}`);
};

/** Why they cannot be had here; undefined where they can. */
export const suiteLacks = (): string | undefined =>
  existsSync(folderOf()) || hasGo() ? undefined : "no Go to build Kubernetes' end-to-end suite with";

export interface SuitePrograms {
  /** The suite. */
  readonly suite: string;
  readonly agnhost: string;
}

/** Paths of the programs, built on first use. */
export const suitePrograms = async (say: (line: string) => void = console.log): Promise<SuitePrograms> => {
  const folder = folderOf();
  const programs = { suite: join(folder, "e2e.test"), agnhost: join(folder, "agnhost") };
  if (existsSync(folder)) return programs;
  say(`building the end-to-end suite of Kubernetes ${kubernetesVersion}: some minutes`);
  const go = await anyGo();
  const source = join(cacheFolder("src"), `e2e.${process.pid}`);
  const unfinished = `${folder}.${process.pid}`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  await layOutModule(go, source, SOURCE);
  const build = (...words: ReadonlyArray<string>): ReadonlyArray<string> => [...words, "-mod=mod", "-ldflags"];
  const suite = [...build("test", "-c", "-vet=off", "-o", join(unfinished, "e2e.test")), versionFlags, "."];
  await go({ cwd: source }, suite, 40);
  // its image has no C library
  const agnhost = [...build("build", "-o", join(unfinished, "agnhost")), "-s -w", AGNHOST];
  await go({ cwd: source, env: { CGO_ENABLED: "0" } }, agnhost, 20);
  renameSync(unfinished, folder);
  rmSync(source, { recursive: true });
  return programs;
};

if (import.meta.main) console.log(await suitePrograms(console.error));
