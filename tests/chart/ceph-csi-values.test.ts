/**
 * A values file of ceph-csi's chart ceph-csi-rbd does here what it did there: each key changes the objects, or `helm
 * install` says why it does not.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import {
  at,
  cephCsiValues,
  container,
  install,
  leavesOf,
  named,
  only,
  over,
  render,
  type Tree,
  treeAt,
  valuesOf,
} from "./helm.ts";

/** Keys that other releases of that chart have: 2023 to 2026. */
const OTHER_RELEASES: Tree = {
  configMapKey: "",
  instanceID: "",
  "topology.enabled": true,
  "readAffinity.enabled": false,
  "readAffinity.crushLocationLabels": [],
  "provisioner.clustername": "",
  "provisioner.skipForceFlatten": false,
  "nodeplugin.podSecurityPolicy.enabled": false,
  "provisioner.podSecurityPolicy.enabled": false,
  "nodeplugin.fullnameOverride": "",
  "provisioner.fullnameOverride": "",
  nameOverride: "",
  fullnameOverride: "",
  "provisioner.provisioner.args.httpEndpointPort": 8090,
  "provisioner.resizer.args.httpEndpointPort": 8091,
  "provisioner.snapshotter.args.httpEndpointPort": 8092,
  "provisioner.podMonitor.enabled": true,
  "provisioner.podMonitor.namespace": "",
  "provisioner.podMonitor.labels": {},
  "provisioner.podMonitor.annotations": {},
  "nodeplugin.podMonitor.enabled": true,
  "nodeplugin.podMonitor.namespace": "",
  "nodeplugin.podMonitor.labels": {},
  "nodeplugin.podMonitor.annotations": {},
  "storageClass.tryOtherMounters": false,
  "storageClass.mkfsOptions": "",
  "volumeSnapshotClass.create": true,
  "volumeSnapshotClass.name": "csi-rbdplugin-snapclass",
  "volumeSnapshotClass.annotations": {},
  "volumeSnapshotClass.clusterID": "<cluster-ID>",
  "volumeSnapshotClass.snapshotNamePrefix": "",
  "volumeSnapshotClass.snapshotterSecret": "csi-rbd-secret",
  "volumeSnapshotClass.snapshotterSecretNamespace": "",
  "volumeSnapshotClass.deletionPolicy": "Delete",
  "volumeGroupSnapshotClass.create": true,
  "volumeGroupSnapshotClass.name": "csi-rbdplugin-groupsnapclass",
  "volumeGroupSnapshotClass.annotations": {},
  "volumeGroupSnapshotClass.clusterID": "<cluster-ID>",
  "volumeGroupSnapshotClass.pool": "replicapool",
  "volumeGroupSnapshotClass.volumeGroupNamePrefix": "",
  "volumeGroupSnapshotClass.groupSnapshotterSecret": "csi-rbd-secret",
  "volumeGroupSnapshotClass.groupSnapshotterSecretNamespace": "",
  "volumeGroupSnapshotClass.deletionPolicy": "Delete",
};

/** Another value than the default, for keys that do not take any text, number or map. */
const ANOTHER: Tree = {
  csiConfig: [{ clusterID: "a", monitors: ["10.0.0.1:6789"] }],
  csiMapping: [{ clusterIDMapping: { a: "b" } }],
  logSlowOperationInterval: "31s",
  "provisioner.timeout": "61s",
  "CSIDriver.fsGroupPolicy": "None",
  "nodeplugin.updateStrategy": "OnDelete",
  "provisioner.strategy.type": "Recreate",
  "provisioner.strategy.rollingUpdate.maxUnavailable": "25%",
  "storageClass.reclaimPolicy": "Retain",
  "volumeSnapshotClass.deletionPolicy": "Retain",
  "volumeGroupSnapshotClass.deletionPolicy": "Retain",
  kubeletDir: "/srv/kubelet",
  cephLogDirHostPath: "/srv/log",
  "serviceAccounts.nodeplugin.name": "another",
  "serviceAccounts.provisioner.name": "another",
  "topology.domainLabels": ["topology.kubernetes.io/zone"],
  "readAffinity.crushLocationLabels": ["topology.kubernetes.io/zone"],
  "storageClass.topologyConstrainedPools": [{ poolName: "a", domainSegments: [] }],
  "storageClass.mountOptions": ["discard"],
  extraDeploy: [{ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "more" } }],
  "nodeplugin.plugin.resources": { limits: { memory: "1Gi" } },
  "provisioner.attacher.args": { workerThreads: 3 },
  "provisioner.provisioner.args": { workerThreads: 3 },
  "provisioner.resizer.args": { workers: 3 },
  "provisioner.attacher.extraArgs": ["worker-threads=3"],
  "provisioner.provisioner.extraArgs": ["worker-threads=3"],
  "provisioner.resizer.extraArgs": ["workers=3"],
  "provisioner.snapshotter.extraArgs": ["worker-threads=3"],
};

const another = (key: string, value: unknown): unknown => {
  if (key in ANOTHER) return ANOTHER[key];
  if (typeof value === "boolean") return !value;
  if (typeof value === "number") return value + 1;
  if (key.endsWith("pullPolicy")) return "Always";
  if (key.endsWith("service.type")) return "NodePort";
  if (key.endsWith("tolerations")) return [{ operator: "Exists" }];
  if (key.endsWith("imagePullSecrets")) return [{ name: "another" }];
  if (key.endsWith("externalIPs")) return ["192.0.2.1"];
  if (key.endsWith("loadBalancerSourceRanges")) return ["192.0.2.0/24"];
  if (typeof value === "string") return value.endsWith(".sock") ? `x${value}` : `${value}x`;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return { probe: "another" };
  throw new Error(`another value for ${key}?`);
};

/** Whether the notes have a line on the key, or on a part of the values that it is in. */
const isNoted = (notes: string, key: string): boolean =>
  notes
    .split("\n")
    .filter((line) => line.startsWith("- ") && line.includes(": "))
    .some((line) => `${key}.`.startsWith(`${line.slice(2, line.indexOf(": "))}.`));

// whatever a key is about is there, so that a change of the key can show
const THERE = valuesOf({
  "storageClass.create": true,
  "secret.create": true,
  "topology.domainLabels": ["topology.kubernetes.io/region"],
});
const base = over(over(cephCsiValues(), valuesOf(OTHER_RELEASES)), THERE);

describe("of the values of ceph-csi's chart", () => {
  let before: { manifest: string; notes: string };
  beforeAll(async () => {
    before = await install(base);
  });

  for (const [key, value] of Object.entries(leavesOf(base))) {
    test(`${key} has an effect, or the notes say why not`, async () => {
      const after = await install(over(base, valuesOf({ [key]: another(key, value) })));
      const works = after.manifest !== before.manifest;
      expect({ key, answered: works || isNoted(after.notes, key) }).toEqual({ key, answered: true });
      // a line of the notes on a key that works would be wrong
      if (works && !isNoted(before.notes, key)) expect(isNoted(after.notes, key)).toBe(false);
    });
  }

  test("all defaults install, and the notes name the keys without effect and no unknown one", async () => {
    const { notes } = await install(cephCsiValues(), { name: "ceph-csi-rbd" });
    const keys = notes
      .split("\n")
      .filter((line) => line.startsWith("- "))
      .map((line) => line.slice(2, line.indexOf(":")));
    expect(keys).toEqual([
      "nodeplugin.registrar",
      "provisioner.attacher.name",
      "provisioner.attacher.image",
      "provisioner.resizer.name",
      "nodeplugin.plugin.image.repository",
      "nodeplugin.plugin.image.tag",
    ]);
    expect(notes).not.toContain("nothing reads");
  });

  test("the image of ceph-csi is not run with our flags, whatever registry it is copied to", async () => {
    for (const repository of ["quay.io/cephcsi/cephcsi", "registry.example:5000/mirror/cephcsi"]) {
      const values = valuesOf({ "nodeplugin.plugin.image": { repository, tag: "v3.18.1" } });
      const driver = container(only(await render(values), "DaemonSet"), "csi-rbdplugin");
      expect(driver["image"]).toBe("localhost/csi-rbd:0.1.0-ceph18");
    }
    const own = valuesOf({ "nodeplugin.plugin.image": { repository: "registry.example/csi-rbd", tag: "v2" } });
    for (const kind of ["DaemonSet", "Deployment"]) {
      expect(container(only(await render(own), kind), "csi-rbdplugin")["image"]).toBe("registry.example/csi-rbd:v2");
    }
  });

  test("ceph.conf is a template, as it is there", async () => {
    const { objects } = await render({ cephconf: "[global]\n  # {{ .Values.driverName }}\n" });
    const conf = objects.find((each) => named(each) === "ConfigMap ceph-config");
    expect(at(conf, "data")).toEqual({ "ceph.conf": "[global]\n  # rbd.csi.ceph.com\n", keyring: "" });
  });

  test("a provisioner whose podSecurityContext asks for root gets it", async () => {
    const context = async (podSecurityContext: Tree) =>
      treeAt(
        only(await render({ provisioner: { podSecurityContext } }), "Deployment"),
        "spec.template.spec.securityContext",
      );
    expect(await context({ runAsUser: 0 })).not.toHaveProperty("runAsNonRoot");
    expect(await context({ runAsUser: 2000 })).toMatchObject({ runAsUser: 2000, runAsNonRoot: true, fsGroup: 1000 });
  });

  test("the example labels of charts until 2023 make no topology, because topology.enabled is false there", async () => {
    const labels = ["failure-domain/region", "failure-domain/zone"];
    const argsOf = async (topology: Tree) =>
      container(only(await render({ topology }), "DaemonSet"), "csi-rbdplugin")["args"] as string[];
    const flag = `--domainlabels=${labels.join(",")}`;
    expect(await argsOf({ enabled: false, domainLabels: labels })).not.toContain(flag);
    expect(await argsOf({ enabled: true, domainLabels: labels })).toContain(flag);
    expect(await argsOf({ domainLabels: labels })).toContain(flag);
  });

  test("its StorageClass has the same parameters, which Kubernetes would not let change", async () => {
    const values = over(
      cephCsiValues(),
      valuesOf({
        "storageClass.create": true,
        "storageClass.clusterID": "a",
        "storageClass.stripeCount": 4,
        "storageClass.topologyConstrainedPools": '[{"poolName":"a"}]',
      }),
    );
    const { parameters, reclaimPolicy, volumeBindingMode } = only(await render(values), "StorageClass");
    expect({ parameters, reclaimPolicy, volumeBindingMode }).toEqual({
      parameters: {
        clusterID: "a",
        pool: "replicapool",
        imageFeatures: "layering",
        stripeCount: "4",
        topologyConstrainedPools: '[{"poolName":"a"}]',
        "csi.storage.k8s.io/provisioner-secret-name": "csi-rbd-secret",
        "csi.storage.k8s.io/provisioner-secret-namespace": "storage",
        "csi.storage.k8s.io/controller-expand-secret-name": "csi-rbd-secret",
        "csi.storage.k8s.io/controller-expand-secret-namespace": "storage",
        "csi.storage.k8s.io/node-stage-secret-name": "csi-rbd-secret",
        "csi.storage.k8s.io/node-stage-secret-namespace": "storage",
        "csi.storage.k8s.io/fstype": "ext4",
      },
      reclaimPolicy: "Delete",
      volumeBindingMode: undefined,
    });
  });
});
