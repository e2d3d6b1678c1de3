/** Volumes whose pool follows from where they have to be reached: which pool, that it stays, and what is refused. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { AccessDenied, PoolNotFound, TimedOut } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { hanging } from "../../support/hanging.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  type CreateInit,
  aCluster,
  codeOf,
  creation,
  deletion,
  failureOf,
  poolDump,
  uuidOf,
} from "../../support/world.ts";
import {
  aVolume,
  cloneOf,
  imageOf,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotOf,
} from "../../support/copies-world.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";

const KEY = "topology.rbd.csi.ceph.com";
const at = (zone: string, rack = "r1") => ({ segments: { [`${KEY}/zone`]: zone, [`${KEY}/rack`]: rack } });
const pool = (poolName: string, zone: string, more: Record<string, unknown> = {}) => ({
  poolName,
  domainSegments: [{ domainLabel: "zone", value: zone }],
  ...more,
});
const POOLS = [pool("rbd", "a"), pool("ssd", "b")];

const placed = (more: CreateInit = {}, pools: unknown = POOLS): CreateInit => ({
  parameters: {
    clusterID: "east",
    topologyConstrainedPools: typeof pools === "string" ? pools : JSON.stringify(pools),
  },
  ...more,
});
const preferring = (...zones: readonly string[]): CreateInit["accessibilityRequirements"] => ({
  preferred: zones.map((zone) => at(zone)),
  requisite: zones.map((zone) => at(zone)),
});
const request = (...zones: readonly string[]) => creation(placed({ accessibilityRequirements: preferring(...zones) }));

const EMPTY = aCluster().dump();
const imagesIn = (cluster: MemoryCluster, name: string) => Object.keys(poolDump(cluster, name).images);

describe("choice of the pool", () => {
  const cases: readonly (readonly [string, unknown, CreateInit["accessibilityRequirements"], string])[] = [
    [
      "the pool of the first preference",
      POOLS,
      { preferred: [at("b"), at("a")], requisite: [at("a"), at("b")] },
      "ssd",
    ],
    [
      "the pool of the next preference where no pool is in the first",
      POOLS,
      { preferred: [at("c"), at("b")], requisite: [] },
      "ssd",
    ],
    [
      "the pool of a requisite topology where the request has no preference",
      POOLS,
      { preferred: [], requisite: [at("b")] },
      "ssd",
    ],
    [
      "the pool of a requisite topology where no preference fits",
      POOLS,
      { preferred: [at("c")], requisite: [at("a")] },
      "rbd",
    ],
    [
      "the first pool in the list where several are in one place",
      [pool("ec", "b"), pool("ssd", "b")],
      { preferred: [at("b")], requisite: [] },
      "ec",
    ],
    [
      "the pool all of whose segments match",
      [
        {
          poolName: "rbd",
          domainSegments: [
            { domainLabel: "zone", value: "a" },
            { domainLabel: "rack", value: "r2" },
          ],
        },
        {
          poolName: "ssd",
          domainSegments: [
            { domainLabel: "zone", value: "a" },
            { domainLabel: "rack", value: "r1" },
          ],
        },
      ],
      { preferred: [at("a", "r1")], requisite: [] },
      "ssd",
    ],
  ];
  for (const [what, pools, accessibilityRequirements, expected] of cases) {
    test(`CreateVolume chooses ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const { volume } = await driver.createVolume(creation(placed({ accessibilityRequirements }, pools)));
      expect(volume.volumeContext).toMatchObject({ pool: expected, journalPool: expected });
      expect(imagesIn(cluster, expected)).toEqual([imageOf(volume.volumeId)]);
    });
  }

  test("CreateVolume answers with the topology of the chosen pool, and journal, image and ID are of that pool", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(request("b", "a"));
    expect(volume.accessibleTopology).toEqual([at("b")]);
    expect(volume.volumeId).toContain("-0000000000000003-");
    expect(volume.volumeContext["topologyConstrainedPools"]).toBeUndefined();
    expect(poolDump(cluster, "ssd").objects["csi.volumes.default"]).toEqual({
      "csi.volume.pvc-1": uuidOf(volume.volumeId),
    });
    expect(poolDump(cluster, "rbd").objects).toEqual({});
    await driver.deleteVolume(deletion(volume.volumeId));
    await settled(cluster, "ssd");
    expect(imagesIn(cluster, "ssd")).toEqual([]);
  });

  test("a volume has the data pool of the chosen pool, else the data pool of the class", async () => {
    for (const [more, expected] of [
      [{ dataPool: "ec" }, "ec"],
      [{}, "ssd"],
    ] as const) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const asked = placed({ accessibilityRequirements: preferring("a") }, [pool("rbd", "a", more)]);
      const parameters = { ...(asked.parameters as Record<string, string>), dataPool: "ssd" };
      const { volume } = await driver.createVolume(creation({ ...asked, parameters }));
      expect(cluster.image("rbd", imageOf(volume.volumeId)).dataPool).toBe(expected);
    }
  });

  test("CreateVolume chooses the class's pool where the request has no topology", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const asked = placed();
    const parameters = { ...(asked.parameters as Record<string, string>), pool: "ec" };
    const { volume } = await driver.createVolume(creation({ parameters }));
    expect(volume).toMatchObject({ volumeContext: { pool: "ec" }, accessibleTopology: [] });
  });

  test("CreateVolume reads a list of pools that spans several lines, as in a StorageClass", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const text = JSON.stringify(POOLS, undefined, 2);
    const asked = placed({ accessibilityRequirements: preferring("b") }, text);
    expect((await driver.createVolume(creation(asked))).volume.volumeContext["pool"]).toBe("ssd");
  });
});

describe("R19: stability of the chosen pool", () => {
  test("R19: a volume stays in its first pool when the retry prefers another pool", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const first = await driver.createVolume(request("a", "b"));
    const second = await driver.createVolume(request("b", "a"));
    expect(second.volume.volumeId).toBe(first.volume.volumeId);
    expect(second.volume.accessibleTopology).toEqual([at("a")]);
    expect(imagesIn(cluster, "ssd")).toEqual([]);
  });

  test("R19: a volume that is half made stays in its first pool", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const uuid = "b0285c97-a0ce-41eb-8c66-0242ac110002";
    cluster.namespace("ssd", "")?.objects.set("csi.volumes.default", new Map([["csi.volume.pvc-1", uuid]]));
    const { volume } = await driver.createVolume(request("a", "b"));
    expect(uuidOf(volume.volumeId)).toBe(uuid);
    expect(imagesIn(cluster, "ssd")).toEqual([imageOf(volume.volumeId)]);
    expect(imagesIn(cluster, "rbd")).toEqual([]);
  });

  test("R19: a retry that leaves the first pool out finds the name taken, and makes no second image", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    await driver.createVolume(request("a", "b"));
    const before = cluster.dump();
    const failure = await failureOf(driver.createVolume(request("b")));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("in pool rbd") });
    expect(cluster.dump()).toEqual(before);
  });

  test("R19: a volume stays in its first pool when another driver gets the preferences in another order", async () => {
    const cluster = aCluster();
    await using one = aDriver(cluster);
    await using other = aDriver(cluster);
    const first = await one.createVolume(request("b", "a"));
    const second = await other.createVolume(request("a", "b"));
    expect(second.volume.volumeId).toBe(first.volume.volumeId);
  });
});

describe("pools that can't be read", () => {
  const ABOUT = { op: "a_call", subject: "ssd" };
  for (const [what, answer] of [
    ["does not answer", Effect.fail(new TimedOut(ABOUT))],
    ["never comes back", Effect.never],
    ["hangs in its cell", hanging().around(Effect.never)],
    ["is closed to the user", Effect.fail(new AccessDenied({ ...ABOUT, user: "x" }))],
    ["is removed", Effect.fail(new PoolNotFound(ABOUT))],
  ] as const) {
    test(`CreateVolume makes a volume in another pool when a pool ${what}`, async () => {
      const cluster = aCluster();
      const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
        call.subject.startsWith("ssd/") ? answer : act,
      );
      await using driver = aDriver(cluster, { ceph });
      for (const zones of [["a", "b"], ["a"]]) {
        const { volume } = await driver.createVolume(request(...zones));
        expect(volume.volumeContext["pool"]).toBe("rbd");
      }
      expect(await codeOf(driver.createVolume(request("b"), "1 seconds"))).not.toBe("OK");
    }, 15_000);
  }
});

describe("topology of copies", () => {
  const source = async (cluster: MemoryCluster) => {
    await using driver = aDriver(cluster);
    const volumeId = await aVolume(
      driver,
      cluster,
      placed({ name: "pvc-0", accessibilityRequirements: preferring("b") }),
    );
    const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId));
    return { volumeId, snapshotId, data: read(cluster, imageOf(volumeId), "ssd") };
  };

  test("a restore stays in the pool of its snapshot, whatever the request prefers", async () => {
    const cluster = aCluster();
    const { snapshotId, data } = await source(cluster);
    await using driver = aDriver(cluster);
    const more = placed({ accessibilityRequirements: preferring("a", "b") });
    const { volume } = await driver.createVolume(restoreOf(snapshotId, more));
    expect(volume).toMatchObject({ volumeContext: { pool: "ssd" }, accessibleTopology: [at("b")] });
    expect(read(cluster, imageOf(volume.volumeId), "ssd")).toEqual(data);
    expect(await driver.createVolume(restoreOf(snapshotId, more))).toMatchObject({ volume });
  });

  test("CreateVolume refuses a restore whose snapshot's pool is outside the requested topology", async () => {
    const cluster = aCluster();
    const { snapshotId } = await source(cluster);
    await using driver = aDriver(cluster);
    const more = placed({ accessibilityRequirements: preferring("a") });
    const failure = await failureOf(driver.createVolume(restoreOf(snapshotId, more)));
    expect(failure).toMatchObject({ code: "RESOURCE_EXHAUSTED", message: expect.stringContaining("pool ssd") });
    expect(imagesIn(cluster, "rbd")).toEqual([]);
  });

  test("CreateVolume makes a clone of a volume in another pool than the source's", async () => {
    const cluster = aCluster();
    const { volumeId, data } = await source(cluster);
    await using driver = aDriver(cluster);
    const more = placed({ accessibilityRequirements: preferring("a") });
    const { volume } = await driver.createVolume(cloneOf(volumeId, more));
    expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
    await driver.deleteVolume(deletion(volume.volumeId));
    await settled(cluster);
    expect(imagesIn(cluster, "rbd")).toEqual([]);
  });
});

describe("refused topologies", () => {
  const asked = { accessibilityRequirements: preferring("a") };
  const segment = { domainLabel: "zone", value: "a" };
  for (const [what, pools, says] of [
    ["text that is not JSON", "[{]", 'is not JSON at line 1, column 3: a key is missing, found "]"'],
    ["a comma too many", '[\n {"poolName": "rbd"},\n]', 'is not JSON at line 2, column 21: a comma before "]"'],
    ["JSON that is not a list", "{}", "must be a list of objects, such as"],
    ["a list of texts", '["rbd"]', "[0] must be an object"],
    ["a pool without a name", [{ domainSegments: [segment] }], "[0].poolName must be a text"],
    ["a pool with an empty name", [{ poolName: "", domainSegments: [segment] }], "[0].poolName must not be empty"],
    ["a pool with an empty data pool", [{ poolName: "rbd", dataPool: "" }], "[0].dataPool must not be empty"],
    ["a typo in poolName", [{ poolNane: "rbd" }], "[0].poolNane is not a key: write poolName"],
    ["a typo in dataPool", [{ poolName: "rbd", datapol: "ec" }], "[0].datapol is not a key: write dataPool"],
    [
      "a typo in domainSegments",
      [{ poolName: "rbd", domainSegment: [segment] }],
      "[0].domainSegment is not a key: write domainSegments",
    ],
    [
      "a typo in a segment",
      [{ poolName: "rbd", domainSegments: [segment, { domainLable: "zone", value: "a" }] }],
      "[0].domainSegments[1].domainLable is not a key: write domainLabel",
    ],
    [
      "a segment without a value",
      [{ poolName: "rbd", domainSegments: [{ domainLabel: "zone" }] }],
      "[0].domainSegments[0].value must be a text",
    ],
    ["null", "null", "must be a list of objects"],
  ] as const) {
    test(`CreateVolume refuses topologyConstrainedPools with ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const failure = await failureOf(driver.createVolume(creation(placed(asked, pools))));
      expect(failure).toMatchObject({
        code: "INVALID_ARGUMENT",
        message: expect.stringContaining(`topologyConstrainedPools: ${says}`),
      });
      expect(cluster.dump()).toEqual(EMPTY);
    });
  }

  test("CreateVolume reads keys in any case, and takes a pool without segments for every part of the cluster", async () => {
    for (const pools of [
      [{ POOLNAME: "ssd", domainsegments: [{ domainlabel: "zone", Value: "a" }], note: "fast" }],
      [{ poolName: "ssd", domainSegments: [] }],
      [{ poolName: "rbd", domainSegments: [{ domainLabel: "zone", value: "b" }] }, { poolName: "ssd" }],
    ]) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      await driver.createVolume(creation(placed(asked, pools)));
      expect(imagesIn(cluster, "ssd")).toHaveLength(1);
    }
  });

  test("CreateVolume answers RESOURCE_EXHAUSTED for a place without a pool, so that the CO tries another place", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const failure = await failureOf(driver.createVolume(request("z")));
    expect(failure).toMatchObject({ code: "RESOURCE_EXHAUSTED", message: expect.stringContaining('"z"') });
    expect(await codeOf(driver.createVolume(creation(placed(asked, []))))).toBe("RESOURCE_EXHAUSTED");
    expect(cluster.dump()).toEqual(EMPTY);
  });

  test("CreateVolume refuses a class without a pool where the request has no topology", async () => {
    await using driver = aDriver(aCluster());
    expect(await codeOf(driver.createVolume(creation(placed())))).toBe("INVALID_ARGUMENT");
  });

  test("CreateVolume refuses a chosen pool that does not exist", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const failure = await failureOf(driver.createVolume(creation(placed(asked, [pool("gone", "a")]))));
    expect(failure).toMatchObject({ message: expect.stringContaining("pool gone does not exist") });
    expect(failure?.code).toBe("INVALID_ARGUMENT");
  });
});
