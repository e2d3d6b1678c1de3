/**
 * The Kubernetes objects of the cluster: the driver's own, an administrator's classes, and a user's claims and pods.
 *
 * Not here: who applies them (./cluster.ts, ./steps.ts).
 */
import { BUSYBOX, NODE } from "../rig/kubernetes/node.ts";

export const DRIVER = "rbd.csi.ceph.com";
export const NAMESPACE = "csi-rbd";
export const CLUSTER_ID = "rig";
export const POOL = "rbd";
/** Of the StorageClass, the VolumeSnapshotClass and the secret. */
export const CLASS = "rbd";

export type Fields = Readonly<Record<string, unknown>>;

const core = (kind: string, name: string, rest: Fields, namespace?: string): Fields => ({
  apiVersion: "v1",
  kind,
  metadata: { name, ...(namespace === undefined ? {} : { namespace }) },
  ...rest,
});

const KUBELET = "/var/lib/kubelet";

/** On a node that is this machine's file tree: the driver's executable is a file of it. */
const nodePlugin = (argv: ReadonlyArray<string>, configDir: string): Fields => ({
  containers: [
    {
      name: "driver",
      image: BUSYBOX,
      securityContext: { privileged: true },
      env: [{ name: "PATH", value: "/usr/sbin:/usr/bin:/sbin:/bin" }],
      command: [
        "chroot",
        "/host",
        ...argv,
        "--type=rbd",
        "--nodeserver=true",
        `--nodeid=${NODE}`,
        `--endpoint=unix://${KUBELET}/plugins/${DRIVER}/csi.sock`,
        `--kubelet-registration-path=${KUBELET}/plugins/${DRIVER}/csi.sock`,
        `--plugin-registration-path=${KUBELET}/plugins_registry`,
        `--config-dir=${configDir}`,
      ],
      volumeMounts: [
        { name: "host", mountPath: "/host", mountPropagation: "Bidirectional" },
        { name: "plugin", mountPath: "/csi" },
      ],
    },
  ],
  hostNetwork: true,
  hostPID: true,
  volumes: [
    { name: "host", hostPath: { path: "/" } },
    // for the sake of the folder, which kubelet makes
    { name: "plugin", hostPath: { path: `${KUBELET}/plugins/${DRIVER}`, type: "DirectoryOrCreate" } },
  ],
});

const secrets = (secret: string, ...uses: ReadonlyArray<string>): Fields =>
  Object.fromEntries(
    uses.flatMap((use) => [
      [`csi.storage.k8s.io/${use}-secret-name`, secret],
      [`csi.storage.k8s.io/${use}-secret-namespace`, NAMESPACE],
    ]),
  );

/** A StorageClass, and the secret of its Ceph user under the same name. */
export const storageClass = (name: string, user: Fields): ReadonlyArray<Fields> => [
  core("Secret", name, { stringData: user }, NAMESPACE),
  {
    apiVersion: "storage.k8s.io/v1",
    kind: "StorageClass",
    metadata: { name },
    provisioner: DRIVER,
    parameters: {
      clusterID: CLUSTER_ID,
      pool: POOL,
      imageFeatures: "layering,exclusive-lock,object-map,fast-diff",
      "csi.storage.k8s.io/fstype": "ext4",
      ...secrets(name, "provisioner", "controller-expand", "node-stage"),
    },
    allowVolumeExpansion: true,
    reclaimPolicy: "Delete",
  },
];

const daemonSet = (name: string, spec: Fields): Fields => {
  const labels = { app: name };
  return {
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    metadata: { name, namespace: NAMESPACE },
    spec: { selector: { matchLabels: labels }, template: { metadata: { labels }, spec } },
  };
};

/** Name of the DaemonSet, and of its pods' label `app`. */
export const NODE_PLUGIN = "csi-rbd-node";

/** What an administrator applies, with the key of a Ceph user. */
export const driverObjects = (argv: ReadonlyArray<string>, configDir: string, user: Fields): ReadonlyArray<Fields> => [
  core("Namespace", NAMESPACE, {}),
  {
    apiVersion: "storage.k8s.io/v1",
    kind: "CSIDriver",
    metadata: { name: DRIVER },
    spec: { attachRequired: true, podInfoOnMount: false, fsGroupPolicy: "File" },
  },
  daemonSet(NODE_PLUGIN, nodePlugin(argv, configDir)),
  ...storageClass(CLASS, user),
  {
    apiVersion: "snapshot.storage.k8s.io/v1",
    kind: "VolumeSnapshotClass",
    metadata: { name: CLASS },
    driver: DRIVER,
    parameters: { clusterID: CLUSTER_ID, ...secrets(CLASS, "snapshotter") },
    deletionPolicy: "Delete",
  },
];

export interface Claim {
  readonly size: string;
  readonly block?: boolean;
  /** Name of the VolumeSnapshot to restore. */
  readonly from?: string;
  readonly className?: string;
}

export const claim = (name: string, { size, block = false, from, className = CLASS }: Claim): Fields =>
  core("PersistentVolumeClaim", name, {
    spec: {
      storageClassName: className,
      accessModes: ["ReadWriteOnce"],
      volumeMode: block ? "Block" : "Filesystem",
      resources: { requests: { storage: size } },
      ...(from === undefined
        ? {}
        : { dataSource: { apiGroup: "snapshot.storage.k8s.io", kind: "VolumeSnapshot", name: from } }),
    },
  });

export const snapshot = (name: string, of: string): Fields => ({
  apiVersion: "snapshot.storage.k8s.io/v1",
  kind: "VolumeSnapshot",
  metadata: { name },
  spec: { volumeSnapshotClassName: CLASS, source: { persistentVolumeClaimName: of } },
});

/** Where a pod finds its claim. */
export const MOUNTED = "/data";
export const DEVICE = "/dev/claim";

/** A pod that has a claim and runs a line of shell. */
export const pod = (name: string, claimName: string, line: string, block = false): Fields =>
  core("Pod", name, {
    spec: {
      // 0 would be to delete by force
      terminationGracePeriodSeconds: 1,
      containers: [
        {
          name: "main",
          image: BUSYBOX,
          command: ["sh", "-c", line],
          ...(block
            ? { volumeDevices: [{ name: "claim", devicePath: DEVICE }] }
            : { volumeMounts: [{ name: "claim", mountPath: MOUNTED }] }),
        },
      ],
      volumes: [{ name: "claim", persistentVolumeClaim: { claimName } }],
    },
  });
