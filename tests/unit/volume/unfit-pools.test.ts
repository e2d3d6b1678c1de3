/** CreateVolume where the pools of the class cannot hold it, or its features cannot make a copy. */
import { describe, expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aVolume, cloneOf, readySnapshot, restoreOf, snapshotOf } from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, creation, failureOf, PARAMETERS } from "../../support/world.ts";

describe("CreateVolume begins nothing in pools that cannot hold the volume, and says what to do:", () => {
  const cases: readonly (readonly [
    what: string,
    coded: { overwrites: boolean } | undefined,
    parameters: Record<string, string>,
    code: string,
    message: string,
  ])[] = [
    [
      "a pool that is erasure-coded",
      { overwrites: false },
      { pool: "ec" },
      "FAILED_PRECONDITION",
      'pool ec is erasure-coded, and such a pool can hold the data of images only. Write "dataPool": "ec" in the StorageClass, and a replicated pool as "pool"',
    ],
    [
      "a pool that is erasure-coded and allows overwrites",
      { overwrites: true },
      { pool: "ec" },
      "FAILED_PRECONDITION",
      'Write "dataPool": "ec"',
    ],
    [
      "a data pool that is erasure-coded and allows no overwrites",
      { overwrites: false },
      { dataPool: "ec" },
      "FAILED_PRECONDITION",
      'Run "ceph osd pool set ec allow_ec_overwrites true", then retry',
    ],
    [
      "a data pool that is not there",
      undefined,
      { dataPool: "nowhere" },
      "INVALID_ARGUMENT",
      'data pool nowhere does not exist in the cluster. Create it, or correct "dataPool" in the StorageClass',
    ],
    [
      "a pool that is not there",
      undefined,
      { pool: "nowhere", dataPool: "ec" },
      "INVALID_ARGUMENT",
      'pool nowhere does not exist in the cluster. Create it, or correct "pool" in the StorageClass',
    ],
  ];
  for (const [what, coded, parameters, code, message] of cases) {
    test(what, async () => {
      const cluster = aCluster();
      const pool = cluster.pools.get("ec");
      if (pool !== undefined && coded !== undefined) pool.coded = coded;
      const { service, calls } = recorded(cephMemoryService(cluster));
      await using driver = aDriver(cluster, { ceph: service });
      const before = cluster.dump();
      const request = creation({ parameters: { ...PARAMETERS, ...parameters } });
      const failure = await failureOf(driver.createVolume(request));
      expect([failure?.code, failure?.message]).toEqual([code as never, expect.stringContaining(message)]);
      expect(cluster.dump()).toEqual(before);
      expect(calls().map(({ method }) => method)).toEqual(["poolId"]);
    });
  }

  test("a pool that the topology chooses, whose journal is not read", async () => {
    const cluster = aCluster();
    const pool = cluster.pools.get("ec");
    if (pool !== undefined) pool.coded = { overwrites: true };
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const before = cluster.dump();
    const topologyConstrainedPools = JSON.stringify(
      ["ec", "rbd"].map((poolName) => ({ poolName, domainSegments: [] })),
    );
    const accessibilityRequirements = { requisite: [{ segments: { "topology.rbd.csi.ceph.com/zone": "a" } }] };
    const parameters = { clusterID: "east", topologyConstrainedPools };
    const failure = await failureOf(driver.createVolume(creation({ parameters, accessibilityRequirements })));
    expect([failure?.code, failure?.message]).toEqual([
      "FAILED_PRECONDITION",
      expect.stringContaining('Write "dataPool": "ec"'),
    ]);
    expect(cluster.dump()).toEqual(before);
    expect(calls().map(({ method }) => method)).toEqual(["poolId"]);
  });

  test("and makes the volume when the pool allows overwrites at last", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const pool = cluster.pools.get("ec");
    if (pool === undefined) throw new Error("no pool ec");
    pool.coded = { overwrites: false };
    const request = creation({ parameters: { ...PARAMETERS, dataPool: "ec" } });
    expect((await failureOf(driver.createVolume(request)))?.code).toBe("FAILED_PRECONDITION");
    pool.coded.overwrites = true;
    expect((await driver.createVolume(request)).volume.volumeContext["dataPool"]).toBe("ec");
  });
});

describe("CreateVolume of a copy", () => {
  const parameters = { ...PARAMETERS, imageFeatures: "exclusive-lock" };

  test("is refused before any call where imageFeatures has no layering", async () => {
    const cluster = aCluster();
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    forget();
    for (const request of [cloneOf(id, { parameters }), restoreOf(snapshotId, { parameters })]) {
      const failure = await failureOf(driver.createVolume(request));
      expect(failure?.code).toBe("INVALID_ARGUMENT");
      expect(failure?.message).toContain(
        "parameter imageFeatures: lacks layering, which a volume with a content source needs: add it",
      );
    }
    expect(calls()).toEqual([]);
  });

  test("is refused where the volume to copy lacks layering, and nothing is begun", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster, { parameters });
    const before = cluster.dump();
    const failure = await failureOf(driver.createVolume(cloneOf(id)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("cannot be cloned, because it lacks the feature layering. Copy its data");
    expect(cluster.dump()).toEqual(before);
  });
});
