/** What Helm makes of the chart; without a cluster, unless one is named. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as z from "zod";
import { CHART } from "../rig/manifests.ts";
import { must } from "../rig/place.ts";
import { checkout } from "../rig/suite.ts";

/** Values, or an object of Kubernetes. */
export interface Tree {
  readonly [key: string]: unknown;
}

export interface Rendered {
  readonly text: string;
  readonly objects: readonly Tree[];
}

export interface Release {
  readonly name?: string;
  readonly namespace?: string;
  readonly chart?: string;
}

export const chartFolder = join(checkout, CHART);

const helmProgram = (): string => {
  const program = process.env["CSI_RBD_HELM"];
  if (program === undefined) throw new Error("CSI_RBD_HELM is not set: run `npm test -- chart`");
  return program;
};

/** Runs Helm, with values in a file if there are any; fails with what it prints. Without a kubeconfig it finds no cluster. */
export const helm = async (args: readonly string[], values?: Tree, kubeconfig = "/dev/null"): Promise<string> => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-chart-"));
  try {
    const file = join(folder, "values.json");
    writeFileSync(file, JSON.stringify(values ?? {}));
    const env = { KUBECONFIG: kubeconfig, HELM_CACHE_HOME: folder, HELM_CONFIG_HOME: folder, HELM_DATA_HOME: folder };
    const more = values === undefined ? [] : [`--values=${file}`];
    return await must({ cwd: checkout, env }, [helmProgram(), ...args, ...more], { timeoutMs: 120_000 });
  } finally {
    rmSync(folder, { recursive: true });
  }
};

const isTree = (value: unknown): value is Tree => typeof value === "object" && value !== null && !Array.isArray(value);

/** The objects of a text with several documents. */
export const objectsOf = (text: string): readonly Tree[] => {
  const documents: unknown = Bun.YAML.parse(text);
  return (Array.isArray(documents) ? documents : [documents]).filter(isTree);
};

const target = ({ name = "csi-rbd", namespace = "storage", chart = chartFolder }: Release): readonly string[] => [
  name,
  chart,
  `--namespace=${namespace}`,
];

/** The objects of a release, tests included, on a cluster that has further APIs. */
export const render = async (
  values: Tree = {},
  release: Release = {},
  apis: readonly string[] = [],
): Promise<Rendered> => {
  const more = apis.map((api) => `--api-versions=${api}`);
  const text = await helm(["template", ...target(release), "--kube-version=1.36.0", ...more], values);
  return { text, objects: objectsOf(text) };
};

const installed = z.object({ manifest: z.string(), info: z.object({ notes: z.string() }) });

/** What `helm install` would send, and the notes that it prints. */
export const install = async (
  values: Tree = {},
  release: Release = {},
): Promise<{ manifest: string; notes: string }> => {
  const printed = await helm(["install", ...target(release), "--dry-run=client", "--output=json"], values);
  const { manifest, info } = installed.parse(JSON.parse(printed));
  return { manifest, notes: info.notes };
};

/** A part of an object: `spec.template.spec`, `spec.containers.0`. */
export const at = (value: unknown, path: string): unknown =>
  path
    .split(".")
    .reduce<unknown>(
      (inner, key) => (Array.isArray(inner) ? inner[Number(key)] : isTree(inner) ? inner[key] : undefined),
      value,
    );

export const treeAt = (value: unknown, path: string): Tree => {
  const found = at(value, path);
  if (!isTree(found)) throw new Error(`nothing at ${path}`);
  return found;
};

export const listAt = (value: unknown, path: string): readonly Tree[] => {
  const found = at(value, path) ?? [];
  if (!Array.isArray(found)) throw new Error(`no list at ${path}`);
  return found.filter(isTree);
};

export const named = (object: Tree): string => `${String(object["kind"])} ${String(at(object, "metadata.name"))}`;

/** The only object of a kind. */
export const only = ({ objects }: Rendered, kind: string): Tree => {
  const [found, ...more] = objects.filter((object) => object["kind"] === kind);
  if (found === undefined || more.length > 0)
    throw new Error(`${more.length + (found ? 1 : 0)} objects of kind ${kind}`);
  return found;
};

export const podOf = (object: Tree): Tree => treeAt(object, "spec.template.spec");
export const container = (object: Tree, name: string): Tree => {
  const found = listAt(podOf(object), "containers").find((each) => each["name"] === name);
  if (found === undefined) throw new Error(`no container ${name}`);
  return found;
};

/** Values from the keys that lead to them: `{ "storageClass.create": true }`. */
export const valuesOf = (paths: Tree): Tree => {
  const root: Record<string, unknown> = {};
  for (const [path, value] of Object.entries(paths)) {
    const keys = path.split(".");
    const last = keys.pop() ?? "";
    let inner = root;
    for (const key of keys) inner = (inner[key] ??= {}) as Record<string, unknown>;
    inner[last] = value;
  }
  return root;
};

/** The leaves of values, by the keys that lead to them; an empty map is a leaf. */
export const leavesOf = (values: Tree, prefix = ""): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(values).flatMap(([key, value]) =>
      isTree(value) && Object.keys(value).length > 0
        ? Object.entries(leavesOf(value, `${prefix}${key}.`))
        : [[`${prefix}${key}`, value]],
    ),
  );

/** Values laid over others, as Helm does it. */
export const over = (base: Tree, more: Tree): Tree => ({
  ...base,
  ...Object.fromEntries(
    Object.entries(more).map(([key, value]) => [
      key,
      isTree(value) && isTree(base[key]) ? over(base[key], value) : value,
    ]),
  ),
});

export const cephCsiValues = (): Tree => {
  const [values = {}] = objectsOf(readFileSync(join(checkout, "tests/golden/chart/ceph-csi-rbd-values.yaml"), "utf8"));
  return values;
};
