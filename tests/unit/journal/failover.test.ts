/** Volumes that a mapping names a second place for, where their journal entry is in both: the image says which is meant. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { MappingTable } from "../../../lib/config/mapping.ts";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  codeOf,
  deletion,
  EAST,
  eventually,
  expansion,
  GIB,
  poolDump,
  seed,
  seedImage,
  validation,
} from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const ID = `0001-0004-east-0000000000000002-${UUID}`;
const IMAGE = `csi-vol-${UUID}`;

/** The pool `rbd` (2) of the cluster `east` is mirrored to the pool `ssd` (3) of `west`, which is the same cluster here. */
const mappingTo = (cluster: string): MappingTable => ({
  elements: [{ clusters: [["east", cluster]], pools: [[["2", "3"]]] }],
  problems: new Map(),
  remarks: [],
});
const SETTINGS = { clusters: [EAST, { ...EAST, clusterId: "west" }], mapping: mappingTo("west") };

/** The journal entry in both pools, the image where it is asked for. */
const world = async (...pools: readonly string[]): Promise<MemoryCluster> => {
  const cluster = aCluster();
  for (const pool of ["rbd", "ssd"]) {
    const id = pools.includes(pool) ? await seedImage(cluster, IMAGE, pool) : "1";
    const entry = { "csi.volname": "pvc-1", "csi.imagename": IMAGE, "csi.imageid": id };
    seed(cluster, { "csi.volumes.default": { "csi.volume.pvc-1": UUID }, [`csi.volume.${UUID}`]: entry }, pool);
  }
  return cluster;
};

const trash = (cluster: MemoryCluster, pool: string) =>
  Effect.runPromise(cephMemoryService(cluster).trashMove({ access: memoryAccess, pool, namespace: "" }, IMAGE));

const EMPTIED = { objects: { "csi.volumes.default": {} }, images: {}, bareNames: {}, trash: {} };

describe("an entry in two places", () => {
  test("A volume whose image is in the mapped place alone is found, grown and deleted there", async () => {
    const cluster = await world("ssd");
    const before = poolDump(cluster);
    await using driver = aDriver(cluster, SETTINGS);
    expect(await codeOf(driver.validate(validation(ID)))).toBe("OK");
    expect(await driver.expandVolume(expansion(ID))).toMatchObject({ capacityBytes: 2n * GIB });
    expect(cluster.image("ssd", IMAGE).sizeBytes).toBe(2n * GIB);
    await driver.deleteVolume(deletion(ID));
    await eventually(() => Object.keys(poolDump(cluster, "ssd").trash).length === 0, "an empty trash");
    expect(poolDump(cluster, "ssd")).toEqual(EMPTIED);
    expect(poolDump(cluster)).toEqual(before);
  });

  test("A volume whose image is in its own place, too, is used there", async () => {
    const cluster = await world("rbd", "ssd");
    const before = poolDump(cluster, "ssd");
    await using driver = aDriver(cluster, SETTINGS);
    await driver.expandVolume(expansion(ID));
    expect(cluster.image("rbd", IMAGE).sizeBytes).toBe(2n * GIB);
    await driver.deleteVolume(deletion(ID));
    await eventually(() => Object.keys(poolDump(cluster).trash).length === 0, "an empty trash");
    expect(poolDump(cluster)).toEqual(EMPTIED);
    expect(poolDump(cluster, "ssd")).toEqual(before);
  });

  test("A deletion that was cut off behind the move to the trash goes on where it began", async () => {
    const cluster = await world("rbd", "ssd");
    const before = poolDump(cluster, "ssd");
    await trash(cluster, "rbd");
    await using driver = aDriver(cluster, SETTINGS);
    await driver.deleteVolume(deletion(ID));
    cluster.runManager();
    expect(poolDump(cluster)).toEqual(EMPTIED);
    expect(poolDump(cluster, "ssd")).toEqual(before);
  });

  test("An entry without an image in any place is freed, one place after the other", async () => {
    const cluster = await world();
    await using driver = aDriver(cluster, SETTINGS);
    await driver.deleteVolume(deletion(ID));
    expect(poolDump(cluster)).toEqual(EMPTIED);
    await driver.deleteVolume(deletion(ID));
    expect(poolDump(cluster, "ssd")).toEqual(EMPTIED);
  });

  test("An entry without an image is freed although the mapping names a cluster that is not configured", async () => {
    const cluster = await world();
    await using driver = aDriver(cluster, { mapping: mappingTo("north") });
    await driver.deleteVolume(deletion(ID));
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("Only where a place is mapped does locating a volume ask for its image", async () => {
    const cluster = await world("rbd");
    const { service, calls } = recorded(cephMemoryService(cluster));
    const methods = () => calls().map(({ method }) => method);
    await using without = aDriver(cluster, { ceph: service });
    await without.expandVolume(expansion(ID));
    expect(methods()).toEqual(["poolName", "omapGet", "imageGrow"]);
    await using mapped = aDriver(cluster, { ...SETTINGS, ceph: service });
    await mapped.expandVolume(expansion(ID));
    expect(methods().slice(3)).toEqual(["poolName", "omapGet", "imageId", "imageGrow"]);
  });
});
