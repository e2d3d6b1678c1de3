/**
 * From where a snapshot can be used: what CreateSnapshot answers for a class that ties pools to parts of the cluster, what
 * it refuses, and that it says nothing where there is no topology.
 */
import { describe, expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aVolume, readySnapshot, restoreOf, snapshotOf } from "../../support/copies-world.ts";
import { ADMIN } from "../../support/listing-world.ts";
import { aDriver, type Driver, type DriverWorld } from "../../support/one-world.ts";
import { aCluster, codeOf, type CreateInit, deletion, failureOf, SECRETS } from "../../support/world.ts";

const KEY = "topology.rbd.csi.ceph.com";
const at = (zone: string, rack = "r1") => ({ segments: { [`${KEY}/zone`]: zone, [`${KEY}/rack`]: rack } });
const pool = (poolName: string, zone: string) => ({
  poolName,
  domainSegments: [{ domainLabel: "zone", value: zone }],
});
const POOLS = JSON.stringify([pool("rbd", "a"), pool("ssd", "b")]);
const CLASS = { clusterID: "east", topologyConstrainedPools: POOLS };

type Topologies = readonly { readonly segments: Record<string, string> }[];
const asking = (requisite: Topologies, preferred: Topologies = []) => ({
  accessibilityRequirements: { requisite: [...requisite], preferred: [...preferred] },
});

const IN_ZONE_B: CreateInit = { parameters: CLASS, ...asking([at("b")]) };

/** A driver with a volume in pool `ssd`, which zone b reaches. */
const withVolume = async (given: DriverWorld = {}) => {
  const cluster = aCluster();
  const driver = aDriver(cluster, given);
  const volumeId = await aVolume(driver, cluster, IN_ZONE_B);
  return { cluster, driver, volumeId, [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose]() };
};

const topologyOf = async (driver: Driver, request: ReturnType<typeof snapshotOf>): Promise<Topologies> => {
  const early = await driver.createSnapshot(request);
  const ready = await readySnapshot(driver, request);
  expect(ready.accessibleTopology).toEqual(early.snapshot.accessibleTopology);
  return ready.accessibleTopology ?? [];
};

describe("the answer's topology", () => {
  test("a snapshot is usable from those of the requested places that reach the pool of its volume", async () => {
    await using world = await withVolume();
    const { driver, volumeId } = world;
    const asked = asking([at("a"), at("b"), at("b", "r2")], [at("b", "r2")]);
    const topology = await topologyOf(driver, snapshotOf(volumeId, { parameters: CLASS, ...asked }));
    expect(topology).toEqual([at("b", "r2"), at("b")]);
  });

  test("a snapshot of a request without a place is usable from where the class says that its pool is", async () => {
    await using world = await withVolume();
    const { driver, volumeId } = world;
    const topology = await topologyOf(driver, snapshotOf(volumeId, { parameters: CLASS }));
    expect(topology).toEqual([{ segments: { [`${KEY}/zone`]: "b" } }]);
  });

  test("the keys of a pool's topology have the driver's name, as those of nodes", async () => {
    await using world = await withVolume({ flags: { drivername: "My.RBD.example.com" } });
    const { driver, volumeId } = world;
    const { snapshot } = await driver.createSnapshot(snapshotOf(volumeId, { parameters: CLASS }));
    expect(snapshot.accessibleTopology?.map(({ segments }) => Object.keys(segments))).toEqual([
      ["topology.my.rbd.example.com/zone"],
    ]);
  });

  test("a snapshot of a class without topology says nothing, whatever the request asks for", async () => {
    await using world = await withVolume();
    const { driver, volumeId } = world;
    const parameters = { clusterID: "east" };
    for (const [name, more] of [
      ["none", {}],
      ["somewhere", asking([at("z")])],
      ["everywhere", asking([])],
    ] as const) {
      expect(await topologyOf(driver, snapshotOf(volumeId, { name, parameters, ...more }))).toEqual([]);
    }
  });

  test("a repeated request, also one without its source volume, answers the same topology", async () => {
    await using world = await withVolume();
    const { driver, volumeId } = world;
    const request = snapshotOf(volumeId, { parameters: CLASS, ...asking([at("b")]) });
    const first = await readySnapshot(driver, request);
    expect((await driver.createSnapshot(request)).snapshot).toEqual(first);
    await driver.deleteVolume(deletion(volumeId));
    expect((await driver.createSnapshot(request)).snapshot).toEqual(first);
  });

  test("a volume is restored in every place that the snapshot names, and in no other", async () => {
    await using world = await withVolume();
    const { driver, volumeId } = world;
    const snapshot = await readySnapshot(driver, snapshotOf(volumeId, { parameters: CLASS }));
    const [usable] = snapshot.accessibleTopology ?? [];
    if (usable === undefined) throw new Error("no topology");
    const restore = (place: CreateInit["accessibilityRequirements"]) =>
      driver.createVolume(
        restoreOf(snapshot.snapshotId, { parameters: CLASS, ...(place && { accessibilityRequirements: place }) }),
      );
    expect(await codeOf(restore({ requisite: [at("a")], preferred: [] }))).toBe("RESOURCE_EXHAUSTED");
    const { volume } = await restore({ requisite: [usable], preferred: [] });
    expect(volume.accessibleTopology).toEqual([usable]);
  });
});

describe("refused requests", () => {
  const refused = async (
    more: Parameters<typeof snapshotOf>[1],
    cluster: MemoryCluster,
    driver: Driver,
    id: string,
  ) => {
    const before = cluster.dump();
    const failure = await failureOf(driver.createSnapshot(snapshotOf(id, more)));
    expect(cluster.dump()).toEqual(before);
    return failure;
  };

  test("a snapshot that the requested places cannot use is refused with RESOURCE_EXHAUSTED, and nothing is written", async () => {
    await using world = await withVolume();
    const { cluster, driver, volumeId } = world;
    const failure = await refused({ parameters: CLASS, ...asking([at("a")]) }, cluster, driver, volumeId);
    expect(failure).toMatchObject({ code: "RESOURCE_EXHAUSTED", message: expect.stringContaining("pool ssd") });
  });

  test("a snapshot in a pool that the class does not name is refused where the request asks for a place", async () => {
    await using world = await withVolume();
    const { cluster, driver, volumeId } = world;
    const parameters = { ...CLASS, topologyConstrainedPools: JSON.stringify([pool("rbd", "a")]) };
    const failure = await refused({ parameters, ...asking([at("a")]) }, cluster, driver, volumeId);
    expect(failure?.code).toBe("RESOURCE_EXHAUSTED");
    expect(await topologyOf(driver, snapshotOf(volumeId, { parameters }))).toEqual([]);
  });

  test("a snapshot that exists is refused for a place that cannot use it", async () => {
    await using world = await withVolume();
    const { cluster, driver, volumeId } = world;
    await readySnapshot(driver, snapshotOf(volumeId, { parameters: CLASS }));
    const failure = await refused({ parameters: CLASS, ...asking([at("a")]) }, cluster, driver, volumeId);
    expect(failure?.code).toBe("RESOURCE_EXHAUSTED");
  });

  test("topologyConstrainedPools that does not parse is refused before any cluster is asked", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const parameters = { ...CLASS, topologyConstrainedPools: "[{]" };
    const failure = await failureOf(driver.createSnapshot(snapshotOf("x", { parameters })));
    expect(failure).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("topologyConstrainedPools"),
    });
    expect(calls()).toEqual([]);
  });
});

test("each member of a group snapshot is usable from where the class says that its own pool is", async () => {
  await using world = await withVolume();
  const { cluster, driver, volumeId } = world;
  const other = await aVolume(driver, cluster, { name: "pvc-2", parameters: CLASS, ...asking([at("a")]) });
  const group = (name: string, parameters: Record<string, string>) =>
    driver.createGroup({ name, sourceVolumeIds: [volumeId, other], secrets: SECRETS, parameters });
  const told = async (made: ReturnType<typeof group>) =>
    (await made).groupSnapshot.snapshots.map(({ accessibleTopology }) => accessibleTopology);
  const zones = ["b", "a"].map((zone) => [{ segments: { [`${KEY}/zone`]: zone } }]);
  expect(await told(group("one", CLASS))).toEqual(zones);
  expect(await told(group("one", CLASS))).toEqual(zones);
  expect(await told(group("two", { clusterID: "east" }))).toEqual([undefined, undefined]);
});

test("lists and GetSnapshot have no snapshot class, and tell no topology", async () => {
  await using world = await withVolume({ secrets: { east: ADMIN } });
  const { driver, volumeId } = world;
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId, { parameters: CLASS }));
  expect((await driver.getSnapshot({ snapshotId })).snapshot.accessibleTopology).toBeUndefined();
  expect((await driver.listSnapshots()).entries[0]?.snapshot.accessibleTopology).toBeUndefined();
});
