/**
 * What the tests of a cluster do with claims and pods in the same way, whatever they are about.
 *
 * Not here: the objects themselves (./objects.ts), and what is left of them (./left-overs.ts).
 */
import type { Cluster } from "./cluster.ts";
import { untilNothingIsLeft } from "./left-overs.ts";
import { claim, MOUNTED, NAMESPACE, pod, storageClass } from "./objects.ts";
import type { Fields } from "./objects.ts";

/** Begins and ends with a cluster without volumes. */
export interface Scenario {
  /** What happens, and what follows, as a sentence. */
  readonly title: string;
  readonly act: (cluster: Cluster) => Promise<void>;
}

export const READY = "condition=Ready";
export const BOUND = "jsonpath={.status.phase}=Bound";
export const SNAPSHOT_READY = "jsonpath={.status.readyToUse}=true";
export const LIMIT = "--timeout=300s";
export const WAITER = "while true; do sleep 1000; done";
export const WRITER = `while date >> ${MOUNTED}/lines; do sync; sleep 1; done`;
const LINES = `wc -l < ${MOUNTED}/lines`;

export const expectIn = (what: string, found: string, wanted: string): void => {
  if (!found.includes(wanted)) throw new Error(`${what} has no ${JSON.stringify(wanted)}: ${found}`);
};

export const expectEqual = (what: string, found: string, wanted: string): void => {
  if (found !== wanted) throw new Error(`${what}: found ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
};

export const checksum = async ({ inPod }: Cluster, name: string, file: string): Promise<string> =>
  (await inPod(name, `sha256sum ${file} | cut -d " " -f 1`)).trim();

export const linesOf = async ({ inPod }: Cluster, name: string): Promise<number> =>
  Number((await inPod(name, LINES)).trim());

/** Returns once the pod has written another line; -> how many there are. All but the last one are synced. */
export const untilItWrites = async (cluster: Cluster, name: string): Promise<number> => {
  const before = await linesOf(cluster, name);
  await cluster.inPod(name, `until [ $(${LINES}) -gt ${before} ]; do sleep 0.2; done`);
  return linesOf(cluster, name);
};

/** A pod and its claim, both of this name; the pod writes a line every second. */
export const startWriter = async (cluster: Cluster, name: string, className?: string): Promise<void> => {
  const wanted = className === undefined ? {} : { className };
  await cluster.apply(claim(name, { size: "1Gi", ...wanted }), pod(name, name, WRITER));
  await cluster.until(READY, `pod/${name}`);
  await untilItWrites(cluster, name);
};

export const deletePod = async ({ kubectl }: Cluster, ...names: ReadonlyArray<string>): Promise<void> => {
  await kubectl("delete", LIMIT, ...names.map((name) => `pod/${name}`));
};

/** Another pod takes the place of a writer, which runs until now, and finds at least so many lines. */
export const replaceWriter = async (cluster: Cluster, name: string, written: number): Promise<void> => {
  await deletePod(cluster, name);
  await cluster.apply(pod(name, name, WRITER));
  await cluster.until(READY, `pod/${name}`);
  await expectLines(cluster, name, written);
};

export const expectLines = async (cluster: Cluster, name: string, written: number): Promise<void> => {
  const found = await linesOf(cluster, name);
  if (found < written) throw new Error(`the next pod finds ${found} lines of ${written}`);
};

/** Pods, and the claims of the same names. */
export const removeAll = async (cluster: Cluster, ...names: ReadonlyArray<string>): Promise<void> => {
  await cluster.kubectl("delete", LIMIT, ...names.flatMap((name) => [`pod/${name}`, `pvc/${name}`]));
  await untilNothingIsLeft(cluster);
};

/** The Ceph user that the driver has, as a secret has it. */
export const userOf = async ({ ceph }: Cluster): Promise<Fields> => ({
  userID: "kubernetes",
  userKey: (await ceph("ceph", "auth", "get-key", "client.kubernetes")).trim(),
});

export interface ClassOptions {
  /** Of the StorageClass, besides those of every class. */
  readonly parameters?: Fields;
  /** In the secret, besides the Ceph user. */
  readonly secret?: Fields;
}

/** Makes a StorageClass and its secret, both of this name, for as long as `act` runs. */
export const withClass = async (
  cluster: Cluster,
  name: string,
  { parameters = {}, secret = {} }: ClassOptions,
  act: () => Promise<void>,
): Promise<void> => {
  await cluster.apply(...storageClass(name, { ...(await userOf(cluster)), ...secret }, parameters));
  await act();
  await removeClass(cluster, name);
};

export const removeClass = async ({ kubectl }: Cluster, name: string): Promise<void> => {
  await kubectl("delete", `storageclass/${name}`);
  await kubectl("delete", "-n", NAMESPACE, `secret/${name}`);
};
