/**
 * No upgrade changes what Kubernetes does not let change: not another release of this chart, not other values, and not
 * the move from ceph-csi's chart, whose names and selectors these are.
 */
import { expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { at, cephCsiValues, chartFolder, named, over, render, type Rendered, valuesOf } from "./helm.ts";

/** The fields that an update may not change, by kind; names and kinds of objects stay too, or two would run at once. */
const FIXED: Readonly<Record<string, readonly string[]>> = {
  DaemonSet: ["spec.selector"],
  Deployment: ["spec.selector"],
  ClusterRoleBinding: ["roleRef"],
  RoleBinding: ["roleRef"],
  CSIDriver: ["spec.attachRequired", "spec.volumeLifecycleModes"],
  StorageClass: ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"],
  Service: ["spec.clusterIP"],
  ConfigMap: ["immutable"],
  Secret: ["type", "immutable"],
};

const fixedOf = ({ objects }: Rendered) =>
  Object.fromEntries(
    objects
      .filter(({ kind }) => String(kind) in FIXED)
      .map((object) => [named(object), (FIXED[String(object["kind"])] ?? []).map((path) => at(object, path))]),
  );

const classes = valuesOf({
  "storageClass.create": true,
  "storageClass.clusterID": "a",
  "secret.create": true,
  "secret.userID": "user",
  "secret.userKey": "key",
});

test("another release of the chart changes nothing that is fixed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-chart-"));
  try {
    cpSync(chartFolder, folder, { recursive: true });
    const chart = readFileSync(join(folder, "Chart.yaml"), "utf8");
    writeFileSync(join(folder, "Chart.yaml"), chart.replaceAll(/^(version|appVersion): .*$/gm, "$1: 99.1.2"));
    const later = await render(classes, { chart: folder });
    expect(later.text).toContain("csi-rbd:99.1.2-ceph18");
    expect(fixedOf(later)).toEqual(fixedOf(await render(classes)));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("other values change nothing that is fixed", async () => {
  const others = valuesOf({
    commonLabels: { app: "mine", release: "mine", component: "mine", team: "storage" },
    "nodeplugin.podLabels": { app: "mine" },
    "nodeplugin.labels": { release: "mine" },
    "provisioner.podLabels": { component: "mine" },
    "provisioner.replicaCount": 5,
    "provisioner.attacher.sidecar": true,
    "provisioner.deployController": true,
    "provisioner.enableHostNetwork": true,
    "CSIDriver.podInfoOnMount": false,
    "CSIDriver.storageCapacity": true,
    "image.tag": "v9",
    logLevel: 5,
    "topology.domainLabels": ["topology.kubernetes.io/zone"],
  });
  const changed = await render(over(classes, others));
  expect(changed.text).toContain("team: storage");
  expect(fixedOf(changed)).toEqual(fixedOf(await render(classes)));
});

test("pods have the labels that select them, whatever labels values add", async () => {
  const labels = { app: "mine", release: "mine", component: "mine" };
  const { objects } = await render({
    commonLabels: labels,
    nodeplugin: { podLabels: labels },
    provisioner: { podLabels: labels },
  });
  for (const object of objects.filter(({ kind }) => kind === "DaemonSet" || kind === "Deployment")) {
    expect(at(object, "spec.template.metadata.labels")).toMatchObject(
      at(object, "spec.selector.matchLabels") as object,
    );
  }
});

test("a release of ceph-csi's chart keeps its objects, their selectors and roles", async () => {
  for (const [release, prefix] of [
    ["ceph-csi-rbd", "ceph-csi-rbd"],
    ["my-ceph-csi-rbd-2", "my-ceph-csi-rbd-2"],
    ["storage", "storage-ceph-csi-rbd"],
    ["csi-rbd", "csi-rbd-ceph-csi-rbd"],
  ] as const) {
    const fixed = fixedOf(await render(cephCsiValues(), { name: release }));
    const part = (component: string) => ({ matchLabels: { app: "ceph-csi-rbd", component, release } });
    const role = (kind: string, component: string) => ({
      apiGroup: "rbac.authorization.k8s.io",
      kind,
      name: `${prefix}-${component}`,
    });
    expect(fixed).toEqual({
      [`DaemonSet ${prefix}-nodeplugin`]: [part("nodeplugin")],
      [`Deployment ${prefix}-provisioner`]: [part("provisioner")],
      [`ClusterRoleBinding ${prefix}-nodeplugin`]: [role("ClusterRole", "nodeplugin")],
      [`ClusterRoleBinding ${prefix}-provisioner`]: [role("ClusterRole", "provisioner")],
      [`RoleBinding ${prefix}-provisioner`]: [role("Role", "provisioner")],
      "CSIDriver rbd.csi.ceph.com": [true, undefined],
      [`Service ${prefix}-nodeplugin-http-metrics`]: [undefined],
      [`Service ${prefix}-provisioner-http-metrics`]: [undefined],
      "ConfigMap ceph-csi-config": [undefined],
      "ConfigMap ceph-config": [undefined],
    });
  }
});
