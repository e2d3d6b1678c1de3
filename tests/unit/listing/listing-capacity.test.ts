/** GetCapacity: which pools count for a StorageClass, in what bytes, and for what there is none. */
import { describe, expect, test } from "bun:test";
import type { MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { aDriver } from "../../support/one-world.ts";
import { ADMIN, LISTING } from "../../support/listing-world.ts";
import { aCluster, asBlock, codeOf, creation, EAST, GIB, MIB, mounted, PARAMETERS } from "../../support/world.ts";

const space = (cluster: MemoryCluster, sizes: Readonly<Record<string, bigint>>): MemoryCluster => {
  for (const [name, bytes] of Object.entries(sizes)) {
    const pool = cluster.pools.get(name);
    if (pool === undefined) throw new Error(`no pool ${name}`);
    pool.maxAvailableBytes = bytes;
  }
  return cluster;
};
const aSpacious = () => space(aCluster(), { rbd: 100n * GIB + 5n, ssd: 20n * GIB, ec: 300n * GIB });
const parametersOf = (more: Readonly<Record<string, string>>) => ({ ...PARAMETERS, ...more });
const zone = (value: string) => ({ segments: { "topology.rbd.csi.ceph.com/zone": value } });

describe("GetCapacity", () => {
  test("GetCapacity answers with the free bytes of the pool, and the sizes of the largest and the smallest volume", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    expect(await lister.getCapacity({ parameters: PARAMETERS })).toEqual({
      availableCapacity: 100n * GIB + 5n,
      maximumVolumeSize: 100n * GIB,
      minimumVolumeSize: MIB,
    });
    await using small = aDriver(space(aSpacious(), { rbd: 5n * MIB + 1n }), LISTING);
    expect(await small.getCapacity({ parameters: PARAMETERS })).toEqual({
      availableCapacity: 5n * MIB + 1n,
      maximumVolumeSize: 5n * MIB,
      minimumVolumeSize: MIB,
    });
  });

  test("CreateVolume makes a volume of the largest size without rounding it up", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    for (const bytes of [100n * GIB, 999n * MIB]) {
      const { volume } = await lister.createVolume(
        creation({ name: `of-${bytes}`, capacityRange: { requiredBytes: bytes } }),
      );
      expect(volume.capacityBytes).toBe(bytes);
    }
  });

  test("GetCapacity answers with what a quota leaves, which is never negative", async () => {
    const cluster = aSpacious();
    const pool = cluster.pools.get("rbd");
    if (pool === undefined) throw new Error("no pool");
    await using lister = aDriver(cluster, LISTING);
    const available = async () => (await lister.getCapacity({ parameters: PARAMETERS })).availableCapacity;
    pool.quotaBytes = 30n * GIB;
    expect(await available()).toBe(30n * GIB);
    const { volume } = await lister.createVolume(creation({ capacityRange: { requiredBytes: 64n * GIB } }));
    cluster.image("rbd", `csi-vol-${volume.volumeId.slice(-36)}`).write(0n, 10n * GIB);
    expect(await available()).toBe(20n * GIB);
    pool.quotaBytes = GIB;
    expect(await lister.getCapacity({ parameters: PARAMETERS })).toMatchObject({
      availableCapacity: 0n,
      maximumVolumeSize: 0n,
    });
  });

  test("GetCapacity answers with the capacity of the data pool, and with 0 when the image's own pool is full", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    const parameters = parametersOf({ dataPool: "ec" });
    expect((await lister.getCapacity({ parameters })).availableCapacity).toBe(300n * GIB);
    await using full = aDriver(space(aSpacious(), { rbd: 0n }), LISTING);
    expect((await full.getCapacity({ parameters })).availableCapacity).toBe(0n);
  });

  test("GetCapacity answers with the roomiest pool for a class without a pool, and with the sum of the clusters without a class", async () => {
    const clusters = [EAST, { ...EAST, clusterId: "west", radosNamespace: "w" }];
    await using lister = aDriver(aSpacious(), { clusters, secrets: { east: ADMIN, west: ADMIN } });
    expect((await lister.getCapacity({ parameters: { clusterID: "west" } })).availableCapacity).toBe(300n * GIB);
    expect((await lister.getCapacity()).availableCapacity).toBe(600n * GIB);
    const onlySsd = { ...ADMIN, pools: ["ssd"] };
    await using limited = aDriver(aSpacious(), { clusters, secrets: { east: onlySsd, west: onlySsd } });
    expect((await limited.getCapacity()).availableCapacity).toBe(40n * GIB);
  });

  test("GetCapacity answers with the roomiest pool of a topology, and with 0 where no pool is", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    const pools = [
      { poolName: "rbd", domainSegments: [{ domainLabel: "zone", value: "a" }] },
      { poolName: "ssd", dataPool: "ec", domainSegments: [{ domainLabel: "zone", value: "b" }] },
      { poolName: "ssd", domainSegments: [{ domainLabel: "zone", value: "c" }] },
    ];
    const parameters = { clusterID: "east", topologyConstrainedPools: JSON.stringify(pools) };
    const at = async (value: string) =>
      (await lister.getCapacity({ parameters, accessibleTopology: zone(value) })).availableCapacity;
    expect([await at("a"), await at("b"), await at("c"), await at("d")]).toEqual([
      100n * GIB + 5n,
      300n * GIB,
      20n * GIB,
      0n,
    ]);
    // a pool without topology is reached from everywhere
    const anywhere = await lister.getCapacity({ parameters: PARAMETERS, accessibleTopology: zone("d") });
    expect(anywhere.availableCapacity).toBe(100n * GIB + 5n);
    const broken = { ...parameters, topologyConstrainedPools: "[" };
    expect(await codeOf(lister.getCapacity({ parameters: broken, accessibleTopology: zone("a") }))).toBe(
      "INVALID_ARGUMENT",
    );
  });

  test("GetCapacity answers with 0 for volume capabilities that RBD does not support", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    const of = async (...volumeCapabilities: ReturnType<typeof mounted>[]) =>
      (await lister.getCapacity({ parameters: PARAMETERS, volumeCapabilities })).availableCapacity;
    const all = 100n * GIB + 5n;
    expect(await of(mounted(Mode.SINGLE_NODE_WRITER), asBlock(Mode.MULTI_NODE_MULTI_WRITER))).toBe(all);
    expect(await of(mounted(Mode.SINGLE_NODE_WRITER), mounted(Mode.MULTI_NODE_MULTI_WRITER))).toBe(0n);
    expect(await of({ accessMode: { mode: Mode.SINGLE_NODE_WRITER } })).toBe(0n);
  });

  test("GetCapacity fails for a wrong pool, cluster or class", async () => {
    await using lister = aDriver(aSpacious(), LISTING);
    const code = (parameters: Readonly<Record<string, string>>) =>
      codeOf(lister.getCapacity({ parameters: { ...parameters } }));
    expect(await code(parametersOf({ pool: "gone" }))).not.toBe("OK");
    expect(await code(parametersOf({ dataPool: "gone" }))).not.toBe("OK");
    expect(await code(parametersOf({ clusterID: "nowhere" }))).toBe("INVALID_ARGUMENT");
    expect(await code(parametersOf({ pool: "" }))).toBe("INVALID_ARGUMENT");
    expect(await code(parametersOf({ imageFeatures: "nonsense" }))).toBe("INVALID_ARGUMENT");
  });
});
