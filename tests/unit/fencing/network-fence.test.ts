/** NetworkFence of CSI-Addons: networks, and what is done with them on a cluster in memory. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { Blocked } from "../../../lib/ceph/blocklist.ts";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, TimedOut } from "../../../lib/ceph/errors.ts";
import { contains, formatNetwork, type Network, networkOfClient, parseNetwork } from "../../../lib/fencing/network.ts";
import { recorded } from "../../support/ceph-faults.ts";
import { MEMORY_FSID } from "../../support/ceph-memory/blocklist.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { listed } from "../../support/fencing-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, codeOf, failureOf, SECRETS } from "../../support/world.ts";

const network = (text: string): Network => {
  const parsed = parseNetwork(text);
  if (parsed === undefined) throw new Error(`${text} is not a network`);
  return parsed;
};

describe("a network", () => {
  test.each([
    ["10.0.0.7/24", "10.0.0.0/24"],
    ["10.0.0.7", "10.0.0.7/32"],
    ["255.255.255.255/0", "0.0.0.0/0"],
    [" 10.0.0.7/32 ", "10.0.0.7/32"],
    ["fd00:0:0:9::5/64", "fd00:0:0:9::/64"],
    ["FD00::7", "fd00::7/128"],
    ["::/0", "::/0"],
    ["::1", "::1/128"],
    ["1:2:3:4:5:6:7:8/127", "1:2:3:4:5:6:7:8/127"],
  ])("%s is %s", (text, canonical) => {
    expect(formatNetwork(network(text))).toBe(canonical);
  });

  test.each([
    "",
    "10.0.0",
    "10.0.0.0/33",
    "fd00::/129",
    "10.0.0.0/24/8",
    "10.0.0.0/-1",
    "10.0.0.0/a",
    "host/24",
    "fe80::1%eth0",
  ])("%p is none", (text) => {
    expect(parseNetwork(text)).toBeUndefined();
  });

  test.each([
    ["10.0.0.0/24", "10.0.0.255", true],
    ["10.0.0.0/24", "10.0.1.0", false],
    ["10.0.0.0/24", "10.0.0.0/16", false],
    ["fd00::/16", "fd00:1::/32", true],
    ["::/0", "10.0.0.1", false],
  ])("%s contains %s: %p", (outer, inner, does) => {
    expect(contains(network(outer), network(inner))).toBe(does);
  });

  test.each([
    ["10.0.0.1:0/3412", "10.0.0.1/32"],
    ["v2:[fd00::1]:0/3412", "fd00::1/128"],
  ])("The client %s is of %s", (client, canonical) => {
    const found = networkOfClient(client);
    expect(found && formatNetwork(found)).toBe(canonical);
  });
});

const request = (cidrs: readonly string[], more: object = {}) => ({
  parameters: { clusterID: "east" },
  secrets: SECRETS,
  cidrs: cidrs.map((cidr) => ({ cidr })),
  ...more,
});
const asked = { parameters: { clusterID: "east" }, secrets: SECRETS };
const add = (cluster: MemoryCluster, ...entries: readonly Blocked[]) => {
  for (const entry of entries) cluster.blocklist.set(`${entry.kind} ${entry.address}`, entry);
};

describe("fencing", () => {
  test("Networks go onto the blocklist in their canonical form, and every pool is proven", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    await driver.fenceNetwork(request(["10.0.0.7/24", "fd00::/64"]));
    await driver.fenceNetwork(request(["10.0.0.7/24", "fd00::/64"]));
    expect(listed(cluster)).toEqual(["range 10.0.0.0/24", "range fd00::/64"]);
    expect(calls().filter(({ method }) => method === "blocklistReached")).toHaveLength(2 * 3);
  });

  const denied = new AccessDenied({ op: "rados_stat", subject: "x", user: "admin" });
  const silent = new TimedOut({ op: "rados_stat", subject: "x" });
  const monitors = new TimedOut({ op: "rados_mon_command", subject: "x" });
  test.each([
    ["one into which the user may not look is no failure", { ssd: denied }, "OK", undefined],
    ["nor are all of them", { rbd: denied, ssd: denied, ec: denied }, "OK", undefined],
    ["one whose OSDs do not answer is in the log, if another one proves the fence", { ssd: silent }, "OK", "ssd"],
    ["so are two, the first ones, too", { rbd: silent, ssd: silent }, "OK", "rbd, ssd"],
    ["if no OSD answers it fails", { rbd: silent, ssd: silent, ec: silent }, "DEADLINE_EXCEEDED", undefined],
    [
      "also if the user may not look elsewhere",
      { rbd: silent, ssd: denied, ec: denied },
      "DEADLINE_EXCEEDED",
      undefined,
    ],
    ["that the monitors do not answer is no matter of a pool", { ssd: monitors }, "DEADLINE_EXCEEDED", undefined],
    ["one that does not know the list is a failure", { ssd: false }, "ABORTED", undefined],
    ["also behind one that does not answer", { rbd: silent, ssd: false }, "ABORTED", undefined],
  ] as const)("Of the pools %s", async (_, pools, code, named) => {
    const cluster = aCluster();
    const asked: string[] = [];
    const inner = cephMemoryService(cluster);
    const ceph: CephCalls = {
      ...inner,
      blocklistReached: (pool, entry) => {
        asked.push(pool.pool);
        const answer = new Map<string, AccessDenied | TimedOut | false>(Object.entries(pools)).get(pool.pool);
        if (answer === undefined) return inner.blocklistReached(pool, entry);
        return answer === false ? Effect.succeed(false) : Effect.fail(answer);
      },
    };
    await using driver = aDriver(cluster, { ceph });
    expect(await codeOf(driver.fenceNetwork(request(["10.0.0.0/24"])))).toBe(code);
    expect(asked.toSorted()).toEqual(["ec", "rbd", "ssd"]);
    expect(listed(cluster)).toEqual(["range 10.0.0.0/24"]);
    const remarks = driver.log.join();
    if (named === undefined) expect(remarks).not.toContain("not every OSD answers");
    else expect(remarks).toContain(`but not in ${named}, of which not every OSD answers`);
  });

  test("A network that is not on the list afterwards is not fenced", async () => {
    const cluster = aCluster();
    const ceph = { ...cephMemoryService(cluster), blocklistAdd: () => Effect.void };
    await using driver = aDriver(cluster, { ceph });
    expect(await codeOf(driver.fenceNetwork(request(["10.0.0.0/24"])))).toBe("ABORTED");
  });

  test("A network with the driver itself is fenced, unproven, and the log says so", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    await driver.fenceNetwork(request(["127.0.0.0/8"]));
    expect(listed(cluster)).toEqual(["range 127.0.0.0/8"]);
    expect(driver.log.join()).toContain("cannot prove the fence");
  });

  test("Unfencing lifts the network however it was written, and no entry of a client or a whole address, which may be a lost node's", async () => {
    const cluster = aCluster();
    add(
      cluster,
      { kind: "range", address: "10.0.0.9/24" },
      { kind: "client", address: "10.0.0.7:0/0" },
      { kind: "client", address: "10.0.0.7:0/3412" },
      { kind: "range", address: "10.0.0.0/25" },
      { kind: "client", address: "10.0.1.7:0/0" },
    );
    await using driver = aDriver(cluster);
    await driver.unfenceNetwork(request(["10.0.0.0/24"]));
    const left = ["client 10.0.0.7:0/0", "client 10.0.0.7:0/3412", "range 10.0.0.0/25", "client 10.0.1.7:0/0"];
    expect(listed(cluster)).toEqual(left);
    expect(driver.log.join()).toContain("10.0.0.7:0/0 in 10.0.0.0/24 stays fenced");
    await driver.unfenceNetwork(request(["10.0.0.0/24"]));
    expect(listed(cluster)).toEqual(left);
  });

  test("The list has networks and whole addresses, each once", async () => {
    const cluster = aCluster();
    add(
      cluster,
      { kind: "range", address: "10.0.0.9/24" },
      { kind: "client", address: "10.0.1.7:0/0" },
      { kind: "client", address: "10.0.2.7:0/12" },
      { kind: "range", address: "10.0.1.7/32" },
    );
    await using driver = aDriver(cluster);
    expect(await driver.listFences(asked)).toEqual({ cidrs: [{ cidr: "10.0.0.0/24" }, { cidr: "10.0.1.7/32" }] });
  });

  test("The clients are the cluster's fsid and this process's address, once for both protocols", async () => {
    const cluster = aCluster();
    for (const address of ["127.0.0.1:0/4000", "[v2:127.0.0.1:0/4000,v1:127.0.0.1:0/4000]"]) {
      const ceph = {
        ...cephMemoryService(cluster),
        clusterIdentity: () => Effect.succeed({ fsid: MEMORY_FSID, address }),
      };
      await using driver = aDriver(cluster, { ceph });
      expect(await driver.fenceClients(asked)).toEqual({
        clients: [{ id: MEMORY_FSID, addresses: [{ cidr: "127.0.0.1/32" }] }],
      });
    }
  });

  test.each([
    ["cidrs is missing", request([])],
    ["cidrs[1]", request(["10.0.0.0/24", "10.0.0"])],
    ["clusterID", request(["10.0.0.0/24"], { parameters: {} })],
    ["west", request(["10.0.0.0/24"], { parameters: { clusterID: "west" } })],
    ["userID", request(["10.0.0.0/24"], { secrets: {} })],
  ])("A request is refused for %s, and nothing is fenced", async (what, wrong) => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const failure = await failureOf(driver.fenceNetwork(wrong));
    expect(failure?.code).toBe("INVALID_ARGUMENT");
    expect(failure?.message).toContain(what);
    expect(listed(cluster)).toEqual([]);
  });

  test("A user that may not lift fences reads what it takes", async () => {
    const cluster = aCluster();
    add(cluster, { kind: "range", address: "10.0.0.0/24" });
    const caps = `mon 'profile rbd, allow command "osd blocklist"'`;
    const denied = new AccessDenied({ op: "osd blocklist rm", subject: "10.0.0.0/24", user: "admin", caps });
    const ceph = { ...cephMemoryService(cluster), blocklistRemove: () => Effect.fail(denied) };
    await using driver = aDriver(cluster, { ceph });
    const failure = await failureOf(driver.unfenceNetwork(request(["10.0.0.0/24"])));
    expect(failure?.code).toBe("PERMISSION_DENIED");
    expect(failure?.message).toContain(caps);
  });
});
