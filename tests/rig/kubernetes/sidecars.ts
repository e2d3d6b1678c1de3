/**
 * The Kubernetes project's own sidecars for CSI drivers, built from their Go modules into the cache. They run beside the
 * driver in the cluster, and tests compare ours with them.
 *
 * They are built with the libraries of the Kubernetes that they talk to (./program.ts): these are compiled already, and
 * two minutes take the place of eleven.
 * Invariant: all of them are there or none is: they are built beside their final folder, which is renamed when done.
 *
 * By hand: bun tests/rig/kubernetes/sidecars.ts
 */
import { createHash } from "node:crypto";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { anyGo, type Go, hasGo } from "../go.ts";
import { cacheFolder, inPlace } from "../roots.ts";
import { kubernetesModules } from "./program.ts";

const HOME = "github.com/kubernetes-csi";

/** Program → module, version, and its main package in the module. */
const SIDECARS = {
  "csi-provisioner": ["external-provisioner/v6", "v6.4.0"],
  "csi-attacher": ["external-attacher/v4", "v4.13.0"],
  "csi-resizer": ["external-resizer/v2", "v2.3.0"],
  "csi-snapshotter": ["external-snapshotter/v8", "v8.7.0"],
  "snapshot-controller": ["external-snapshotter/v8", "v8.7.0"],
} as const;
export type Sidecar = keyof typeof SIDECARS;
export const sidecarNames = Object.keys(SIDECARS) as ReadonlyArray<Sidecar>;

/** API groups whose definitions are copied: snapshots, and groups of them. */
const GROUPS = ["snapshot.storage.k8s.io", "groupsnapshot.storage.k8s.io"] as const;

const packages = Object.entries(SIDECARS).map(([program, [module]]) => `${HOME}/${module}/cmd/${program}`);
const client = `${HOME}/external-snapshotter/client/v8`;

/** Another set of versions or definitions is another folder. */
const folderOf = (): string => {
  const content = createHash("sha256")
    .update(JSON.stringify([SIDECARS, GROUPS]))
    .digest("hex")
    .slice(0, 12);
  return join(cacheFolder("bin"), `sidecars-${content}`);
};

/** Why they cannot be had here; undefined where they can. */
export const sidecarsLack = (): string | undefined =>
  existsSync(folderOf()) || hasGo() ? undefined : "no Go to build the Kubernetes project's sidecars with";

/** The definitions of the snapshot objects, which lie in the module of the snapshotter's client. */
const copyDefinitions = async (go: Go, source: string, into: string): Promise<void> => {
  const dir = (await go({ cwd: source }, ["list", "-mod=mod", "-m", "-f", "{{.Dir}}", client], 5)).trim();
  const crds = join(dir, "config", "crd");
  mkdirSync(into);
  for (const name of readdirSync(crds)) {
    if (GROUPS.some((group) => name.startsWith(`${group}_`))) cpSync(join(crds, name), join(into, name));
  }
};

/** CSI's messages: what Kubernetes itself is built with is too old for the sidecars. */
const SPEC = "github.com/container-storage-interface/spec";

/** A module of our own, whose packages are programs of other modules, each with its version. */
const layOutModule = async (go: Go, source: string): Promise<void> => {
  const { goLine, versions } = await kubernetesModules(go, source);
  const file = join(source, "go.mod");
  writeFileSync(file, `module rig.local/sidecars\n\n${goLine}\n`);
  const wanted = Object.entries(SIDECARS).map(
    ([name, [module, version]]) => `${HOME}/${module}/cmd/${name}@${version}`,
  );
  await go({ cwd: source }, ["get", ...wanted], 15);
  const required = readFileSync(file, "utf8").matchAll(/^\t(\S+) (v\S+)/gm);
  for (const [, name = "", version] of required) {
    const other = versions.get(name);
    if (name !== SPEC && other !== undefined && other !== version) {
      appendFileSync(file, `replace ${name} => ${name} ${other}\n`);
    }
  }
};

/** Folder of the programs, and below it crd/, the definitions of the snapshot objects; built on first use. */
export const sidecarFolder = async (say: (line: string) => void = console.log): Promise<string> => {
  const folder = folderOf();
  if (existsSync(folder)) return folder;
  say("building the Kubernetes project's sidecars: some minutes");
  const go = await anyGo();
  const source = join(cacheFolder("src"), `sidecars.${process.pid}`);
  const unfinished = `${folder}.${process.pid}`;
  for (const each of [source, unfinished]) {
    rmSync(each, { recursive: true, force: true });
    mkdirSync(each, { recursive: true });
  }
  await layOutModule(go, source);
  const build = ["build", "-mod=mod", "-o", `${unfinished}/`, "-ldflags", "-s -w", ...packages];
  await go({ cwd: source }, build, 40);
  await copyDefinitions(go, source, join(unfinished, "crd"));
  inPlace(unfinished, folder);
  rmSync(source, { recursive: true });
  return folder;
};

if (import.meta.main) console.log(await sidecarFolder(console.error));
