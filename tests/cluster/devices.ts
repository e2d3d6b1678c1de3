/**
 * Claims whose device is not the kernel's own mapping of their image: encrypted ones, and those of rbd-nbd.
 *
 * Not here: what the node service does with such devices in each of its calls, which the suite `vm` tests.
 */
import type { Cluster } from "./cluster.ts";
import { images, untilNothingIsStaged } from "./left-overs.ts";
import { claim, MOUNTED, pod, POOL } from "./objects.ts";
import {
  checksum,
  deletePod,
  expectEqual,
  expectIn,
  READY,
  removeAll,
  type Scenario,
  WAITER,
  withClass,
} from "./scenario.ts";

/** The device that a pod's filesystem is on, as sysfs knows it on the node: a folder. */
const deviceOf = async ({ inPod }: Cluster, name: string): Promise<string> => {
  const number = await inPod(name, `grep " ${MOUNTED} " /proc/self/mountinfo | cut -d " " -f 3`);
  return `/sys/dev/block/${number.trim()}`;
};

const startPod = async (cluster: Cluster, name: string): Promise<void> => {
  await cluster.apply(pod(name, name, WAITER));
  await cluster.until(READY, `pod/${name}`);
};

const MARK = "a line that nobody but a pod may read";
const FILE = `${MOUNTED}/file`;
const WRITE = `yes "${MARK}" | head -c 4194304 > ${FILE}; sync`;

/** A pod writes to a claim of the class. Another one finds it, after the volume has left the node. */
const writtenAndFound = async (
  cluster: Cluster,
  name: string,
  proveDevice: (device: string) => Promise<void>,
): Promise<void> => {
  await cluster.apply(claim(name, { size: "1Gi", className: name }));
  await startPod(cluster, name);
  await cluster.inPod(name, WRITE);
  const written = await checksum(cluster, name, FILE);
  await proveDevice(await deviceOf(cluster, name));
  await deletePod(cluster, name);
  await untilNothingIsStaged(cluster);
  await startPod(cluster, name);
  expectEqual("the file's checksum", await checksum(cluster, name, FILE), written);
  await proveDevice(await deviceOf(cluster, name));
};

/** How many lines of the image, as Ceph keeps it, hold a text. */
const linesWith = async ({ ceph }: Cluster, image: string, text: string): Promise<string> => {
  const zerosToLines = String.raw`tr "\0" "\n"`;
  const count = `rbd export --no-progress "$0" - | ${zerosToLines} | grep -c -a -F -e "$1"; [ "\${PIPESTATUS[0]}" = 0 ]`;
  return (await ceph("bash", "-c", count, `${POOL}/${image}`, text)).trim();
};

const encrypted: Scenario = {
  title: "what a pod writes to an encrypted claim is ciphertext in Ceph, and the next pod reads it through dm-crypt",
  act: async (cluster) => {
    const passphrase = { encryptionPassphrase: "a passphrase that the secret has" };
    await withClass(cluster, "encrypted", { parameters: { encrypted: "true" }, secret: passphrase }, async () => {
      await writtenAndFound(cluster, "encrypted", async (device) => {
        const found = await cluster.node.shell(`cat ${device}/dm/uuid; ls ${device}/slaves`);
        expectIn("the device of the pod", found, "CRYPT-LUKS2-");
        expectIn("what is below the device of the pod", found, "rbd");
      });
      const [image = ""] = await images(cluster);
      expectEqual("lines of the image that hold what was written", await linesWith(cluster, image, MARK), "0");
      await removeAll(cluster, "encrypted");
    });
  },
};

const nbd: Scenario = {
  title: "what a pod writes to a claim of rbd-nbd goes through such a process, and so does what the next pod reads",
  act: async (cluster) => {
    await withClass(cluster, "nbd", { parameters: { mounter: "rbd-nbd" } }, async () => {
      await writtenAndFound(cluster, "nbd", async (device) => {
        const program = await cluster.node.shell(`cat /proc/$(cat ${device}/pid)/comm; cat ${device}/backend`);
        const handle = "jsonpath={.items[0].spec.csi.volumeHandle}";
        const volumeId = await cluster.kubectl("get", "pv", "-o", handle);
        expectEqual("the process behind the device, and its volume", program.trim(), `rbd-nbd\n${volumeId}`);
      });
      const [image = ""] = await images(cluster);
      // so the count of the encrypted claim can be another one than 0
      if ((await linesWith(cluster, image, MARK)) === "0") throw new Error("the image has nothing of what was written");
      await removeAll(cluster, "nbd");
    });
  },
};

export const devices: ReadonlyArray<Scenario> = [encrypted, nbd];
