/**
 * What goes wrong on a cluster, and what administrators do to it, each with what becomes of the volumes. Each begins and
 * ends with a cluster without volumes.
 *
 * Not here: what a claim's life is when nothing goes wrong (./steps.ts).
 */
import { NODE } from "../rig/kubernetes/node.ts";
import { shellWord } from "../rig/vm.ts";
import type { Cluster } from "./cluster.ts";
import { untilNothingIsLeft } from "./left-overs.ts";
import {
  claim,
  DRIVER,
  MOUNTED,
  NAMESPACE,
  namespace,
  pod,
  secretOf,
  snapshot,
  statefulSet,
  storageClass,
  within,
} from "./objects.ts";

export interface Failure {
  /** What happens, and what follows, as a sentence. */
  readonly title: string;
  readonly act: (cluster: Cluster) => Promise<void>;
}

const READY = "condition=Ready";
const BOUND = "jsonpath={.status.phase}=Bound";
const LIMIT = "--timeout=300s";
const WAITER = "while true; do sleep 1000; done";
const WRITER = `while date >> ${MOUNTED}/lines; do sync; sleep 1; done`;
const LINES = `wc -l < ${MOUNTED}/lines`;

const expectIn = (what: string, found: string, wanted: string): void => {
  if (!found.includes(wanted)) throw new Error(`${what} has no ${JSON.stringify(wanted)}: ${found}`);
};

const linesOf = async ({ inPod }: Cluster, name: string): Promise<number> => Number((await inPod(name, LINES)).trim());

/** Returns once the pod has written another line; -> how many there are. */
const untilItWrites = async (cluster: Cluster, name: string): Promise<number> => {
  const before = await linesOf(cluster, name);
  await cluster.inPod(name, `until [ $(${LINES}) -gt ${before} ]; do sleep 0.2; done`);
  return linesOf(cluster, name);
};

/** A pod and its claim, both of this name; the pod writes a line every second. */
const startWriter = async (cluster: Cluster, name: string): Promise<void> => {
  await cluster.apply(claim(name, { size: "1Gi" }), pod(name, name, WRITER));
  await cluster.until(READY, `pod/${name}`);
  await untilItWrites(cluster, name);
};

const deletePod = (cluster: Cluster, name: string) => cluster.kubectl("delete", `pod/${name}`, LIMIT);

/** Another pod takes the place of a writer, which runs until now, and finds at least so many lines. */
const replaceWriter = async (cluster: Cluster, name: string, written: number): Promise<void> => {
  await deletePod(cluster, name);
  await cluster.apply(pod(name, name, WRITER));
  await cluster.until(READY, `pod/${name}`);
  const found = await linesOf(cluster, name);
  if (found < written) throw new Error(`the next pod finds ${found} lines of ${written}`);
};

const removeAll = async (cluster: Cluster, ...names: ReadonlyArray<string>): Promise<void> => {
  await cluster.kubectl("delete", LIMIT, ...names.flatMap((name) => [`pod/${name}`, `pvc/${name}`]));
  await untilNothingIsLeft(cluster);
};

const NEVER_RESTARTED = "jsonpath={.status.containerStatuses[0].restartCount}";

const kubeletRestarts: Failure = {
  title: "when the kubelet starts anew, a pod goes on writing and the next claim is mounted",
  act: async (cluster) => {
    await startWriter(cluster, "before");
    await cluster.node.restartKubelet();
    await startWriter(cluster, "after");
    await untilItWrites(cluster, "before");
    const restarts = await cluster.kubectl("get", "pod/before", "-o", NEVER_RESTARTED);
    if (restarts !== "0") throw new Error(`the pod was restarted ${restarts} times`);
    await removeAll(cluster, "before", "after");
  },
};

const PLUGIN = ["-n", NAMESPACE, "--selector=component=nodeplugin"];
// the shell's own command line has the pattern, too, and must not match it
const KILL_PLUGIN = `for each in /proc/[0-9]*; do
  grep -qs "nodeserver=tru[e]" $each/cmdline && kill -9 \${each#/proc/} && killed=yes
done
[ "$killed" = yes ]`;

const pluginKilled: Failure = {
  title: "when the node plugin is killed, a pod goes on writing, and the next plugin unmounts and mounts its claim",
  act: async (cluster) => {
    await startWriter(cluster, "data");
    const restarts = "{.items[0].status.containerStatuses[0].restartCount}";
    const before = Number(await cluster.kubectl("get", "pod", ...PLUGIN, "-o", `jsonpath=${restarts}`));
    await cluster.node.shell(KILL_PLUGIN);
    const written = await untilItWrites(cluster, "data");
    const started = `jsonpath={.status.containerStatuses[0].restartCount}=${before + 1}`;
    await cluster.kubectl("wait", "pod", ...PLUGIN, `--for=${started}`, LIMIT);
    await cluster.kubectl("wait", "pod", ...PLUGIN, `--for=${READY}`, LIMIT);
    await replaceWriter(cluster, "data", written);
    await removeAll(cluster, "data");
  },
};

const REGISTRY = "/var/lib/kubelet/plugins_registry";

const registrationWiped: Failure = {
  title:
    "when kubelet's registration directory is wiped, the node plugin registers again and the next claim is mounted",
  act: async (cluster) => {
    const node = await cluster.kubectl("get", `csinode/${NODE}`, "-o", "jsonpath={.metadata.resourceVersion}");
    const found = `until ls ${REGISTRY}/*.sock > /dev/null 2>&1; do sleep 0.2; done`;
    await cluster.node.shell(`rm ${REGISTRY}/*.sock; timeout 120 bash -c ${shellWord(found)}`);
    const registered = `jsonpath={.spec.drivers[0].name}=${DRIVER}`;
    // kubelet takes the driver away and adds it: two writes, of which either may be the one that is seen first
    for (const until = Date.now() + 120_000; ; await Bun.sleep(200)) {
      const now = await cluster.kubectl("get", `csinode/${NODE}`, "-o", "jsonpath={.metadata.resourceVersion}");
      if (now !== node) break;
      if (Date.now() > until) throw new Error("kubelet has not registered the driver again");
    }
    await cluster.kubectl("wait", `csinode/${NODE}`, `--for=${registered}`, LIMIT);
    await startWriter(cluster, "data");
    await removeAll(cluster, "data");
  },
};

const pluginUpgraded: Failure = {
  title: "when the release is upgraded, a pod goes on writing, and the new plugin unmounts and mounts its claim",
  act: async (cluster) => {
    await startWriter(cluster, "data");
    const names = ["get", "pod", "-n", NAMESPACE, "-o", "jsonpath={.items[*].metadata.name}"];
    const before = (await cluster.kubectl(...names)).split(" ");
    await cluster.upgrade({ logLevel: 4 });
    const after = await cluster.kubectl(...names);
    const stayed = before.filter((name) => after.split(" ").includes(name));
    if (stayed.length > 0) throw new Error(`the upgrade left ${stayed.join(", ")}`);
    const written = await untilItWrites(cluster, "data");
    await replaceWriter(cluster, "data", written);
    await removeAll(cluster, "data");
  },
};

const setScaled: Failure = {
  title: "a StatefulSet of three claims is scaled down and up, and each pod finds its own claim again",
  act: async (cluster) => {
    const names = ["set-0", "set-1", "set-2"];
    // the first pod of a claim writes its name, a later one reads what is there
    const line = `[ -e ${MOUNTED}/name ] || hostname > ${MOUNTED}/name; sync; touch /tmp/begun; ${WAITER}`;
    await cluster.apply(statefulSet("set", names.length, "1Gi", line));
    const scaled = async (replicas: number) => {
      await cluster.kubectl("scale", "statefulset/set", `--replicas=${replicas}`);
      const gone = names.slice(replicas).map((name) => `pod/${name}`);
      if (gone.length > 0) await cluster.kubectl("wait", "--for=delete", LIMIT, ...gone);
      await cluster.until(`jsonpath={.status.readyReplicas}=${replicas}`, "statefulset/set");
    };
    await scaled(3);
    for (const name of names) await cluster.inPod(name, "until [ -e /tmp/begun ]; do sleep 0.2; done");
    await scaled(1);
    await scaled(3);
    for (const name of names) {
      const found = (await cluster.inPod(name, `cat ${MOUNTED}/name`)).trim();
      if (found !== name) throw new Error(`${name} finds the claim of ${found}`);
    }
    await cluster.kubectl("delete", "statefulset/set", LIMIT);
    await cluster.kubectl("wait", "--for=delete", LIMIT, ...names.map((name) => `pod/${name}`));
    await cluster.kubectl("delete", LIMIT, ...names.map((name) => `pvc/claim-${name}`));
    await untilNothingIsLeft(cluster);
  },
};

const groupAndReadOnly: Failure = {
  title:
    "a pod with an fsGroup writes without being root, and a pod with the claim read-only reads it and cannot write",
  act: async (cluster) => {
    const securityContext = { runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000 };
    await cluster.apply(claim("shared", { size: "1Gi" }), pod("writer", "shared", WRITER, { securityContext }));
    await cluster.until(READY, "pod/writer");
    await untilItWrites(cluster, "writer");
    const owner = await cluster.inPod("writer", `stat -c %u:%g ${MOUNTED}/lines; stat -c %g ${MOUNTED}`);
    if (owner !== "1000:2000\n2000\n") throw new Error(`the file's and the folder's owners are ${owner}`);
    await cluster.apply(pod("reader", "shared", WAITER, { readOnly: true }));
    await cluster.until(READY, "pod/reader");
    if ((await linesOf(cluster, "reader")) === 0) throw new Error("the reader finds no line");
    const refused = await cluster.inPod("reader", `touch ${MOUNTED}/file 2>&1 || true`);
    expectIn("the answer to a write", refused, "Read-only file system");
    await untilItWrites(cluster, "writer");
    await cluster.kubectl("delete", LIMIT, "pod/writer", "pod/reader", "pvc/shared");
    await untilNothingIsLeft(cluster);
  },
};

/** The message of the first event of a kind on an object, once there is one. */
const eventOf = async (cluster: Cluster, object: string, reason: string): Promise<string> => {
  const selector = `--field-selector=involvedObject.name=${object},reason=${reason}`;
  for (const until = Date.now() + 180_000; Date.now() < until; await Bun.sleep(500)) {
    const items = await cluster.kubectl("get", "events", selector, "-o", "jsonpath={.items[*].message}");
    if (items !== "") return items;
  }
  throw new Error(`no event ${reason} on ${object}`);
};

const wrongSecret: Failure = {
  title: "when the secret has a wrong key, an event on the claim says what to compare; with the right one it is bound",
  act: async (cluster) => {
    const userKey = "AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==";
    await cluster.apply(...storageClass("wrong", { userID: "kubernetes", userKey }));
    await cluster.apply(claim("refused", { size: "1Gi", className: "wrong" }));
    const message = await eventOf(cluster, "refused", "ProvisioningFailed");
    expectIn("the event", message, "PermissionDenied");
    expectIn("the event", message, 'Compare the key in the secret with "ceph auth get client.kubernetes"');
    if (message.includes(userKey)) throw new Error("the event shows the key");
    const rightKey = (await cluster.ceph("ceph", "auth", "get-key", "client.kubernetes")).trim();
    await cluster.apply(secretOf("wrong", { userID: "kubernetes", userKey: rightKey }));
    await cluster.until(BOUND, "pvc/refused");
    await cluster.kubectl("delete", LIMIT, "pvc/refused");
    await untilNothingIsLeft(cluster);
    await cluster.kubectl("delete", "storageclass/wrong");
    await cluster.kubectl("delete", "-n", NAMESPACE, "secret/wrong");
  },
};

const deletedByForce: Failure = {
  title: "when a pod is deleted by force while it writes, the next one finds what it wrote",
  act: async (cluster) => {
    await startWriter(cluster, "data");
    const written = await untilItWrites(cluster, "data");
    await cluster.kubectl("delete", "pod/data", "--force", "--grace-period=0");
    await cluster.apply(pod("data", "data", WAITER));
    await cluster.until(READY, "pod/data");
    const found = await linesOf(cluster, "data");
    if (found < written) throw new Error(`the next pod finds ${found} lines of ${written}`);
    await removeAll(cluster, "data");
  },
};

const namespaceDeleted: Failure = {
  title: "when a namespace is deleted with pods, claims and a snapshot in it, nothing of it is left",
  act: async (cluster) => {
    const here = ["-n", "doomed"];
    const objects = [
      claim("data", { size: "1Gi" }),
      pod("data", "data", WRITER),
      claim("raw", { size: "1Gi", block: true }),
      pod("raw", "raw", WAITER, { block: true }),
      snapshot("point", "data"),
      claim("restored", { size: "1Gi", from: "point" }),
    ];
    await cluster.apply(namespace("doomed"), ...objects.map((each) => within("doomed", each)));
    await cluster.kubectl("wait", ...here, `--for=${READY}`, LIMIT, "pod/data", "pod/raw");
    await cluster.kubectl("wait", ...here, "--for=jsonpath={.status.readyToUse}=true", LIMIT, "volumesnapshot/point");
    await cluster.kubectl("wait", ...here, `--for=${BOUND}`, LIMIT, "pvc/restored");
    await cluster.kubectl("delete", "namespace/doomed", LIMIT);
    await untilNothingIsLeft(cluster);
  },
};

export const failures: ReadonlyArray<Failure> = [
  kubeletRestarts,
  pluginKilled,
  registrationWiped,
  pluginUpgraded,
  setScaled,
  groupAndReadOnly,
  wrongSecret,
  deletedByForce,
  namespaceDeleted,
];
