/**
 * The chart and its manifests on a real API server: it takes every object as it is, and every upgrade.
 *
 * Nothing here runs a pod: there is no node.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { cephCsiValues, chartFolder, helm, over, type Tree, valuesOf } from "../chart/helm.ts";
import { openControlPlane } from "../rig/kubernetes/control-plane.ts";
import { checkout } from "../rig/suite.ts";

const MINUTES = 300_000;
const plane = openControlPlane();
const Item = z.object({ kind: z.string(), metadata: z.object({ name: z.string(), uid: z.string() }) });
const List = z.object({ items: z.array(Item) });

const CLUSTER_KINDS = "clusterroles,clusterrolebindings,csidrivers,storageclasses";
const KINDS =
  "daemonsets,deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets";

/** The uid of each object of a release, by kind and name. */
const objectsOf = async (release: string): Promise<Record<string, string>> => {
  const found = await Promise.all(
    [`get ${KINDS} --all-namespaces`, `get ${CLUSTER_KINDS}`].map((command) =>
      plane.kubectl([...command.split(" "), `--selector=release=${release}`, "--output=json"]),
    ),
  );
  return Object.fromEntries(
    found
      .flatMap((text) => List.parse(JSON.parse(text)).items)
      .map(({ kind, metadata }) => [`${kind} ${metadata.name}`, metadata.uid]),
  );
};

/** Runs a command of Helm on the release, which has a driver of its own: CSIDrivers are the cluster's. */
const onCluster = (verb: string, release: string, values: Tree, ...more: readonly string[]): Promise<string> =>
  helm(
    [verb, release, more.find((word) => word.startsWith("/")) ?? chartFolder, `--namespace=${release}`].concat(
      more.filter((word) => !word.startsWith("/")),
    ),
    over({ driverName: `${release}.example.com` }, values),
    plane.kubeconfig,
  );

const uninstall = async (release: string): Promise<void> => {
  await helm(["uninstall", release, `--namespace=${release}`], undefined, plane.kubeconfig);
};

const failure = (work: Promise<unknown>): Promise<string> => work.then(() => "no error", String);

const classes = (name: string): Tree =>
  valuesOf({
    "storageClass.create": true,
    "storageClass.name": name,
    "storageClass.clusterID": "a",
    "secret.create": true,
    "secret.userID": "user",
    "secret.userKey": "key",
  });

test(
  "the manifests in deploy/ are taken without a warning, and again without a change",
  async () => {
    const files = ["csi-rbd.yaml", "example.yaml"].flatMap((name) => ["-f", join(checkout, "deploy", name)]);
    const apply = () =>
      plane.kubectl([..."apply --server-side --validate=strict --warnings-as-errors".split(" "), ...files]);
    try {
      expect(await apply()).toContain("daemonset.apps/csi-rbd-nodeplugin serverside-applied");
      const before = await objectsOf("csi-rbd");
      await apply();
      expect(await objectsOf("csi-rbd")).toEqual(before);
      expect(Object.keys(before).length).toBeGreaterThan(15);
    } finally {
      await plane.kubectl(["delete", "--ignore-not-found", "--wait=false", ...files]);
    }
  },
  MINUTES,
);

describe("a release of the chart", () => {
  const release = "release";
  const account = (component: string) => `system:serviceaccount:${release}:release-ceph-csi-rbd-${component}`;
  beforeAll(async () => {
    await onCluster("install", release, classes("release"), "--create-namespace");
  }, MINUTES);
  afterAll(() => uninstall(release), MINUTES);

  test(
    "keeps its objects through an upgrade to a later release with other values",
    async () => {
      const before = await objectsOf(release);
      const folder = mkdtempSync(join(tmpdir(), "csi-rbd-chart-"));
      try {
        cpSync(chartFolder, folder, { recursive: true });
        const chart = readFileSync(join(folder, "Chart.yaml"), "utf8");
        writeFileSync(join(folder, "Chart.yaml"), chart.replaceAll(/^(version|appVersion): .*$/gm, "$1: 99.1.2"));
        const others = valuesOf({
          commonLabels: { team: "storage" },
          "provisioner.replicaCount": 3,
          "provisioner.attacher.sidecar": true,
          "CSIDriver.podInfoOnMount": false,
          "CSIDriver.fsGroupPolicy": "None",
          "CSIDriver.seLinuxMount": false,
          "CSIDriver.storageCapacity": true,
          "nodeplugin.httpMetrics.service.type": "NodePort",
        });
        await onCluster("upgrade", release, over(classes("release"), others), folder);
      } finally {
        rmSync(folder, { recursive: true });
      }
      expect(await objectsOf(release)).toEqual(before);
    },
    MINUTES,
  );

  test(
    "ends an upgrade that would change its StorageClass with the parameter's name and what to do",
    async () => {
      const values = over(classes("release"), valuesOf({ "storageClass.pool": "other" }));
      const message = await failure(onCluster("upgrade", release, values));
      expect(message).toContain("StorageClass release exists with another parameters.pool");
      expect(message).toContain("Set storageClass.name to another name");
    },
    MINUTES,
  );

  test(
    "may do what the driver and its sidecars do, and not list secrets or change nodes",
    async () => {
      const wanted: ReadonlyArray<
        readonly [component: string, verb: string, group: string, resource: string, allowed: boolean]
      > = [
        ["nodeplugin", "get", "", "nodes", true],
        ["nodeplugin", "get", "", "secrets", false],
        ["nodeplugin", "list", "", "nodes", false],
        ["provisioner", "create", "", "persistentvolumes", true],
        ["provisioner", "patch", "", "persistentvolumes", true],
        ["provisioner", "delete", "", "persistentvolumes", true],
        ["provisioner", "update", "", "persistentvolumeclaims", true],
        ["provisioner", "patch", "", "persistentvolumeclaims/status", true],
        ["provisioner", "get", "", "secrets", true],
        ["provisioner", "list", "", "secrets", false],
        ["provisioner", "watch", "", "nodes", true],
        ["provisioner", "patch", "", "nodes", false],
        ["provisioner", "create", "", "events", true],
        ["provisioner", "watch", "storage.k8s.io", "csinodes", true],
        ["provisioner", "watch", "storage.k8s.io", "storageclasses", true],
        ["provisioner", "get", "storage.k8s.io", "volumeattributesclasses", true],
        ["provisioner", "patch", "storage.k8s.io", "volumeattachments", true],
        ["provisioner", "patch", "storage.k8s.io", "volumeattachments/status", true],
        ["provisioner", "update", "snapshot.storage.k8s.io", "volumesnapshotcontents", true],
        ["provisioner", "patch", "snapshot.storage.k8s.io", "volumesnapshotcontents/status", true],
        ["provisioner", "patch", "groupsnapshot.storage.k8s.io", "volumegroupsnapshotcontents/status", true],
        ["provisioner", "update", "coordination.k8s.io", "leases", true],
        ["provisioner", "create", "coordination.k8s.io", "leases", true],
      ];
      const reviews = wanted.map(([component, verb, group, path]) => {
        const [resource = "", subresource] = path.split("/");
        return {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SubjectAccessReview",
          spec: {
            user: account(component),
            resourceAttributes: { namespace: release, verb, group, resource, ...(subresource && { subresource }) },
          },
        };
      });
      const answer = await plane.kubectl(
        ["create", "--output=jsonpath={.status.allowed}{'\\n'}", "-f", "-"],
        JSON.stringify({ apiVersion: "v1", kind: "List", items: reviews }),
      );
      const allowed = answer
        .trim()
        .split("\n")
        .map((word) => word === "true");
      expect(allowed).toHaveLength(wanted.length);
      expect(wanted.map((row, index) => [...row.slice(0, 4), allowed[index]])).toEqual(wanted.map((row) => [...row]));
    },
    MINUTES,
  );
});

test(
  "a release of ceph-csi's chart is upgraded to this one in place, and rolled back",
  async () => {
    const name = "ceph-csi-rbd";
    const values = over(cephCsiValues(), over(classes("taken"), valuesOf({ driverName: `${name}.example.com` })));
    const containers = async () => {
      const all = await plane.kubectl([
        "get",
        "daemonset",
        `${name}-nodeplugin`,
        `--namespace=${name}`,
        "--output=json",
      ]);
      const Pods = z.object({
        spec: z.object({
          template: z.object({ spec: z.object({ containers: z.array(z.object({ name: z.string() })) }) }),
        }),
      });
      return Pods.parse(JSON.parse(all)).spec.template.spec.containers.map((each) => each.name);
    };
    const podInfo = () =>
      plane.kubectl(["get", "csidriver", `${name}.example.com`, "--output=jsonpath={.spec.podInfoOnMount}"]);
    const folder = mkdtempSync(join(tmpdir(), "ceph-csi-chart-"));
    try {
      mkdirSync(join(folder, "templates"));
      writeFileSync(join(folder, "Chart.yaml"), "apiVersion: v2\nname: ceph-csi-rbd\nversion: 3.14.0\n");
      const documents = madeByCephCsi(name).map((object) => JSON.stringify(object));
      writeFileSync(join(folder, "templates", "objects.yaml"), documents.join("\n---\n"));
      await onCluster("install", name, {}, folder, "--create-namespace");
      const before = await objectsOf(name);
      expect(await containers()).toEqual(["driver-registrar", "csi-rbdplugin", "liveness-prometheus"]);

      // the values of the old chart alone are not enough
      expect(await failure(onCluster("upgrade", name, {}, "--reuse-values"))).toContain("missing properties");
      await onCluster("upgrade", name, values);
      expect(await containers()).toEqual(["csi-rbdplugin"]);
      expect(await podInfo()).toBe("true");
      expect(await objectsOf(name)).toMatchObject(before);

      await helm(["rollback", name, "1", `--namespace=${name}`], undefined, plane.kubeconfig);
      expect(await containers()).toEqual(["driver-registrar", "csi-rbdplugin", "liveness-prometheus"]);
      expect(await podInfo()).toBe("false");
      expect(await objectsOf(name)).toEqual(before);
    } finally {
      rmSync(folder, { recursive: true });
      await uninstall(name);
    }
  },
  MINUTES,
);

test(
  "objects that kubectl made are taken over on demand, and stay the same objects",
  async () => {
    const name = "manifests";
    const made = madeByCephCsi(name).filter(({ kind }) => kind === "CSIDriver" || kind === "ConfigMap");
    await plane.kubectl(["create", "namespace", name]);
    await plane.kubectl(["apply", "-f", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items: made }));
    const before = await objectsOf(name);
    expect(Object.keys(before)).toHaveLength(2);
    const refused = await failure(onCluster("install", name, {}));
    expect(refused).toContain("invalid ownership metadata");
    await onCluster("install", name, {}, "--take-ownership", "--force-conflicts");
    expect(await objectsOf(name)).toMatchObject(before);
    await uninstall(name);
  },
  MINUTES,
);

test(
  "an uninstalled release leaves none of its objects",
  async () => {
    await onCluster("install", "gone", classes("gone"), "--create-namespace");
    expect(Object.keys(await objectsOf("gone")).length).toBeGreaterThan(15);
    await uninstall("gone");
    expect(await objectsOf("gone")).toEqual({});
  },
  MINUTES,
);

test(
  "a namespace that forbids privileged pods ends the install with the command that allows them",
  async () => {
    await plane.kubectl(["create", "namespace", "strict"]);
    await plane.kubectl(["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"]);
    const message = await failure(onCluster("install", "strict", {}));
    expect(message).toContain(
      "kubectl label --overwrite namespace strict pod-security.kubernetes.io/enforce=privileged",
    );
  },
  MINUTES,
);

/** Objects as a release of ceph-csi's chart leaves them in the cluster, as far as an update of them could be refused. */
function madeByCephCsi(release: string): readonly Tree[] {
  const driver = `${release}.example.com`;
  const labels = { app: "ceph-csi-rbd", release, chart: "ceph-csi-rbd-3.14.0", heritage: "Helm" };
  const metadata = (name: string) => ({ name, namespace: release, labels });
  const pods = (component: string, ...containers: readonly string[]) => ({
    selector: { matchLabels: { app: "ceph-csi-rbd", component, release } },
    template: {
      metadata: { labels: { ...labels, component } },
      spec: { containers: containers.map((name) => ({ name, image: `quay.io/cephcsi/${name}:v3.14.0` })) },
    },
  });
  const secrets = ["provisioner", "controller-expand", "node-stage"].flatMap((use) => [
    [`csi.storage.k8s.io/${use}-secret-name`, "csi-rbd-secret"],
    [`csi.storage.k8s.io/${use}-secret-namespace`, release],
  ]);
  return [
    {
      apiVersion: "apps/v1",
      kind: "DaemonSet",
      metadata: metadata(`${release}-nodeplugin`),
      spec: pods("nodeplugin", "driver-registrar", "csi-rbdplugin", "liveness-prometheus"),
    },
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: metadata(`${release}-provisioner`),
      spec: pods("provisioner", "csi-provisioner", "csi-rbdplugin"),
    },
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: metadata("ceph-csi-config"),
      data: { "config.json": "[]" },
    },
    {
      apiVersion: "storage.k8s.io/v1",
      kind: "CSIDriver",
      metadata: { name: driver, labels },
      spec: { attachRequired: true, podInfoOnMount: false, fsGroupPolicy: "File", seLinuxMount: true },
    },
    {
      apiVersion: "storage.k8s.io/v1",
      kind: "StorageClass",
      metadata: { name: "taken", labels },
      provisioner: driver,
      parameters: {
        clusterID: "a",
        imageFeatures: "layering",
        pool: "replicapool",
        "csi.storage.k8s.io/fstype": "ext4",
        ...Object.fromEntries(secrets),
      },
      reclaimPolicy: "Delete",
      allowVolumeExpansion: true,
    },
  ];
}
