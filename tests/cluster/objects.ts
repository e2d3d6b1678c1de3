/**
 * The Kubernetes objects of those who use the cluster: claims, pods and snapshots.
 *
 * Not here: the driver's own objects, which are the chart's (./chart.ts).
 */
import { BUSYBOX } from "../rig/kubernetes/node.ts";

export const DRIVER = "rbd.csi.ceph.com";
export const NAMESPACE = "csi-rbd";
export const CLUSTER_ID = "rig";
export const POOL = "rbd";
/** Of the StorageClass, the VolumeSnapshotClass and the secret. */
export const CLASS = "rbd";

export type Fields = Readonly<Record<string, unknown>>;

export const kubeObject = (apiVersion: string, kind: string, name: string, rest: Fields): Fields => ({
  apiVersion,
  kind,
  metadata: { name },
  ...rest,
});

const core = (kind: string, name: string, rest: Fields): Fields => kubeObject("v1", kind, name, rest);

/** What `kubectl apply -f -` reads. */
export const listOf = (...items: ReadonlyArray<Fields>): string =>
  JSON.stringify({ apiVersion: "v1", kind: "List", items });

/** An object in another namespace than the default one. */
export const within = (namespace: string, object: Fields): Fields => ({
  ...object,
  metadata: { ...(object["metadata"] as Fields), namespace },
});

const secrets = (secret: string, ...uses: ReadonlyArray<string>): Fields =>
  Object.fromEntries(
    uses.flatMap((use) => [
      [`csi.storage.k8s.io/${use}-secret-name`, secret],
      [`csi.storage.k8s.io/${use}-secret-namespace`, NAMESPACE],
    ]),
  );

/** The secret of a Ceph user, and what else a class may need of it. */
export const secretOf = (name: string, secret: Fields): Fields =>
  within(NAMESPACE, core("Secret", name, { stringData: secret }));

/** A StorageClass, with parameters of its own, and the secret of its Ceph user under the same name. */
export const storageClass = (name: string, secret: Fields, parameters: Fields = {}): ReadonlyArray<Fields> => [
  secretOf(name, secret),
  kubeObject("storage.k8s.io/v1", "StorageClass", name, {
    provisioner: DRIVER,
    parameters: {
      clusterID: CLUSTER_ID,
      pool: POOL,
      imageFeatures: "layering,exclusive-lock,object-map,fast-diff",
      "csi.storage.k8s.io/fstype": "ext4",
      ...secrets(name, "provisioner", "controller-expand", "node-stage"),
      ...parameters,
    },
    allowVolumeExpansion: true,
    reclaimPolicy: "Delete",
  }),
];

export interface Claim {
  readonly size: string;
  readonly block?: boolean;
  /** Name of the VolumeSnapshot to restore. */
  readonly from?: string;
  readonly className?: string;
  /** Name of the VolumeAttributesClass. */
  readonly attributes?: string;
  readonly accessMode?: "ReadWriteOnce" | "ReadWriteMany" | "ReadOnlyMany";
}

const claimSpec = ({
  size,
  block = false,
  from,
  className = CLASS,
  attributes,
  accessMode = "ReadWriteOnce",
}: Claim): Fields => ({
  storageClassName: className,
  ...(attributes === undefined ? {} : { volumeAttributesClassName: attributes }),
  accessModes: [accessMode],
  volumeMode: block ? "Block" : "Filesystem",
  resources: { requests: { storage: size } },
  ...(from === undefined
    ? {}
    : { dataSource: { apiGroup: "snapshot.storage.k8s.io", kind: "VolumeSnapshot", name: from } }),
});

export const claim = (name: string, options: Claim): Fields =>
  core("PersistentVolumeClaim", name, { spec: claimSpec(options) });

export const attributesClass = (name: string, parameters: Fields): Fields =>
  kubeObject("storage.k8s.io/v1", "VolumeAttributesClass", name, { driverName: DRIVER, parameters });

export const snapshot = (name: string, of: string): Fields =>
  kubeObject("snapshot.storage.k8s.io/v1", "VolumeSnapshot", name, {
    spec: { volumeSnapshotClassName: CLASS, source: { persistentVolumeClaimName: of } },
  });

/** Where a pod finds its claim. */
export const MOUNTED = "/data";
export const DEVICE = "/dev/claim";

const container = (line: string, block: boolean): Fields => ({
  name: "main",
  image: BUSYBOX,
  command: ["sh", "-c", line],
  ...(block
    ? { volumeDevices: [{ name: "claim", devicePath: DEVICE }] }
    : { volumeMounts: [{ name: "claim", mountPath: MOUNTED }] }),
});

export interface PodOptions {
  readonly block?: boolean;
  /** Of the pod's use of the claim. */
  readonly readOnly?: boolean;
  readonly securityContext?: Fields;
}

/** A pod that has a claim and runs a line of shell. */
export const pod = (name: string, claimName: string, line: string, options: PodOptions = {}): Fields =>
  core("Pod", name, {
    spec: {
      // 0 would be to delete by force
      terminationGracePeriodSeconds: 1,
      securityContext: options.securityContext ?? {},
      containers: [container(line, options.block === true)],
      volumes: [{ name: "claim", persistentVolumeClaim: { claimName, readOnly: options.readOnly === true } }],
    },
  });

/** A StatefulSet whose pods each have a claim of their own, and run a line of shell. */
export const statefulSet = (name: string, replicas: number, size: string, line: string): Fields =>
  kubeObject("apps/v1", "StatefulSet", name, {
    spec: {
      serviceName: name,
      replicas,
      podManagementPolicy: "Parallel",
      selector: { matchLabels: { set: name } },
      template: {
        metadata: { labels: { set: name } },
        spec: { terminationGracePeriodSeconds: 1, containers: [container(line, false)] },
      },
      volumeClaimTemplates: [{ metadata: { name: "claim" }, spec: claimSpec({ size }) }],
    },
  });

export const namespace = (name: string): Fields => core("Namespace", name, {});

const admission = (kind: string, name: string, spec: Fields): Fields =>
  kubeObject("admissionregistration.k8s.io/v1", kind, name, { spec });

/**
 * Has kubelet wait ten minutes before it ends a driver that does not answer. The chart's 50 seconds are too few where the node
 * is emulated, and the machine has other things to do.
 */
export const patience: ReadonlyArray<Fields> = [
  admission("MutatingAdmissionPolicy", "patience", {
    matchConstraints: {
      resourceRules: [{ apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods"] }],
    },
    matchConditions: [
      {
        name: "driver",
        expression: `object.metadata.namespace == "${NAMESPACE}" && has(object.spec.containers[0].livenessProbe)`,
      },
    ],
    failurePolicy: "Fail",
    reinvocationPolicy: "Never",
    mutations: [
      {
        patchType: "JSONPatch",
        jsonPatch: {
          expression:
            '[JSONPatch{op: "replace", path: "/spec/containers/0/livenessProbe/failureThreshold", value: 60}]',
        },
      },
    ],
  }),
  admission("MutatingAdmissionPolicyBinding", "patience", { policyName: "patience" }),
];
