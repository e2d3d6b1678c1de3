/**
 * The registrar and the attacher alone, each in a container of the driver's image, beside another CSI driver: the one that
 * Kubernetes' end-to-end suite has for its own tests. It publishes volumes to nodes, and stages none that was not, so a pod
 * of it runs only if the attacher did all of its work.
 *
 * Not here: the driver itself (tests/rig/kubernetes/mock-driver.ts); the flags of both and what they do when things go wrong,
 * which the suites `unit` and `apiserver` test.
 */
import { MOCK_DRIVER, MOCK_DRIVER_IMAGE } from "../rig/kubernetes/mock-driver.ts";
import { NODE } from "../rig/kubernetes/node.ts";
import type { Cluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { type Fields, MOUNTED, NAMESPACE, kubeObject, pod, within } from "./objects.ts";
import { deletePod, expectEqual, LIMIT, READY, type Scenario, WAITER } from "./scenario.ts";

const KUBELET = "/var/lib/kubelet";
const SOCKET = "csi.sock";
/** Of all objects here. */
const NAME = "other-driver";
/** One of those that the driver has from the start. */
const HANDLE = "1";

/** As docs/attacher.md has it for a driver that publishes volumes. */
const RULES = [
  { apiGroups: ["storage.k8s.io"], resources: ["volumeattachments"], verbs: ["get", "list", "watch", "patch"] },
  { apiGroups: ["storage.k8s.io"], resources: ["volumeattachments/status"], verbs: ["patch"] },
  { apiGroups: ["storage.k8s.io"], resources: ["csinodes"], verbs: ["get", "list", "watch"] },
  { apiGroups: [""], resources: ["persistentvolumes"], verbs: ["get", "list", "watch", "patch"] },
];

const RBAC = "rbac.authorization.k8s.io";
const account: ReadonlyArray<Fields> = [
  within(NAMESPACE, kubeObject("v1", "ServiceAccount", NAME, {})),
  kubeObject(`${RBAC}/v1`, "ClusterRole", NAME, { rules: RULES }),
  kubeObject(`${RBAC}/v1`, "ClusterRoleBinding", NAME, {
    roleRef: { apiGroup: RBAC, kind: "ClusterRole", name: NAME },
    subjects: [{ kind: "ServiceAccount", name: NAME, namespace: NAMESPACE }],
  }),
];

const hostFolder = (name: string, path: string, type: string): Fields => ({ name, hostPath: { path, type } });
const asRoot = { runAsUser: 0, runAsNonRoot: false };

/** The driver, and our two beside it, in one pod of the node. */
const driverPod = (image: string): Fields =>
  within(
    NAMESPACE,
    kubeObject("v1", "Pod", NAME, {
      spec: {
        serviceAccountName: NAME,
        hostNetwork: true,
        nodeName: NODE,
        terminationGracePeriodSeconds: 30,
        containers: [
          {
            name: "driver",
            image: MOCK_DRIVER_IMAGE,
            args: [MOCK_DRIVER, `/csi/${SOCKET}`],
            securityContext: asRoot,
            volumeMounts: [
              { name: "socket", mountPath: "/csi" },
              { name: "pods", mountPath: `${KUBELET}/pods` },
            ],
          },
          {
            name: "registrar",
            image,
            args: [
              "registrar",
              `--csi-address=/csi/${SOCKET}`,
              `--kubelet-registration-path=${KUBELET}/plugins/${MOCK_DRIVER}/${SOCKET}`,
            ],
            securityContext: asRoot,
            volumeMounts: [
              { name: "socket", mountPath: "/csi" },
              { name: "registration", mountPath: "/registration" },
            ],
          },
          {
            name: "attacher",
            image,
            args: ["attacher", `--csi-address=/csi/${SOCKET}`],
            securityContext: asRoot,
            volumeMounts: [{ name: "socket", mountPath: "/csi" }],
          },
        ],
        volumes: [
          hostFolder("socket", `${KUBELET}/plugins/${MOCK_DRIVER}`, "DirectoryOrCreate"),
          hostFolder("registration", `${KUBELET}/plugins_registry`, "Directory"),
          hostFolder("pods", `${KUBELET}/pods`, "Directory"),
        ],
      },
    }),
  );

const csiDriver = kubeObject("storage.k8s.io/v1", "CSIDriver", MOCK_DRIVER, {
  spec: { attachRequired: true, podInfoOnMount: false },
});

const size = { storage: "1Gi" };
/** Bound to each other from the start. */
const volume: ReadonlyArray<Fields> = [
  kubeObject("v1", "PersistentVolume", NAME, {
    spec: {
      capacity: size,
      accessModes: ["ReadWriteOnce"],
      persistentVolumeReclaimPolicy: "Retain",
      storageClassName: "",
      claimRef: { namespace: "default", name: NAME },
      csi: { driver: MOCK_DRIVER, volumeHandle: HANDLE },
    },
  }),
  kubeObject("v1", "PersistentVolumeClaim", NAME, {
    spec: { storageClassName: "", volumeName: NAME, accessModes: ["ReadWriteOnce"], resources: { requests: size } },
  }),
];

/** The image of the node plugin that is installed. */
const driverImage = async ({ kubectl }: Cluster): Promise<string> => {
  const where = "jsonpath={.items[0].spec.template.spec.containers[0].image}";
  return (await kubectl("get", "daemonsets", "-n", NAMESPACE, "-o", where)).trim();
};

const drivers = ({ kubectl }: Cluster): Promise<string> =>
  kubectl("get", `csinode/${NODE}`, "-o", "jsonpath={.spec.drivers[*].name}");

const untilDrivers = (cluster: Cluster, isRegistered: boolean): Promise<void> =>
  eventually(async () => {
    const found = await drivers(cluster);
    if (found.split(" ").includes(MOCK_DRIVER) === isRegistered) return { found: undefined };
    return { not: `kubelet has registered ${found}` };
  });

const attachments = ({ kubectl }: Cluster, field: string): Promise<string> =>
  kubectl("get", "volumeattachments", "-o", `jsonpath={.items[*].${field}}`);

export const otherDriver: ReadonlyArray<Scenario> = [
  {
    title: "Registrar and attacher serve another driver: its pod starts, writes and ends, and nothing is left attached",
    act: async (cluster) => {
      const { apply, kubectl, until, inPod } = cluster;
      await apply(...account, csiDriver, driverPod(await driverImage(cluster)), ...volume);
      await until(READY, `-n=${NAMESPACE}`, `pod/${NAME}`);
      await untilDrivers(cluster, true);

      await apply(pod(NAME, NAME, WAITER));
      await until(READY, `pod/${NAME}`);
      expectEqual("the attachment's driver", await attachments(cluster, "spec.attacher"), MOCK_DRIVER);
      expectEqual("it is attached", await attachments(cluster, "status.attached"), "true");
      const device = await attachments(cluster, "status.attachmentMetadata.device");
      if (device === "") throw new Error("the attachment has no device, which the driver publishes");
      await inPod(NAME, `echo kept > ${MOUNTED}/file`);
      expectEqual("the file", (await inPod(NAME, `cat ${MOUNTED}/file`)).trim(), "kept");

      await deletePod(cluster, NAME);
      await kubectl("wait", "--for=delete", LIMIT, "volumeattachments", "--all");
      await kubectl("delete", LIMIT, `pvc/${NAME}`, `pv/${NAME}`);
      await kubectl("delete", LIMIT, "-n", NAMESPACE, `pod/${NAME}`, `serviceaccount/${NAME}`);
      await untilDrivers(cluster, false);
      await kubectl("delete", LIMIT, `csidriver/${MOCK_DRIVER}`, `clusterrole/${NAME}`, `clusterrolebinding/${NAME}`);
    },
  },
];
