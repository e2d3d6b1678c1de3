/**
 * What volumes leave behind: in Kubernetes, in Ceph and on the node. After a claim's life there is nothing.
 *
 * Not here: the objects of users, who delete them themselves.
 */
import type { Cluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { DRIVER, POOL } from "./objects.ts";

const lines = (text: string): ReadonlyArray<string> => text.split("\n").filter((line) => line !== "");

/** Those in the pool. */
export const images = async ({ ceph }: Pick<Cluster, "ceph">): Promise<ReadonlyArray<string>> =>
  lines(await ceph("rbd", "ls", POOL));

const inKubernetes = async ({ kubectl }: Cluster): Promise<ReadonlyArray<string>> =>
  lines(await kubectl("get", "pv,volumeattachments,volumesnapshotcontents,volumegroupsnapshotcontents", "-o", "name"));

/** The directories of names, which stay, are objects of the journal, too; each UUID has an object of its own. */
const DIRECTORIES = ["csi.volumes.default", "csi.snaps.default", "csi.groups.default"];

const inCeph = async (cluster: Cluster): Promise<ReadonlyArray<string>> => {
  const trash = await cluster.ceph("rbd", "trash", "ls", "--all", POOL);
  const journal = lines(await cluster.ceph("rados", "-p", POOL, "ls")).filter((name) => name.startsWith("csi."));
  const groups = await cluster.ceph("rbd", "group", "ls", POOL);
  const found = [...(await images(cluster)), ...lines(trash), ...lines(groups)];
  for (const name of journal) {
    const directory = DIRECTORIES.includes(name);
    if (directory) found.push(...lines(await cluster.ceph("rados", "-p", POOL, "listomapkeys", name)));
    else found.push(name);
  }
  return found;
};

const KUBELET = "/var/lib/kubelet/plugins/kubernetes.io/csi";

const onNode = async ({ node }: Pick<Cluster, "node">): Promise<ReadonlyArray<string>> =>
  lines(
    await node.shell(`
      for each in /sys/bus/rbd/devices/* /sys/block/dm-* /sys/block/nbd*/pid; do [ -e $each ] && echo device $each; done
      ls -d ${KUBELET}/${DRIVER}/* ${KUBELET}/volumeDevices/pvc-* 2> /dev/null; true`),
  );

const untilEmpty = (look: () => Promise<ReadonlyArray<string>>): Promise<void> =>
  eventually(async () => {
    const left = await look();
    return left.length === 0 ? { found: undefined } : { not: `left: ${left.join(", ")}` };
  });

/** Returns when no volume is staged on the node: kubelet unstages one a moment after its last pod has gone. */
export const untilNothingIsStaged = (cluster: Cluster): Promise<void> => untilEmpty(() => onNode(cluster));

/** Returns when nothing is left: the trash is emptied a moment after the last volume is gone. */
export const untilNothingIsLeft = (cluster: Cluster): Promise<void> =>
  untilEmpty(async () => [...(await inKubernetes(cluster)), ...(await inCeph(cluster)), ...(await onNode(cluster))]);
