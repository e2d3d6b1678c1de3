/** The files that are made from the chart are those that it makes now. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { knownKeys, madeFiles } from "../rig/manifests.ts";
import { checkout } from "../rig/suite.ts";
import { at, chartFolder, install, leavesOf, named, objectsOf, type Tree } from "./helm.ts";

const read = (path: string): string => readFileSync(join(checkout, path), "utf8");

test("manifests and keys are up to date; otherwise run `npm run manifests`", async () => {
  const made = await madeFiles(process.env["CSI_RBD_HELM"] ?? "");
  expect([...made.keys()]).toEqual([
    "deploy/csi-rbd.yaml",
    "deploy/key-stores.yaml",
    "deploy/example.yaml",
    "deploy/example-snapshots.yaml",
    "charts/csi-rbd/files/known-keys.json",
  ]);
  for (const [path, text] of made) expect(read(path)).toBe(text);
});

test("the chart and the driver have one version", () => {
  const { version } = z.object({ version: z.string() }).parse(JSON.parse(read("package.json")));
  const [chart] = objectsOf(read("charts/csi-rbd/Chart.yaml"));
  expect(chart).toMatchObject({ version, appVersion: version });
});

test("the schema knows every value of values.yaml", () => {
  const known = knownKeys(JSON.parse(readFileSync(join(chartFolder, "values.schema.json"), "utf8")));
  const [values = {}] = objectsOf(readFileSync(join(chartFolder, "values.yaml"), "utf8"));
  const unknown = Object.keys(leavesOf(values)).filter((path) => {
    let inner: unknown = known;
    for (const key of path.split(".")) {
      if (inner === true) return false;
      inner = (inner as Tree)[key];
    }
    return inner === undefined;
  });
  expect(unknown).toEqual([]);
});

test("the values in docs/install.md make the objects that its commands name, and every value is one that is read", async () => {
  const text = read("docs/install.md");
  const [, block = ""] = /```yaml\n(fullnameOverride: [\s\S]*?)```/.exec(text) ?? [];
  const [values = {}] = objectsOf(block);
  const { notes, manifest } = await install(values);
  expect(notes).not.toContain("nothing reads");
  const made = objectsOf(manifest).map((object) => named(object).toLowerCase().replace(" ", "/"));
  const commanded = [...text.matchAll(/rollout status (\S+)/g)].map(([, name = ""]) => name);
  expect(commanded.length).toBeGreaterThan(0);
  for (const name of [...commanded, "storageclass/csi-rbd-sc"]) expect(made).toContain(name);
});

test("every value that docs/install.md names is in values.yaml", () => {
  const [values = {}] = objectsOf(readFileSync(join(chartFolder, "values.yaml"), "utf8"));
  const rows = [...read("docs/install.md").matchAll(/^\| (`.+?`) \|/gm)].map(([, cell = ""]) => cell);
  const names = rows.flatMap((cell) => [...cell.matchAll(/`([a-z][\w.]+)(?::[^`]*)?`/g)].map(([, name = ""]) => name));
  expect(names.length).toBeGreaterThan(5);
  expect(names.filter((name) => at(values, name) === undefined)).toEqual([]);
});
