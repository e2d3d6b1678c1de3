/**
 * A node that is cut off while it writes, again and again: node A writes a counter through krbd, with a network of its own,
 * and its network goes away. It is tainted, its volumes are detached and given to node B, and the network comes back, with
 * writes of A on their way. Nothing of A is on a volume after the first write of B.
 *
 * The images have no exclusive-lock: with it the next client would fence the one before by itself.
 *
 * Not here: one fence step by step, and what becomes of records (./fencing.test.ts).
 *
 *   RUNS=200 npm test -- vm "-t=cut off while it writes"
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type Driver, startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { makePool } from "../ceph/inventory.ts";
import { CLUSTER, GIB, secrets } from "../ceph/requests.ts";
import { clusterAddress } from "../rig/address.ts";
import { rig } from "../rig/cluster.ts";
import { must } from "../rig/place.ts";
import { kubeconfigFor, kubeServer } from "../support/kube-server.ts";
import { capabilityOf, LIMIT, rbd } from "./kubelet.ts";
import { tool } from "./loop.ts";
import { showNode, TAINT } from "./lost-node.ts";

const RUNS = Number(process.env["RUNS"] || 2);
/** That the node has when it is lost, each with a client of its own: as many as leave two rounds. */
const VOLUMES = Math.max(1, Math.min(4, Math.floor(RUNS / 2)));
const ROUND_MS = 120_000;

/** The network of node A: a card of its own beside that of the machine. */
const NETWORK = "node-a";
const CARD = "node-a0";
const inNetwork = ["nsenter", `--net=/run/netns/${NETWORK}`, "--"];
const makeNetwork = (): void => {
  tool("modprobe", "macvlan");
  tool("ip", "netns", "add", NETWORK);
  tool("ip", "link", "add", CARD, "link", "eth0", "type", "macvlan", "mode", "bridge");
  tool("ip", "link", "set", CARD, "netns", NETWORK);
  tool(...inNetwork, "ip", "link", "set", "lo", "up");
  tool(...inNetwork, "ip", "addr", "add", "10.0.2.77/24", "dev", CARD);
  connect();
};
const connect = (): void => {
  tool(...inNetwork, "ip", "link", "set", CARD, "up");
  tool(...inNetwork, "sh", "-c", `echo 1 > /proc/sys/net/ipv4/conf/${CARD}/route_localnet`);
  tool(
    ...inNetwork,
    "ip",
    "route",
    "replace",
    `${clusterAddress}/32`,
    "via",
    "10.0.2.2",
    "dev",
    CARD,
    "table",
    "local",
  );
};
const cutOff = (): string => tool(...inNetwork, "ip", "link", "set", CARD, "down");

const kube = kubeServer();
const dirs = { a: "", b: "" };
let pool: Awaited<ReturnType<typeof makePool>>;
let nodeA: Driver;
let controller: Driver;

beforeAll(async () => {
  makeNetwork();
  pool = await makePool("rounds");
  for (const node of ["a", "b"] as const) {
    dirs[node] = testFolder(`rounds-${node}`);
    writeConfig(dirs[node], [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  }
  const flags = ["--nodeserver=true", "--controllerserver=false", "--enable-fencing", "--nodeid=node-a"];
  nodeA = await startDriver({ dir: dirs.a, flags, through: inNetwork });
  const kubeconfig = kubeconfigFor(kube, dirs.b);
  controller = await startDriver({ dir: dirs.b, flags: ["--enable-fencing", `--kubeconfig=${kubeconfig}`] });
}, 300_000);
afterAll(async () => {
  await nodeA?.end();
  await controller?.end();
  await pool?.remove();
  await kube.stop();
  Bun.spawnSync(["ip", "netns", "del", NETWORK]);
}, 60_000);

const setNode = (bootID: string, taints: readonly object[]): void => showNode(kube, bootID, taints);

const SECTOR = 4096;

/** Writes a counter into the first sector until a write fails, each one in the cluster before the next. */
const COUNT = String.raw`use Fcntl; $| = 1; sysopen(F, $ARGV[0], O_WRONLY | O_SYNC) or die;
for ($n = 1;; $n++) { sysseek(F, 0, 0); (syswrite(F, pack("Q<", $n) . ("\0" x 4088)) // 0) == 4096 or exit 7; print "$n\n"; }`;

const startCounting = (device: string) => {
  const child = Bun.spawn(["perl", "-e", COUNT, device], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  let count = 0;
  const reading = (async () => {
    let rest = "";
    for await (const chunk of child.stdout) {
      const lines = (rest + Buffer.from(chunk).toString()).split("\n");
      rest = lines.pop() ?? "";
      count = Number(lines.at(-1) ?? count);
    }
  })();
  return {
    count: () => count,
    until: async (least: number) => {
      for (; ; await Bun.sleep(20)) if (count >= least) return;
    },
    /** Its exit status: it has had a write refused. */
    refused: async () => {
      await reading;
      return child.exited;
    },
  };
};

/** Not synchronously: all volumes of a round are mapped at once. */
const mapOnB = async (spec: string): Promise<string> => {
  const command = ["rbd", "-c", rig().conf, "map", "-o", "noudev,noshare", spec];
  return (await must({}, command, { timeoutMs: ROUND_MS })).trim();
};

/** No counter of A comes near it. */
const OF_B = 0xb0b0_b0b0_b0b0_b0b0n;

/** Writes B's number, and returns once it is in the cluster. */
const writeFirst = (device: string): void => {
  const fd = openSync(device, "r+");
  const sector = Buffer.alloc(SECTOR);
  sector.writeBigUInt64LE(OF_B);
  writeSync(fd, sector, 0, SECTOR, 0);
  fsyncSync(fd);
  closeSync(fd);
};

/** What is in the first sector, as a client reads it that has read nothing before. */
const inCluster = (spec: string): bigint => {
  const device = rbd("map", "-o", "noudev,noshare,ro", spec);
  try {
    const fd = openSync(device, "r");
    const sector = Buffer.alloc(SECTOR);
    readSync(fd, sector, 0, SECTOR, 0);
    closeSync(fd);
    return sector.readBigUInt64LE();
  } finally {
    rbd("unmap", "-o", "noudev", device);
  }
};

const makeVolume = async (name: string) => {
  const { volume } = await controller.controller.createVolume(
    {
      name,
      capacityRange: { requiredBytes: GIB },
      volumeCapabilities: [capabilityOf("block")],
      parameters: {
        clusterID: CLUSTER,
        pool: pool.name,
        imageFeatures: "layering",
        mapOptions: "krbd:noshare",
      },
      secrets: secrets(),
    },
    LIMIT,
  );
  if (volume === undefined) throw new Error("no volume");
  const { volumeId, volumeContext } = volume;
  const staging = join(dirs.a, name);
  mkdirSync(staging, { recursive: true });
  const spec = `${pool.name}/${volumeContext["imageName"]}`;
  const request = { volumeId, volumeCapability: capabilityOf("block"), secrets: secrets() };
  const context = { volumeContext: { ...volumeContext } };
  const attach = (nodeId: string) =>
    controller.controller.controllerPublishVolume({ ...request, ...context, nodeId }, LIMIT);
  const detach = (nodeId: string) =>
    controller.controller.controllerUnpublishVolume({ volumeId, nodeId, secrets: secrets() }, LIMIT);
  return {
    attach,
    /** Node A has it, and writes to it. */
    writtenByA: async () => {
      await attach("node-a");
      await nodeA.node.nodeStageVolume({ ...request, ...context, stagingTargetPath: staging }, LIMIT);
      const counter = startCounting(join(staging, volumeId));
      await counter.until(3);
      return counter;
    },
    /** -> its device on node B, once B's first write is in the cluster, and what each step took. */
    givenToB: async () => {
      const steps: string[] = [];
      const timed = async <A>(step: string, act: () => A): Promise<Awaited<A>> => {
        const since = performance.now();
        const answer = await act();
        steps.push(`${step} ${seconds(performance.now() - since)}`);
        return answer;
      };
      await timed("detach", () => detach("node-a"));
      await timed("attach", () => attach("node-b"));
      const device = await timed("map", () => mapOnB(spec));
      await timed("write", () => writeFirst(device));
      return { device, steps };
    },
    inCluster: () => inCluster(spec),
    takenFromBoth: async (deviceOfB: string) => {
      rbd("unmap", "-o", "noudev", deviceOfB);
      await detach("node-b");
      await nodeA.node.nodeUnstageVolume({ volumeId, stagingTargetPath: staging }, LIMIT);
      expect(readdirSync(staging)).toEqual([]);
    },
  };
};

const quantile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

test(
  `Of a node that is cut off while it writes nothing comes after the first write of the next node, ${RUNS} times`,
  async () => {
    const volumes = await Promise.all(Array.from({ length: VOLUMES }, (_, i) => makeVolume(`rounds-${i}`)));
    const given: { readonly ms: number; readonly steps: readonly string[] }[] = [];
    for (let round = 1; given.length < RUNS; round++) {
      setNode(`boot-${round}`, []);
      const counters = await Promise.all(volumes.map((volume) => volume.writtenByA()));

      cutOff();
      const tainted = performance.now();
      setNode(`boot-${round}`, [TAINT]);
      const devices = await Promise.all(
        volumes.map(async (volume) => {
          const { device, steps } = await volume.givenToB();
          given.push({ ms: performance.now() - tainted, steps });
          return device;
        }),
      );

      connect();
      for (const counter of counters) expect(await counter.refused(), `round ${round}: a writer of A`).toBe(7);
      for (const volume of volumes) expect(volume.inCluster(), `round ${round}: in the first sector`).toBe(OF_B);
      await Promise.all(volumes.map((volume, i) => volume.takenFromBoth(devices[i] ?? "")));
      if (given.length % 20 === 0 || given.length >= RUNS) {
        const times = given.map(({ ms }) => ms).toSorted((a, b) => a - b);
        const longest = given.find(({ ms }) => ms === times.at(-1));
        const told = `from the taint to B's first write: p50 ${seconds(quantile(times, 0.5))}, p99 ${seconds(quantile(times, 0.99))}`;
        const most = `longest ${seconds(longest?.ms ?? 0)} (${longest?.steps.join(", ")})`;
        console.log(`${given.length} volumes, ${round} rounds; ${told}, ${most}`);
      }
    }
    // the last fences, too, are lifted by the next boot
    setNode("boot-last", []);
    for (const volume of volumes) await volume.attach("node-a");
    expect(tool("ceph", "-c", rig().conf, "osd", "blocklist", "ls")).not.toContain("10.0.2.77");
  },
  RUNS * ROUND_MS,
);
