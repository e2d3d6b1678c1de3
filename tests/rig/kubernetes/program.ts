/**
 * A real Kubernetes as one program (`kube apiserver|controller-manager|scheduler|kubelet|kubectl …`), built from its Go
 * module into the cache: 10 to 16 minutes and 1 GB of modules where Go has never built it, else seconds.
 *
 * Invariant: the program is complete or absent: it is built beside its final name and renamed when done.
 *
 * By hand: bun tests/rig/kubernetes/program.ts
 */
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { anyGo, type Go, hasGo } from "../go.ts";
import { cacheFolder } from "../roots.ts";

export const kubernetesVersion = "1.36.3";

const programPath = (): string => join(cacheFolder("bin"), `kube-v${kubernetesVersion}`);

/** Why Kubernetes cannot be had here; undefined where it can. */
export const kubeLacks = (): string | undefined =>
  existsSync(programPath()) || hasGo() ? undefined : "no Go to build Kubernetes with";

/** What Kubernetes is built with: its go.mod's line of Go, and the version of each module, its own parts included. */
export interface KubernetesModules {
  readonly goLine: string;
  readonly versions: ReadonlyMap<string, string>;
  /** k8s.io/api and the like. */
  readonly parts: ReadonlyArray<string>;
}

/**
 * Kubernetes' own go.mod replaces its parts (k8s.io/api …) by folders that its module does not carry; each of them is
 * published as a module too, as v0.X.Y for v1.X.Y.
 */
export const kubernetesModules = async (go: Go, folder: string): Promise<KubernetesModules> => {
  const listed = await go({ cwd: folder }, ["mod", "download", "-json", `k8s.io/kubernetes@v${kubernetesVersion}`], 10);
  const file = /"GoMod": "(.+)"/.exec(listed)?.[1];
  if (file === undefined) throw new Error(`go mod download named no go.mod for Kubernetes ${kubernetesVersion}`);
  const text = readFileSync(file, "utf8");
  const parts = [...text.matchAll(/^\t(\S+) => \.\/staging\//gm)].map(([, name = ""]) => name);
  const published = `v0.${kubernetesVersion.slice("1.".length)}`;
  const versions = new Map(
    [...text.matchAll(/^\t(\S+) (v\S+)/gm)].map(([, name = "", version = ""]) => [name, version]),
  );
  for (const part of parts) versions.set(part, published);
  return { goLine: /^go .*$/m.exec(text)?.[0] ?? "", versions, parts };
};

/** A module of our own with the Go files of a folder, which is built with the libraries of this Kubernetes. */
export const layOutModule = async (go: Go, folder: string, source: string): Promise<void> => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const { goLine, versions, parts } = await kubernetesModules(go, folder);
  cpSync(source, folder, { recursive: true });
  const lines = [
    `module rig.local/${basename(source)}`,
    goLine,
    `require k8s.io/kubernetes v${kubernetesVersion}`,
    ...parts.map((name) => `replace ${name} => ${name} ${versions.get(name)}`),
  ];
  writeFileSync(join(folder, "go.mod"), `${lines.join("\n\n")}\n`);
};

/** Flags of Go's linker: the version that the programs tell. */
export const versionFlags = (() => {
  const [, minor = ""] = kubernetesVersion.split(".");
  const version = "k8s.io/component-base/version";
  return `-s -w -X ${version}.gitVersion=v${kubernetesVersion} -X ${version}.gitMajor=1 -X ${version}.gitMinor=${minor}`;
})();

export interface ProgramOptions {
  /** Where it is to be. */
  readonly program: string;
  /** Folder of its Go files. */
  readonly source: string;
  /** Runs Go in a module with these files, so that the program is at `out`. */
  readonly build: (go: Go, place: { readonly cwd: string }, out: string) => Promise<unknown>;
  /** Says that it is built, and how long that takes. */
  readonly announce: () => void;
}

/** Path of a program of Kubernetes' module, built on first use. */
export const builtProgram = async ({ program, source, build, announce }: ProgramOptions): Promise<string> => {
  if (existsSync(program)) return program;
  announce();
  const go = await anyGo();
  const folder = join(cacheFolder("src"), `${basename(source)}.${process.pid}`);
  await layOutModule(go, folder, source);
  const out = join(folder, "built");
  await build(go, { cwd: folder }, out);
  renameSync(out, program);
  rmSync(folder, { recursive: true });
  return program;
};

/** Path of the program, built on first use. */
export const kubeProgram = (say: (line: string) => void = console.log): Promise<string> =>
  builtProgram({
    program: programPath(),
    source: join(import.meta.dir, "kube"),
    build: async (go, place, out) => {
      await go(place, ["mod", "tidy"], 15);
      await go(place, ["build", "-o", out, "-ldflags", versionFlags, "."], 40);
    },
    announce: () =>
      say(`building Kubernetes ${kubernetesVersion}: up to a quarter of an hour where Go has never built it`),
  });

if (import.meta.main) console.log(await kubeProgram(console.error));
