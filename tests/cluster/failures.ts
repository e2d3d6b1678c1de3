/**
 * What goes wrong on a cluster, and what administrators do to it, each with what becomes of the volumes. Each begins and
 * ends with a cluster without volumes.
 *
 * Not here: what a claim's life is when nothing goes wrong (./steps.ts).
 */
import { NODE } from "../rig/kubernetes/node.ts";
import { shellWord } from "../rig/vm.ts";
import type { Cluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
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
import {
  BOUND,
  expectEqual,
  expectIn,
  expectLines,
  LIMIT,
  READY,
  removeAll,
  removeClass,
  replaceWriter,
  type Scenario,
  SNAPSHOT_READY,
  startWriter,
  untilItWrites,
  userOf,
  WAITER,
  withClass,
  WRITER,
} from "./scenario.ts";

const NEVER_RESTARTED = "jsonpath={.status.containerStatuses[0].restartCount}";

const kubeletRestarts: Scenario = {
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

const pluginKilled: Scenario = {
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

const registrationWiped: Scenario = {
  title:
    "when kubelet's registration directory is wiped, the node plugin registers again and the next claim is mounted",
  act: async (cluster) => {
    const node = await cluster.kubectl("get", `csinode/${NODE}`, "-o", "jsonpath={.metadata.resourceVersion}");
    const found = `until ls ${REGISTRY}/*.sock > /dev/null 2>&1; do sleep 0.2; done`;
    await cluster.node.shell(`rm ${REGISTRY}/*.sock; timeout 120 bash -c ${shellWord(found)}`);
    const registered = `jsonpath={.spec.drivers[0].name}=${DRIVER}`;
    // kubelet takes the driver away and adds it: two writes, of which either may be the one that is seen first
    await eventually(
      async () => {
        const now = await cluster.kubectl("get", `csinode/${NODE}`, "-o", "jsonpath={.metadata.resourceVersion}");
        return now === node ? { not: "kubelet has not registered the driver again" } : { found: now };
      },
      { limitMs: 120_000, pauseMs: 200 },
    );
    await cluster.kubectl("wait", `csinode/${NODE}`, `--for=${registered}`, LIMIT);
    await startWriter(cluster, "data");
    await removeAll(cluster, "data");
  },
};

const pluginUpgraded: Scenario = {
  title:
    "when the release is upgraded, pods go on writing, one of them through rbd-nbd, and the new plugin unmounts and mounts their claims",
  act: (cluster) =>
    withClass(cluster, "nbd", { parameters: { mounter: "rbd-nbd" } }, async () => {
      await startWriter(cluster, "data");
      await startWriter(cluster, "nbd", "nbd");
      const processes = await cluster.node.shell("cat /sys/block/nbd*/pid");
      const names = ["get", "pod", "-n", NAMESPACE, "-o", "jsonpath={.items[*].metadata.name}"];
      const before = (await cluster.kubectl(...names)).split(" ");
      await cluster.upgrade({ logLevel: 4 });
      const after = await cluster.kubectl(...names);
      const stayed = before.filter((name) => after.split(" ").includes(name));
      if (stayed.length > 0) throw new Error(`the upgrade left ${stayed.join(", ")}`);
      const written = { data: await untilItWrites(cluster, "data"), nbd: await untilItWrites(cluster, "nbd") };
      expectEqual("the process of rbd-nbd", await cluster.node.shell("cat /sys/block/nbd*/pid"), processes);
      for (const [name, lines] of Object.entries(written)) await replaceWriter(cluster, name, lines);
      await removeAll(cluster, "data", "nbd");
    }),
};

const setScaled: Scenario = {
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

const groupAndReadOnly: Scenario = {
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
    await expectLines(cluster, "reader", 1);
    const refused = await cluster.inPod("reader", `touch ${MOUNTED}/file 2>&1 || true`);
    expectIn("the answer to a write", refused, "Read-only file system");
    await untilItWrites(cluster, "writer");
    await cluster.kubectl("delete", LIMIT, "pod/writer", "pod/reader", "pvc/shared");
    await untilNothingIsLeft(cluster);
  },
};

/** The message of the first event of a kind on an object, once there is one. */
const eventOf = (cluster: Cluster, object: string, reason: string): Promise<string> => {
  const selector = `--field-selector=involvedObject.name=${object},reason=${reason}`;
  return eventually(async () => {
    const items = await cluster.kubectl("get", "events", selector, "-o", "jsonpath={.items[*].message}");
    return items === "" ? { not: `no event ${reason} on ${object}` } : { found: items };
  });
};

const wrongSecret: Scenario = {
  title: "when the secret has a wrong key, an event on the claim says what to compare; with the right one it is bound",
  act: async (cluster) => {
    const userKey = "AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==";
    await cluster.apply(...storageClass("wrong", { userID: "kubernetes", userKey }));
    await cluster.apply(claim("refused", { size: "1Gi", className: "wrong" }));
    const message = await eventOf(cluster, "refused", "ProvisioningFailed");
    expectIn("the event", message, "PermissionDenied");
    expectIn("the event", message, 'Compare the key in the secret with "ceph auth get client.kubernetes"');
    if (message.includes(userKey)) throw new Error("the event shows the key");
    await cluster.apply(secretOf("wrong", await userOf(cluster)));
    await cluster.until(BOUND, "pvc/refused");
    await cluster.kubectl("delete", LIMIT, "pvc/refused");
    await untilNothingIsLeft(cluster);
    await removeClass(cluster, "wrong");
  },
};

const deletedByForce: Scenario = {
  title: "when a pod is deleted by force while it writes, the next one finds what it wrote",
  act: async (cluster) => {
    await startWriter(cluster, "data");
    const written = await untilItWrites(cluster, "data");
    await cluster.kubectl("delete", "pod/data", "--force", "--grace-period=0");
    await cluster.apply(pod("data", "data", WAITER));
    await cluster.until(READY, "pod/data");
    await expectLines(cluster, "data", written);
    await removeAll(cluster, "data");
  },
};

const namespaceDeleted: Scenario = {
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
    await cluster.kubectl("wait", ...here, `--for=${SNAPSHOT_READY}`, LIMIT, "volumesnapshot/point");
    await cluster.kubectl("wait", ...here, `--for=${BOUND}`, LIMIT, "pvc/restored");
    await cluster.kubectl("delete", "namespace/doomed", LIMIT);
    await untilNothingIsLeft(cluster);
  },
};

const CONTAINER = "{.status.containerStatuses[0].ready} {.status.containerStatuses[0].containerID}";

/** Returns once the container of a pod is another one, and ready. */
const untilStartedAnew = ({ kubectl }: Cluster, name: string, before: string): Promise<void> =>
  eventually(
    async () => {
      const [ready, id] = (await kubectl("get", `pod/${name}`, "-o", `jsonpath=${CONTAINER}`)).split(" ");
      return ready === "true" && id !== before ? { found: undefined } : { not: `pod ${name} has not come back` };
    },
    { limitMs: 480_000, pauseMs: 1_000 },
  );

const powerCut: Scenario = {
  title: "when the node loses its power and boots again, a pod comes back and finds what it had synced",
  act: async (cluster) => {
    await startWriter(cluster, "data");
    const boot = ["get", `node/${NODE}`, "-o", "jsonpath={.status.nodeInfo.bootID}"];
    const before = await cluster.kubectl(...boot);
    const [, container = ""] = (await cluster.kubectl("get", "pod/data", "-o", `jsonpath=${CONTAINER}`)).split(" ");
    const written = (await untilItWrites(cluster, "data")) - 1;
    await cluster.node.cutPower();
    await untilStartedAnew(cluster, "data", container);
    if ((await cluster.kubectl(...boot)) === before) throw new Error("the node has not booted again");
    await expectLines(cluster, "data", written);
    await untilItWrites(cluster, "data");
    await removeAll(cluster, "data");
  },
};

export const failures: ReadonlyArray<Scenario> = [
  kubeletRestarts,
  pluginKilled,
  registrationWiped,
  pluginUpgraded,
  setScaled,
  groupAndReadOnly,
  wrongSecret,
  deletedByForce,
  namespaceDeleted,
  powerCut,
];
