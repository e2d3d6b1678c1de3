/**
 * The driver fences a lost node on a real cluster: a client that writes is refused from the moment on at which
 * ControllerUnpublishVolume has answered, another client of the same address goes on, and the fence is lifted after a boot.
 *
 * Not here: how a node records its client (tests/unit/fencing), and krbd (tests/vm).
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FenceController } from "../../lib/gen/csi_addons_fence_pb.ts";
import { client } from "../support/grpc-client.ts";
import { kubeconfigFor, kubeServer, type KubeServer } from "../support/kube-server.ts";
import { rig } from "../rig/cluster.ts";
import { checkout } from "../rig/suite.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { SLOT } from "./fence-writer.ts";
import { makePool, tool } from "./inventory.ts";
import { CLUSTER, createRequest, failureOf, rawBlock, secrets } from "./requests.ts";

const ROUNDS = 10;
const timeoutMs = 120_000;
const NODES = "/api/v1/nodes";
const TAINT = { key: "node.kubernetes.io/out-of-service", value: "nodeshutdown", effect: "NoExecute" };
const EBLOCKLISTED = 108;

let dir: string;
let driver: Driver;
let kube: KubeServer;
let pool: Awaited<ReturnType<typeof makePool>>;
let dataPool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  dir = testFolder("fencing");
  pool = await makePool("fencing");
  dataPool = await makePool("fencing-data");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  kube = kubeServer();
  const kubeconfig = kubeconfigFor(kube, dir);
  driver = await startDriver({
    dir,
    flags: [
      "--enable-fencing",
      `--kubeconfig=${kubeconfig}`,
      `--csi-addons-endpoint=unix://${join(dir, "addons.sock")}`,
    ],
  });
}, timeoutMs);

afterAll(async () => {
  await driver?.end();
  await kube?.stop();
  await dataPool?.remove();
  await pool?.remove();
}, timeoutMs);

/** A client that writes: the numbers that it has written, and how it ended. */
const writer = async (image: string, slot: number) => {
  const stop = join(dir, `stop-${image}-${slot}`);
  rmSync(stop, { force: true });
  const program = join(checkout, "tests/ceph/fence-writer.ts");
  const child = Bun.spawn([process.execPath, program, stop, pool.name, image, String(slot)], {
    cwd: checkout,
    env: process.env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines: string[] = [];
  const read = (async () => {
    let rest = "";
    for await (const bytes of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = `${rest}${bytes}`.split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts);
    }
  })();
  const until = async (condition: () => boolean, what: string): Promise<void> => {
    const limit = Date.now() + 30_000;
    while (!condition()) {
      if (Date.now() > limit) throw new Error(`not within 30 s: ${what}; its last lines: ${lines.slice(-3).join(" ")}`);
      await Bun.sleep(2);
    }
  };
  await until(() => lines.length > 10, "the writer writes");
  const client = /(\d+\.){3}\d+:0\/\d+/.exec(lines[0] ?? "")?.[0] ?? "";
  return {
    client,
    lines,
    until,
    end: async () => {
      writeFileSync(stop, "");
      await child.exited;
      await read;
    },
  };
};

/** The number in a slot, as yet another client reads it. */
const numberIn = async (image: string, slot: number): Promise<number> => {
  const file = join(dir, "exported");
  rmSync(file, { force: true });
  await tool("rbd", "export", "--no-progress", `${pool.name}/${image}`, file);
  const bytes = await Bun.file(file)
    .slice(slot * SLOT, slot * SLOT + 8)
    .arrayBuffer();
  return Number(new DataView(bytes).getBigUint64(0, true));
};

const blocklist = () => tool("ceph", "osd", "blocklist", "ls");

test(
  "A network is fenced through CSI-Addons, listed and unfenced; the driver tells the cluster and its own address",
  async () => {
    const addons = client(FenceController, `unix://${join(dir, "addons.sock")}`);
    try {
      const cluster = { parameters: { clusterID: CLUSTER }, secrets: secrets() };
      const cidrs = [{ cidr: "10.99.7.7/16" }, { cidr: "fd00:0:0:99::1/64" }];
      await addons.fenceClusterNetwork({ ...cluster, cidrs });
      const fenced = (await addons.listClusterFence(cluster)).cidrs.map(({ cidr }) => cidr);
      expect(fenced.toSorted()).toEqual(["10.99.0.0/16", "fd00:0:0:99::/64"]);
      await addons.unfenceClusterNetwork({ ...cluster, cidrs });
      expect((await addons.listClusterFence(cluster)).cidrs).toEqual([]);
      const [own] = (await addons.getFenceClients(cluster)).clients;
      expect(own?.id).toBe((await tool("ceph", "fsid")).trim());
      expect(own?.addresses.map(({ cidr }) => cidr)).toEqual(["127.0.0.1/32"]);
    } finally {
      addons.close();
    }
  },
  timeoutMs,
);

describe("a lost node", () => {
  /** A volume that two clients may write to at the same time. */
  const aVolume = async (name: string, parameters: Readonly<Record<string, string>> = {}) => {
    const request = createRequest(name, { pool: pool.name, imageFeatures: "layering", ...parameters }, 1n << 24n);
    const { volume } = await driver.controller.createVolume({ ...request, volumeCapabilities: [rawBlock] });
    const volumeId = volume?.volumeId ?? "";
    const image = `csi-vol-${volumeId.slice(-36)}`;
    /** As NodeStageVolume on that node does. */
    const record = async (node: string, client: string, boot: string) => {
      const entries = { clientAddress: client, userID: rig().user, bootID: `${boot} ${client}` };
      for (const [key, value] of Object.entries(entries)) {
        await tool("rbd", "image-meta", "set", `${pool.name}/${image}`, `.rbd.csi.ceph.com/${key}/${node}`, value);
      }
    };
    return { volumeId, image, record };
  };
  const setNode = (name: string, taints: readonly object[], bootID: string) => {
    if (kube.memory.find(`${NODES}/${name}`) === undefined) kube.memory.create(NODES, { metadata: { name } });
    const conditions = [{ type: "Ready", status: "True" }];
    const nodeInfo = { bootID, machineID: `machine of ${name}` };
    kube.memory.merge(`${NODES}/${name}`, { spec: { taints }, status: { conditions, nodeInfo } });
  };

  test(
    `No write of its client comes after the detach, in ${ROUNDS} rounds, and a client of the same address goes on`,
    async () => {
      const { volumeId, image, record } = await aVolume("rounds");
      const other = await writer(image, 1);
      for (let round = 1; round <= ROUNDS; round++) {
        setNode("node-a", [TAINT], `boot-${round}`);
        const lost = await writer(image, 0);
        await record("node-a", lost.client, `boot-${round}`);
        await driver.controller.controllerUnpublishVolume({ volumeId, nodeId: "node-a", secrets: secrets() });
        const atAnswer = await numberIn(image, 0);
        await lost.until(() => lost.lines.at(-1)?.startsWith("refused") === true, "the lost client is refused");
        expect(lost.lines.at(-1)).toBe(`refused ${EBLOCKLISTED}`);
        expect(await numberIn(image, 0)).toBe(atAnswer);
        const written = other.lines.length;
        await other.until(() => other.lines.length > written + 10, "the other client of the address writes");
        expect(await blocklist()).toContain(lost.client);
        expect(await blocklist()).not.toContain(other.client);
        await lost.end();
      }
      await other.end();
      expect(other.lines.at(-1)).toMatch(/^\d+$/);
    },
    timeoutMs,
  );

  test(
    "Attaching to another node fences it as well, and lifts the fence after a boot; with a data pool, too",
    async () => {
      const { volumeId, image, record } = await aVolume("attach", { dataPool: dataPool.name });
      setNode("node-c", [TAINT], "boot-1");
      setNode("node-d", [], "boot-1");
      const lost = await writer(image, 0);
      await record("node-c", lost.client, "boot-1");
      const attach = (nodeId: string) =>
        driver.controller.controllerPublishVolume({
          volumeId,
          nodeId,
          volumeCapability: rawBlock,
          volumeContext: { clusterID: CLUSTER, pool: pool.name },
          secrets: secrets(),
        });
      await attach("node-d");
      await lost.until(() => lost.lines.at(-1) === `refused ${EBLOCKLISTED}`, "the lost client is refused");
      await lost.end();
      expect(await blocklist()).toContain(lost.client);
      setNode("node-c", [], "boot-1");
      const refusal = await failureOf(attach("node-c"));
      expect(refusal.details).toContain("not proven to have booted since");
      setNode("node-c", [], "boot-2");
      await attach("node-c");
      expect(await blocklist()).not.toContain(lost.client);
      expect(await tool("rbd", "image-meta", "ls", `${pool.name}/${image}`)).not.toContain("csi.ceph.com/fenced");
    },
    timeoutMs,
  );

  test(
    "A snapshot's clone has no record of the nodes of its source",
    async () => {
      const { image, record } = await aVolume("source");
      await record("node-a", "10.0.0.1:0/1", "boot-1");
      await tool("rbd", "snap", "create", `${pool.name}/${image}@s`);
      const clone = `${image}-clone`;
      await tool("rbd", "clone", "--rbd-default-clone-format=2", `${pool.name}/${image}@s`, `${pool.name}/${clone}`);
      expect(await tool("rbd", "image-meta", "ls", `${pool.name}/${clone}`)).not.toContain("clientAddress");
    },
    timeoutMs,
  );
});
