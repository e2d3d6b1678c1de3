/**
 * Files that are made from the chart: `npm run manifests`.
 *
 *   deploy/csi-rbd.yaml                    the driver, for `kubectl apply`
 *   deploy/key-stores.yaml                 what the driver may read for encrypted volumes with a key store
 *   deploy/example.yaml                    a cluster's configuration, its secret and a StorageClass, to be filled in
 *   deploy/example-snapshots.yaml          a VolumeSnapshotClass, for clusters with the CRDs of snapshots
 *   charts/csi-rbd/files/known-keys.json   the keys of values.schema.json, for NOTES
 *
 * A test holds the files to what this makes.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as z from "zod";
import { helmBinary } from "./helm.ts";
import { must } from "./place.ts";
import { checkout } from "./suite.ts";

export const CHART = "charts/csi-rbd";

/** Kubernetes that the manifests are for. With Helm's own newest they would change with Helm. */
const KUBERNETES = "1.36.0";

const schemaNode = z.object({
  properties: z.record(z.string(), z.unknown()).optional(),
  additionalProperties: z.unknown().optional(),
});
type Known = true | { readonly [key: string]: Known };

/** A schema as the keys that it names; `true` where further keys are the user's own. */
export const knownKeys = (schema: unknown): Known => {
  const { properties, additionalProperties } = schemaNode.parse(schema);
  if (properties === undefined || additionalProperties === true) return true;
  return Object.fromEntries(Object.entries(properties).map(([key, inner]) => [key, knownKeys(inner)]));
};

/** Values by which the plain manifests differ from a chart without values. */
const driver = {
  fullnameOverride: "csi-rbd",
  namespace: { create: true },
  externallyManagedConfigmap: true,
  metrics: { serviceMonitor: { enabled: false } },
};

const example = {
  csiConfig: [{ clusterID: "CLUSTER", monitors: ["MONITOR-ADDRESS:6789"] }],
  secret: { create: true, userID: "USER", userKey: "KEY" },
  storageClass: { create: true, clusterID: "CLUSTER", pool: "POOL" },
  volumeSnapshotClass: { create: true, clusterID: "CLUSTER" },
};

const MARKS_OF_HELM =
  /^( *(heritage|app\.kubernetes\.io\/managed-by): Helm|# Source: .*|    helm\.sh\/resource-policy: keep|  annotations:(?=\n    helm\.sh\/resource-policy: keep))\n/gm;

const HEADER = `# Made of ${CHART} by \`npm run manifests\`: change the chart, not this file. docs/install.md tells how to use it.\n`;

/** Each file that is made, by its path from the checkout. */
export const madeFiles = async (helm: string): Promise<ReadonlyMap<string, string>> => {
  const render = async (values: unknown, only: readonly string[] = []): Promise<string> => {
    const objects = await must({ cwd: checkout }, [
      helm,
      "template",
      "csi-rbd",
      CHART,
      "--namespace=csi-rbd",
      `--kube-version=${KUBERNETES}`,
      "--skip-tests",
      `--set-json=${Object.entries(values as object)
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
        .join(",")}`,
      ...only.map((file) => `--show-only=templates/${file}`),
    ]);
    return objects.replaceAll(MARKS_OF_HELM, "").replaceAll(/^\s*\n/gm, "");
  };
  const schema: unknown = JSON.parse(readFileSync(join(checkout, CHART, "values.schema.json"), "utf8"));
  return new Map([
    ["deploy/csi-rbd.yaml", HEADER + (await render(driver))],
    [
      "deploy/key-stores.yaml",
      HEADER + (await render({ ...driver, externallyManagedKMSConfig: true }, ["key-stores.yaml"])),
    ],
    [
      "deploy/example.yaml",
      HEADER + (await render(example, ["cluster-config.yaml", "classes/secret.yaml", "classes/storageclass.yaml"])),
    ],
    ["deploy/example-snapshots.yaml", HEADER + (await render(example, ["classes/snapshotclasses.yaml"]))],
    [`${CHART}/files/known-keys.json`, `${JSON.stringify(knownKeys(schema), undefined, 2)}\n`],
  ]);
};

if (import.meta.main) {
  for (const [path, text] of await madeFiles(await helmBinary())) {
    mkdirSync(dirname(join(checkout, path)), { recursive: true });
    writeFileSync(join(checkout, path), text);
    console.log(path);
  }
}
