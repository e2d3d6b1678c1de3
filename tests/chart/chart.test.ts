/** What the chart makes: pods that are safe, stay available, and can be changed where an administrator must. */
import { describe, expect, test } from "bun:test";
import {
  at,
  container,
  helm,
  chartFolder,
  install,
  listAt,
  only,
  over,
  podOf,
  render,
  type Tree,
  treeAt,
  valuesOf,
} from "./helm.ts";

const DRIVER = "csi-rbdplugin";
const argsOf = (object: Tree, name = DRIVER) => container(object, name)["args"] as readonly string[];

const hookOf = (object: Tree): unknown => {
  const annotations = at(object, "metadata.annotations");
  return annotations === undefined ? undefined : treeAt(object, "metadata.annotations")["helm.sh/hook"];
};

const ALL_ON = valuesOf({
  "storageClass.create": true,
  "storageClass.clusterID": "a",
  "secret.create": true,
  "secret.userID": "user",
  "secret.userKey": "key",
  "volumeSnapshotClass.create": true,
  "volumeSnapshotClass.clusterID": "a",
  "volumeGroupSnapshotClass.create": true,
  "volumeGroupSnapshotClass.clusterID": "a",
  "namespace.create": true,
  "provisioner.deployController": true,
  "provisioner.attacher.sidecar": true,
});

test("helm lint finds nothing", async () => {
  for (const values of [{}, ALL_ON]) {
    expect(await helm(["lint", chartFolder, "--strict"], values)).toContain("0 chart(s) failed");
  }
});

describe("key stores", () => {
  const KMS = valuesOf({
    encryptionKMSConfig: { vault: { encryptionKMSType: "vaulttokens" } },
    kmsConfigMapName: "kms",
  });

  test("have their configuration, and a token for roles of AWS, in both pods, where the driver looks", async () => {
    const all = await render(KMS);
    const map = all.objects.find((each) => each["kind"] === "ConfigMap" && at(each, "metadata.name") === "kms");
    const config = treeAt(map ?? {}, "data")["config.json"];
    expect(JSON.parse(String(config))).toEqual({ vault: { encryptionKMSType: "vaulttokens" } });
    for (const object of [only(all, "DaemonSet"), only(all, "Deployment")]) {
      const mounts = container(object, DRIVER)["volumeMounts"] as readonly Tree[];
      const pathOf = (name: string) => mounts.find((mount) => mount["name"] === name)?.["mountPath"];
      expect(pathOf("ceph-csi-encryption-kms-config")).toBe("/etc/ceph-csi-encryption-kms-config");
      expect(pathOf("oidc-token")).toBe("/run/secrets/tokens");
      const volume = listAt(podOf(object), "volumes").find(({ name }) => name === "ceph-csi-encryption-kms-config");
      expect(at(volume ?? {}, "configMap.name")).toBe("kms");
    }
  });

  test("may be read by both accounts, only with a KMS; tokens of tenants only where a section is of that kind", async () => {
    const granted = async (values: Tree) => {
      const { objects } = await render(values);
      const of = (kind: string) =>
        objects.find((each) => each["kind"] === kind && String(at(each, "metadata.name")).endsWith("-key-stores"));
      const [role, binding] = [of("ClusterRole"), of("ClusterRoleBinding")];
      if (role === undefined || binding === undefined) return undefined;
      expect(listAt(binding, "subjects")).toHaveLength(2);
      const rules = JSON.stringify(listAt(role, "rules"));
      return ["configmaps", "serviceaccounts/token"].filter((resource) => rules.includes(`"${resource}"`));
    };
    const tenants = {
      encryptionKMSConfig: { a: { KMS_PROVIDER: "vaulttenantsa" }, b: { encryptionKMSType: "vault" } },
    };
    expect(await granted({})).toBeUndefined();
    expect(await granted(KMS)).toEqual(["configmaps"]);
    expect(await granted(tenants)).toEqual(["configmaps", "serviceaccounts/token"]);
    expect(await granted({ externallyManagedKMSConfig: true })).toEqual(["configmaps", "serviceaccounts/token"]);
  });

  test("have a configuration that somebody else makes, and pods start without any", async () => {
    for (const values of [{}, over(KMS, { externallyManagedKMSConfig: true })]) {
      const all = await render(values);
      const maps = all.objects.filter(({ kind }) => kind === "ConfigMap").map((map) => at(map, "metadata.name"));
      expect(maps).toEqual(["ceph-config", "ceph-csi-config"]);
      for (const object of [only(all, "DaemonSet"), only(all, "Deployment")]) {
        const volume = listAt(podOf(object), "volumes").find(({ name }) => name === "ceph-csi-encryption-kms-config");
        expect(at(volume ?? {}, "configMap.optional")).toBe(true);
      }
    }
  });
});

describe("the node plugin", () => {
  test("is one container, which registers itself at the host's path of its socket", async () => {
    const node = only(await render({ kubeletDir: "/srv/kubelet", driverName: "rbd.example.com" }), "DaemonSet");
    expect(listAt(podOf(node), "containers").map(({ name }) => name)).toEqual([DRIVER]);
    expect(argsOf(node)).toContain("--nodeserver=true");
    expect(argsOf(node)).toContain("--endpoint=unix:///csi/csi.sock");
    expect(argsOf(node)).toContain("--kubelet-registration-path=/srv/kubelet/plugins/rbd.example.com/csi.sock");
    const paths = Object.fromEntries(
      listAt(podOf(node), "volumes").map((each) => [each["name"], at(each, "hostPath.path")]),
    );
    expect(paths).toMatchObject({
      "socket-dir": "/srv/kubelet/plugins/rbd.example.com",
      "registration-dir": "/srv/kubelet/plugins_registry",
      "mountpoint-dir": "/srv/kubelet/pods",
    });
  });

  test("shares its mounts with the host and is on the host's network, not among its processes", async () => {
    const pod = podOf(only(await render(), "DaemonSet"));
    const mounts = listAt(pod, "containers.0.volumeMounts");
    expect(mounts.filter((each) => each["mountPropagation"] === "Bidirectional").map(({ name }) => name)).toEqual([
      "plugin-dir",
      "mountpoint-dir",
    ]);
    expect(pod["hostNetwork"]).toBe(true);
    expect(pod["hostPID"]).toBeUndefined();
    expect(pod["priorityClassName"]).toBe("system-node-critical");
  });

  test("is among the host's processes where a cluster's network is that of a process, unless values say no", async () => {
    const csiConfig = [{ clusterID: "a", monitors: [], rbd: { netNamespaceFilePath: "/proc/1234/ns/net" } }];
    const hostPID = async (values: Tree) => podOf(only(await render(values), "DaemonSet"))["hostPID"];
    expect(await hostPID({ csiConfig })).toBe(true);
    expect(await hostPID({ csiConfig, nodeplugin: { hostPID: false } })).toBeUndefined();
    expect(await hostPID({ nodeplugin: { hostPID: true } })).toBe(true);
  });

  test("keeps rbd-nbd's processes and logs, and may look up their volumes, where a class or the values ask for it", async () => {
    const made = async (values: Tree) => {
      const rendered = await render(values);
      const pod = podOf(only(rendered, "DaemonSet"));
      const role = rendered.objects.find(
        (each) => each["kind"] === "ClusterRole" && at(each, "metadata.labels.component") === "nodeplugin",
      );
      return {
        hostPID: pod["hostPID"],
        logs: listAt(pod, "volumes").find(({ name }) => name === "ceph-logdir")?.["hostPath"],
        resources: listAt(role ?? {}, "rules").flatMap(({ resources }) => resources),
      };
    };
    const type = "DirectoryOrCreate";
    const with_ = {
      hostPID: true,
      logs: { path: "/var/log/ceph", type },
      resources: ["nodes", "volumeattachments", "persistentvolumes", "secrets"],
    };
    const without = { hostPID: undefined, logs: undefined, resources: ["nodes"] };
    expect(await made({})).toEqual(without);
    expect(await made({ nodeplugin: { rbdNbd: true } })).toEqual(with_);
    expect(await made({ nodeplugin: { liveLimits: true } })).toEqual({ ...without, resources: with_.resources });
    expect(await made({ storageClass: { mounter: "rbd-nbd" } })).toEqual(with_);
    expect(await made({ storageClass: { tryOtherMounters: "true" } })).toEqual(with_);
    expect(await made({ storageClass: { mounter: "rbd-nbd" }, nodeplugin: { rbdNbd: false } })).toEqual(without);
    expect(await made({ nodeplugin: { rbdNbd: true, hostPID: false }, cephLogDirHostPath: "/srv/log" })).toEqual({
      ...with_,
      hostPID: undefined,
      logs: { path: "/srv/log", type },
    });
  });

  test("mounts /etc/selinux, and does not where values say no", async () => {
    const mounts = async (values: Tree) =>
      listAt(podOf(only(await render(values), "DaemonSet")), "containers.0.volumeMounts").map(
        ({ mountPath }) => mountPath,
      );
    expect(await mounts({})).toContain("/etc/selinux");
    expect(await mounts({ selinuxMount: false })).not.toContain("/etc/selinux");
  });

  test("is replaced on a tenth of the nodes at a time", async () => {
    expect(treeAt(only(await render(), "DaemonSet"), "spec.updateStrategy")).toEqual({
      type: "RollingUpdate",
      rollingUpdate: { maxUnavailable: "10%" },
    });
  });

  test("may read nodes and nothing else of the API", async () => {
    const { objects } = await render();
    const role = objects.find(
      (each) => each["kind"] === "ClusterRole" && at(each, "metadata.labels.component") === "nodeplugin",
    );
    expect(role?.["rules"]).toEqual([{ apiGroups: [""], resources: ["nodes"], verbs: ["get"] }]);
  });

  test("runs on every node with tolerateAllTaints", async () => {
    const node = only(
      await render({ nodeplugin: { tolerateAllTaints: true, tolerations: [{ key: "a" }] } }),
      "DaemonSet",
    );
    expect(podOf(node)["tolerations"]).toEqual([{ operator: "Exists" }]);
  });
});

describe("the controller", () => {
  test("has the driver, which attaches, beside provisioner, resizer and snapshotter", async () => {
    const deployment = only(await render(), "Deployment");
    expect(listAt(podOf(deployment), "containers").map(({ name }) => name)).toEqual([
      DRIVER,
      "csi-provisioner",
      "csi-resizer",
      "csi-snapshotter",
    ]);
    expect(argsOf(deployment)).toContain("--attacher=true");
  });

  test("every container runs without root, without privileges and on a read-only root", async () => {
    const pod = podOf(only(await render(ALL_ON), "Deployment"));
    expect(pod["securityContext"]).toMatchObject({
      runAsNonRoot: true,
      runAsUser: 1000,
      fsGroup: 1000,
      seccompProfile: { type: "RuntimeDefault" },
    });
    const containers = listAt(pod, "containers");
    expect(containers).toHaveLength(6);
    for (const { securityContext } of containers) {
      expect(securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      });
    }
    expect(listAt(pod, "volumes").filter((volume) => "hostPath" in volume)).toEqual([]);
    expect(pod["hostNetwork"]).toBeUndefined();
  });

  test("reads secrets by name only, and no rule has a wildcard", async () => {
    const { objects } = await render(ALL_ON);
    const rules = objects
      .filter((each) => String(each["kind"]).endsWith("Role"))
      .flatMap((role) => listAt(role, "rules"));
    expect(JSON.stringify(rules)).not.toContain("*");
    const secrets = rules.filter((rule) => (rule["resources"] as string[]).includes("secrets"));
    expect(secrets).toEqual([{ apiGroups: [""], resources: ["secrets"], verbs: ["get"] }]);
  });

  test("is two replicas on different nodes and zones where it can, of which one at a time may be evicted", async () => {
    const all = await render();
    const deployment = only(all, "Deployment");
    const selector = at(deployment, "spec.selector");
    expect(at(deployment, "spec.replicas")).toBe(2);
    expect(at(deployment, "spec.template.spec.priorityClassName")).toBe("system-cluster-critical");
    const spread = listAt(podOf(deployment), "topologySpreadConstraints");
    expect(spread.map(({ topologyKey }) => topologyKey)).toEqual([
      "kubernetes.io/hostname",
      "topology.kubernetes.io/zone",
    ]);
    for (const { labelSelector } of spread) expect(labelSelector).toEqual(selector);
    const budget = only(all, "PodDisruptionBudget");
    expect(budget["spec"]).toEqual({ maxUnavailable: 1, selector });
  });

  test("on the nodes' network a replica ends before the one that takes its ports, unless values say no", async () => {
    const rolling = async (maxUnavailable: unknown, enableHostNetwork = true) => {
      const strategy = { rollingUpdate: { maxUnavailable } };
      const rendered = await render({ provisioner: { enableHostNetwork, strategy } });
      return at(only(rendered, "Deployment"), "spec.strategy.rollingUpdate");
    };
    expect(await rolling("50%")).toEqual({ maxSurge: 0, maxUnavailable: "50%" });
    expect(await rolling("50%", false)).toEqual({ maxUnavailable: "50%" });
    // Kubernetes refuses two zeros
    expect(await rolling(0)).toEqual({ maxUnavailable: 0 });
  });

  test("a budget for a single replica would block every drain, so there is none", async () => {
    const { objects } = await render({ provisioner: { replicaCount: 1 } });
    expect(objects.filter(({ kind }) => kind === "PodDisruptionBudget")).toEqual([]);
  });

  test("its network policy lets in what the pods listen on, and nothing else", async () => {
    const all = await render({ provisioner: { resizer: { enabled: false } } });
    const listened = listAt(podOf(only(all, "Deployment")), "containers").flatMap((each) =>
      listAt(each, "ports").map(({ containerPort }) => containerPort),
    );
    const policy = only(all, "NetworkPolicy");
    const letIn = listAt(policy, "spec.ingress").flatMap((rule) => listAt(rule, "ports").map(({ port }) => port));
    expect(new Set(letIn)).toEqual(new Set(listened));
    expect(at(policy, "spec.policyTypes")).toEqual(["Ingress"]);
    expect(at(policy, "spec.podSelector")).toEqual(at(only(all, "Deployment"), "spec.selector"));
  });

  test("upstream's attacher and the driver's take each other's place", async () => {
    const deployment = async (sidecar: boolean) =>
      only(await render({ provisioner: { attacher: { sidecar, args: { workerThreads: 20 } } } }), "Deployment");
    const upstream = await deployment(true);
    expect(argsOf(upstream)).not.toContain("--attacher=true");
    expect(argsOf(upstream, "csi-attacher")).toContain("--leader-election=true");
    expect(argsOf(upstream, "csi-attacher")).toContain("--worker-threads=20");
    expect(container(upstream, "csi-attacher")["image"]).toBe("registry.k8s.io/sig-storage/csi-attacher:v4.13.0");
    const own = await deployment(false);
    expect(listAt(podOf(own), "containers").map(({ name }) => name)).not.toContain("csi-attacher");
    expect(argsOf(own)).toContain("--attacher=true");
    expect(argsOf(own)).toContain("--leader-election=true");
  });

  test("the driver's attacher is given the flags that it has, and the notes name the others", async () => {
    const attacher = {
      sidecar: false,
      args: { leaderElectionLeaseDuration: "30s", workerThreads: 20 },
      extraArgs: ["timeout=60s"],
    };
    const args = argsOf(only(await render({ provisioner: { attacher } }), "Deployment"));
    expect(args).toContain("--leader-election-lease-duration=30s");
    expect(args.filter((arg) => /worker|timeout/.test(arg))).toEqual([]);
    const { notes } = await install({ provisioner: { attacher } });
    expect(notes).toContain("- provisioner.attacher.args: the driver's attacher does not have --worker-threads=20;");
    expect(notes).toContain("- provisioner.attacher.extraArgs: the driver's attacher does not have --timeout=60s;");
  });

  test("a PodMonitor asks the sidecars that run and serve metrics", async () => {
    const values = valuesOf({
      "provisioner.podMonitor.enabled": true,
      "provisioner.attacher.sidecar": true,
      "provisioner.resizer.enabled": false,
      "provisioner.snapshotter.args": { httpEndpointPort: 0 },
    });
    const monitor = only(await render(values), "PodMonitor");
    expect(listAt(monitor, "spec.podMetricsEndpoints").map(({ port }) => port)).toEqual(["provisioner", "attacher"]);
  });

  test("nobody attaches with attacher.enabled=false, and nobody may", async () => {
    const { text, objects } = await render({ provisioner: { attacher: { enabled: false } } });
    expect(text).not.toContain("attacher");
    expect(JSON.stringify(objects)).not.toContain("volumeattachments/status");
  });

  test("a class names the Secret for attaching only if it is asked to, because a class must not change", async () => {
    const publish = async (more: Tree) => {
      const storageClass = { create: true, clusterID: "prod", ...more };
      const { parameters } = only(await render({ storageClass }), "StorageClass");
      return Object.entries(parameters as Tree).filter(([key]) => key.includes("publish"));
    };
    expect(await publish({})).toEqual([]);
    expect(Object.fromEntries(await publish({ controllerPublishSecret: "s" }))).toMatchObject({
      "csi.storage.k8s.io/controller-publish-secret-name": "s",
    });
    expect(
      Object.fromEntries(await publish({ controllerPublishSecret: "s", controllerPublishSecretNamespace: "n" })),
    ).toEqual({
      "csi.storage.k8s.io/controller-publish-secret-name": "s",
      "csi.storage.k8s.io/controller-publish-secret-namespace": "n",
    });
  });

  test("a class asks for encrypted files where its values do, and names no type otherwise", async () => {
    const parameters = async (more: Tree) => {
      const storageClass = { create: true, clusterID: "prod", encrypted: "true", ...more };
      return only(await render({ storageClass }), "StorageClass").parameters as Tree;
    };
    expect((await parameters({}))["encryptionType"]).toBeUndefined();
    const files = { encryptionType: "file", encryptionKMSID: "vault" };
    expect(await parameters(files)).toMatchObject({ encrypted: "true", ...files });
  });

  test("the controller may read what fencing asks for: nodes and Secrets", async () => {
    const role = (await render({ enableFencing: true })).objects.find(
      ({ kind, metadata }) => kind === "ClusterRole" && String((metadata as Tree)["name"]).includes("provisioner"),
    );
    const rules = JSON.stringify(role?.["rules"]);
    expect(rules).toContain('{"apiGroups":[""],"resources":["nodes"],"verbs":["get","list","watch"]}');
    expect(rules).toContain('{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}');
  });

  test("credentials for lists are mounted where the driver looks for them", async () => {
    const values = { clusterCredentials: [{ clusterID: "Prod_1", secretName: "csi-rbd-secret" }] };
    const deployment = only(await render(values), "Deployment");
    const mount = listAt(container(deployment, DRIVER), "volumeMounts").find(({ mountPath }) =>
      String(mountPath).startsWith("/etc/ceph-csi-secrets"),
    );
    expect(mount).toMatchObject({ mountPath: "/etc/ceph-csi-secrets/Prod_1", readOnly: true });
    const volume = listAt(podOf(deployment), "volumes").find(({ name }) => name === mount?.["name"]);
    // readable for the pod's group, because nobody is root
    expect(volume?.["secret"]).toEqual({ secretName: "csi-rbd-secret", defaultMode: 0o440 });
    expect(String(volume?.["name"])).toMatch(/^[a-z0-9-]+$/);
  });

  test("gates go to the releases of sidecars that know them", async () => {
    const gates = async (sidecar: string, tag: string, more: Tree = {}) => {
      const values = { provisioner: { [sidecar]: { image: { tag }, ...more } } };
      return argsOf(only(await render(values), "Deployment"), `csi-${sidecar}`).filter((arg) =>
        /gates|group/.test(arg),
      );
    };
    expect(await gates("provisioner", "v5.0.1")).toEqual(["--feature-gates=HonorPVReclaimPolicy=true,Topology=false"]);
    expect(await gates("provisioner", "v6.2.0")).toEqual(["--feature-gates=Topology=false"]);
    expect(await gates("provisioner", "mirrored")).toEqual(["--feature-gates=Topology=false"]);
    expect(await gates("resizer", "v1.11.1")).toEqual(["--feature-gates=RecoverVolumeExpansionFailure=true"]);
    const groups = { args: { enableVolumeGroupSnapshots: true } };
    expect(await gates("snapshotter", "v8.0.1", groups)).toEqual(["--enable-volume-group-snapshots=true"]);
    expect(await gates("snapshotter", "v8.6.0", groups)).toEqual(["--feature-gates=CSIVolumeGroupSnapshot=true"]);
  });

  test("claims are placed by the topology of nodes where nodes have one", async () => {
    const gates = async (topology: Tree) =>
      argsOf(only(await render({ topology }), "Deployment"), "csi-provisioner").filter((arg) => arg.includes("gates"));
    const domainLabels = ["topology.kubernetes.io/zone"];
    expect(await gates({ domainLabels })).toEqual(["--feature-gates=Topology=true"]);
    // without labels a class that binds late would make no volume
    for (const without of [{}, { domainLabels: [] }, { enabled: false, domainLabels }]) {
      expect(await gates(without)).toEqual(["--feature-gates=Topology=false"]);
    }
  });

  test("classes of snapshots tell from where pools can be reached where their values do, as lists and as texts", async () => {
    const parametersOf = async (kind: string, pools: unknown) => {
      const values = over(ALL_ON, valuesOf({ [`v${kind.slice(1)}.topologyConstrainedPools`]: pools }));
      return only(await render(values), kind).parameters as Tree;
    };
    const pools = [{ poolName: "a", domainSegments: [{ domainLabel: "zone", value: "east" }] }];
    for (const kind of ["VolumeSnapshotClass", "VolumeGroupSnapshotClass"]) {
      expect(await parametersOf(kind, [])).not.toHaveProperty("topologyConstrainedPools");
      for (const given of [pools, JSON.stringify(pools)]) {
        const text = (await parametersOf(kind, given))["topologyConstrainedPools"];
        expect(JSON.parse(String(text))).toEqual(pools);
      }
    }
  });

  test("flags of a sidecar are written in camelCase or as words, and large numbers stay as they are", async () => {
    const provisioner = {
      args: { kubeApiQps: 1_000_000, "worker-threads": 20 },
      extraArgs: ["v=5", "--strict-topology"],
    };
    const args = argsOf(only(await render({ provisioner: { provisioner } }), "Deployment"), "csi-provisioner");
    for (const flag of ["--kube-api-qps=1000000", "--worker-threads=20", "--v=5", "--strict-topology"]) {
      expect(args).toContain(flag);
    }
  });
});

/** Until kubelet ends a container that has not answered. */
const secondsToStart = (of: Tree): number =>
  Number(at(of, "startupProbe.periodSeconds")) * Number(at(of, "startupProbe.failureThreshold"));

describe("for both", () => {
  test("a sidecar, which serves nothing before the driver answers, has as long to start as the driver", async () => {
    const provisioner = { attacher: { sidecar: true }, snapshotter: { args: { httpEndpointPort: 0 } } };
    const pod = only(await render({ provisioner }), "Deployment");
    for (const [name, port] of [
      ["csi-provisioner", "provisioner"],
      ["csi-resizer", "resizer"],
      ["csi-attacher", "attacher"],
    ] as const) {
      const sidecar = container(pod, name);
      for (const probe of ["startupProbe", "livenessProbe"]) {
        expect(at(sidecar, `${probe}.httpGet`)).toEqual({ path: "/healthz/leader-election", port });
      }
      expect(secondsToStart(sidecar)).toBe(secondsToStart(container(pod, DRIVER)));
    }
    for (const probe of ["startupProbe", "livenessProbe"]) {
      expect(container(pod, "csi-snapshotter")).not.toHaveProperty(probe);
    }
  });

  test("a sidecar that is told to elect nobody has no probe, because what the probes ask is the election's", async () => {
    const provisioner = {
      provisioner: { args: { leaderElection: false } },
      resizer: { extraArgs: ["-leader-election=F"] },
      snapshotter: {
        args: { leaderElection: false },
        extraArgs: ["leader-election", "leader-election-lease-duration=30s"],
      },
    };
    const pod = only(await render({ provisioner }), "Deployment");
    for (const probe of ["startupProbe", "livenessProbe"]) {
      expect(container(pod, "csi-provisioner")).not.toHaveProperty(probe);
      expect(container(pod, "csi-resizer")).not.toHaveProperty(probe);
      expect(container(pod, "csi-snapshotter")).toHaveProperty(probe);
    }
    expect(argsOf(pod, "csi-provisioner").at(-1)).toBe("--leader-election=false");
  });

  test("kubelet asks /healthz at the address where the driver serves it", async () => {
    const all = await render({ nodeplugin: { healthPort: 9999 }, provisioner: { healthPort: 9998 } });
    for (const [kind, address, host] of [
      ["DaemonSet", "127.0.0.1:9999", "127.0.0.1"],
      ["Deployment", ":9998", undefined],
    ] as const) {
      expect(argsOf(only(all, kind))).toContain(`--http-endpoint=${address}`);
      const driver = container(only(all, kind), DRIVER);
      const port = listAt(driver, "ports").find(({ name }) => name === "healthz")?.["containerPort"];
      expect(`${host ?? ""}:${String(port)}`).toBe(address);
      for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) {
        expect(at(driver, `${probe}.httpGet`)).toEqual({ path: "/healthz", port: "healthz", ...(host && { host }) });
      }
      // more than the driver gives itself (--probe-timeout, 3s)
      expect(at(driver, "livenessProbe.timeoutSeconds")).toBeGreaterThan(3);
      expect(secondsToStart(driver)).toBe(300);
    }
    const none = await render({ nodeplugin: { healthPort: 0 } });
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) {
      expect(container(only(none, "DaemonSet"), DRIVER)).not.toHaveProperty(probe);
    }
  });

  test("the image is that of the version and of the release of Ceph's libraries", async () => {
    const image = async (values: Tree) => container(only(await render(values), "DaemonSet"), DRIVER)["image"];
    expect(await image({ image: { ceph: 20 } })).toBe("localhost/csi-rbd:0.1.0-ceph20");
    expect(await image({ image: { tag: "mine" } })).toBe("localhost/csi-rbd:mine");
  });

  test("the CSIDriver asks for pod information and SELinux mounts", async () => {
    expect(only(await render(), "CSIDriver")["spec"]).toEqual({
      attachRequired: true,
      podInfoOnMount: true,
      fsGroupPolicy: "File",
      seLinuxMount: true,
      storageCapacity: false,
    });
  });

  test("every image takes the registry of global.imageRegistry, and a digest counts in place of a tag", async () => {
    const digest = `sha256:${"a".repeat(64)}`;
    const values = { ...ALL_ON, global: { imageRegistry: "mirror.example:5000/k8s" }, image: { digest } };
    const { text } = await render(values);
    const images = [...text.matchAll(/image: "?([^"\n]+)/g)].map(([, image]) => image ?? "");
    expect(images.length).toBeGreaterThan(6);
    for (const image of images) expect(image).toStartWith("mirror.example:5000/k8s/");
    expect(images).toContain(`mirror.example:5000/k8s/csi-rbd@${digest}`);
    expect(images).toContain("mirror.example:5000/k8s/sig-storage/csi-resizer:v2.2.1");
  });

  test("arguments, environment, volumes and containers can be added", async () => {
    const plugin = {
      extraArgs: ["osd-timeout=60s"],
      extraEnv: [{ name: "A", value: "b" }],
      extraEnvFrom: [{ configMapRef: { name: "c" } }],
      extraVolumeMounts: [{ name: "more", mountPath: "/more" }],
    };
    const pod = {
      plugin,
      extraVolumes: [{ name: "more", emptyDir: {} }],
      extraContainers: [{ name: "more", image: "more" }],
      initContainers: [{ name: "first", image: "first" }],
      podLabels: { team: "storage" },
      podAnnotations: { note: "n" },
      dnsConfig: { searches: ["example.com"] },
    };
    const all = await render({ nodeplugin: pod, provisioner: pod, commonLabels: { cost: "1" } });
    for (const kind of ["DaemonSet", "Deployment"]) {
      const object = only(all, kind);
      const driver = container(object, DRIVER);
      expect(argsOf(object)).toContain("--osd-timeout=60s");
      expect(driver["env"]).toContainEqual({ name: "A", value: "b" });
      expect(driver["envFrom"]).toEqual(plugin.extraEnvFrom);
      expect(driver["volumeMounts"]).toContainEqual({ name: "more", mountPath: "/more" });
      expect(podOf(object)["volumes"]).toContainEqual({ name: "more", emptyDir: {} });
      expect(container(object, "more")["image"]).toBe("more");
      expect(podOf(object)["initContainers"]).toEqual(pod.initContainers);
      expect(podOf(object)["dnsConfig"]).toEqual(pod.dnsConfig);
      expect(at(object, "spec.template.metadata.labels")).toMatchObject({ team: "storage", cost: "1" });
      expect(at(object, "spec.template.metadata.annotations")).toEqual({ note: "n" });
      expect(at(object, "metadata.labels.cost")).toBe("1");
    }
  });

  test("the driver ends its work 5 seconds before the pod's end", async () => {
    const all = await render({ nodeplugin: { terminationGracePeriodSeconds: 90 } });
    expect(argsOf(only(all, "DaemonSet"))).toContain("--grace-period=85s");
    expect(argsOf(only(all, "Deployment"))).toContain("--grace-period=25s");
  });

  test("ServiceMonitors are made where the cluster knows them, or by force", async () => {
    const monitors = async (values: Tree, apis: readonly string[]) =>
      (await render(values, {}, apis)).objects.filter(({ kind }) => kind === "ServiceMonitor").length;
    const api = "monitoring.coreos.com/v1/ServiceMonitor";
    expect(await monitors({}, [])).toBe(0);
    expect(await monitors({}, [api])).toBe(2);
    expect(await monitors({ metrics: { serviceMonitor: { forceEnable: true } } }, [])).toBe(2);
    expect(await monitors({ metrics: { serviceMonitor: { enabled: false } } }, [api])).toBe(0);
  });

  test("a ServiceMonitor selects the Service of its own pods", async () => {
    const { objects } = await render({ metrics: { serviceMonitor: { forceEnable: true } } });
    const services = objects.filter(({ kind }) => kind === "Service");
    for (const monitor of objects.filter(({ kind }) => kind === "ServiceMonitor")) {
      const labels = Object.entries(treeAt(monitor, "spec.selector.matchLabels"));
      const selected = services.filter((each) =>
        labels.every(([key, value]) => treeAt(each, "metadata.labels")[key] === value),
      );
      expect(selected.map((each) => at(each, "spec.selector.component"))).toEqual([
        at(monitor, "metadata.labels.component"),
      ]);
      expect(at(selected[0], "spec.ports.0.name")).toBe(at(monitor, "spec.endpoints.0.port"));
    }
  });

  test("the metrics' Services carry Prometheus' annotations on demand", async () => {
    const annotated = async (metrics: Tree) =>
      (await render({ metrics })).objects
        .filter(({ kind }) => kind === "Service")
        .map((each) => at(each, "metadata.annotations"));
    const scrape = { "prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/metrics" };
    expect(await annotated({})).toEqual([undefined, undefined]);
    expect(await annotated({ annotations: true })).toEqual([scrape, scrape]);
  });

  test("a namespace that the chart makes lets privileged pods run, and outlives the release", async () => {
    const metadata = treeAt(only(await render({ namespace: { create: true } }), "Namespace"), "metadata");
    for (const mode of ["enforce", "audit", "warn"]) {
      expect(treeAt(metadata, "labels")[`pod-security.kubernetes.io/${mode}`]).toBe("privileged");
    }
    expect(metadata["annotations"]).toEqual({ "helm.sh/resource-policy": "keep" });
  });

  test("objects of extraDeploy are templates, as maps and as texts", async () => {
    const metadata = { name: "{{ .Release.Name }}-more" };
    const extraDeploy = [
      { apiVersion: "v1", kind: "Limit", metadata },
      "apiVersion: v1\nkind: Quota\nmetadata:\n  name: {{ .Values.driverName }}\n",
    ];
    const all = await render({ extraDeploy }, { name: "release" });
    expect(at(only(all, "Limit"), "metadata.name")).toBe("release-more");
    expect(at(only(all, "Quota"), "metadata.name")).toBe("rbd.csi.ceph.com");
  });

  test("helm test writes to a claim of the class that the chart makes", async () => {
    const { objects } = await render(ALL_ON);
    const hooks = objects.filter((each) => hookOf(each) === "test");
    expect(hooks.map(({ kind }) => kind)).toEqual(["PersistentVolumeClaim", "Pod"]);
    expect(at(hooks[0], "spec.storageClassName")).toBe("csi-rbd-sc");
  });

  test("the notes warn where nobody attaches volumes", async () => {
    const warning = "no pod with a volume starts unless another csi-attacher runs";
    expect((await install({})).notes).not.toContain(warning);
    expect((await install({ provisioner: { attacher: { enabled: false } } })).notes).toContain(warning);
  });

  test("the notes name values that nothing reads, and those only", async () => {
    const { notes } = await install({
      nodplugin: {},
      nodeplugin: { plugin: { resource: {} }, nodeSelector: { a: "b" } },
    });
    const lines = notes.split("\n").filter((line) => line.startsWith("- "));
    expect(lines).toEqual(["- nodeplugin.plugin.resource", "- nodplugin"]);
  });
});

describe("values that cannot be right end the install and name the key", () => {
  const wrong: ReadonlyArray<readonly [Tree, string]> = [
    [{ provisioner: { timeout: "150" } }, "/provisioner/timeout"],
    [{ image: { digest: "latest" } }, "/image/digest"],
    [{ nodeplugin: { healthPort: 70_000 } }, "/nodeplugin/healthPort"],
    [{ nodeplugin: { updateStrategy: "Rolling" } }, "/nodeplugin/updateStrategy"],
    [{ csiConfig: { clusterID: "a" } }, "/csiConfig"],
    [{ kubeletDir: "/var/lib/kubelet/" }, "/kubeletDir"],
    [{ CSIDriver: { fsGroupPolicy: "Files" } }, "/CSIDriver/fsGroupPolicy"],
    [{ storageClass: { create: true } }, "storageClass.clusterID"],
    [{ secret: { create: true, userID: "user" } }, "secret.userKey"],
    [{ rbac: { create: "no" } }, "/rbac/create"],
  ];
  for (const [values, key] of wrong) {
    test(JSON.stringify(values), async () => {
      const message = await render(values).then(
        () => "no error",
        (error: unknown) => String(error),
      );
      expect(message).toContain(key);
    });
  }
});
