/** The files that are made from the chart are those that it makes now. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { knownKeys, madeFiles } from "../rig/manifests.ts";
import { checkout } from "../rig/suite.ts";
import { chartFolder, leavesOf, objectsOf, type Tree } from "./helm.ts";

const read = (path: string): string => readFileSync(join(checkout, path), "utf8");

test("manifests and keys are up to date; otherwise run `npm run manifests`", async () => {
  const made = await madeFiles(process.env["CSI_RBD_HELM"] ?? "");
  expect([...made.keys()]).toEqual([
    "deploy/csi-rbd.yaml",
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
