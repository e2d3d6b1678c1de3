/**
 * Clones of volumes that a driver has begun and not finished, as ceph-csi leaves them: the next request for the name
 * finishes them. Drivers of this layout went wrong here before; each R-number is one such case.
 *
 * Not here: deaths of our own driver (tests/unit/crash/crash-copies.test.ts).
 */
import { describe, expect, test } from "bun:test";
import type { MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  metaOf,
  MIB_4,
  PARAMETERS,
  parentOf,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import {
  aCluster,
  codeOf,
  deletion,
  failureOf,
  GIB,
  objectsOf,
  poolDump,
  poolDumpWithoutMakers,
  seed,
  uuidOf,
} from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const V = `csi-vol-${UUID}`;
const TEMP = `${V}-temp`;
const K8S = "csi.storage.k8s.io/";

/** ceph-csi's reservation of `pvc-copy`, complete but for the image's ID. */
const reserveCopy = (cluster: MemoryCluster): void => {
  objectsOf(cluster).get("csi.volumes.default")?.set("csi.volume.pvc-copy", UUID);
  seed(cluster, { [`csi.volume.${UUID}`]: { "csi.volname": "pvc-copy", "csi.imagename": V } });
};

type Way = "direct" | "through";

/** Nothing of a copy but the copy: no snapshot by name on the source, no image but those that belong. */
const isWholeClone = (cluster: MemoryCluster, source: string, data: readonly string[], way: Way): void => {
  expect(parentOf(cluster, V)).toBe(way === "direct" ? `${source}@${TEMP}` : `${TEMP}@${V}`);
  expect(read(cluster, V)).toEqual(data);
  expect(snapshotsOf(cluster, source)).toEqual([`trash ${TEMP}`]);
  const between = poolDump(cluster).images[TEMP];
  if (way === "direct") expect(between).toBeUndefined();
  else expect(snapshotsOf(cluster, TEMP)).toEqual([`trash ${V}`]);
  expect(objectsOf(cluster).get(`csi.volume.${UUID}`)?.get("csi.imageid")).toBe(cluster.image("rbd", V).id);
};

test("R7: a clone of which only the image in between is whole is finished, with volume ID, image ID, size and metadata", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-1" } });
  const source = imageOf(id);
  reserveCopy(cluster);
  await byHand(cluster).snapshot(source, TEMP);
  await byHand(cluster).clone(source, TEMP, TEMP);
  await byHand(cluster).dropSnapshot(source, TEMP);
  const data = read(cluster, source);
  const parameters = { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-copy" };
  const { volume } = await driver.createVolume(cloneOf(id, { parameters, capacityRange: { requiredBytes: 2n * GIB } }));
  expect(volume).toMatchObject({ capacityBytes: 2n * GIB, volumeContext: { imageName: V } });
  expect(uuidOf(volume.volumeId)).toBe(UUID);
  isWholeClone(cluster, source, data, "through");
  expect(metaOf(cluster, V)).toEqual({ [`${K8S}pv/name`]: "pvc-copy" });
  expect(metaOf(cluster, TEMP)).toEqual({});
});

for (const begun of [false, true]) {
  test(`R8: a clone is finished from the snapshot of its image in between, with the volume's image ${begun ? "half made" : "not made yet"}`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const source = imageOf(id);
    reserveCopy(cluster);
    await byHand(cluster).snapshot(source, TEMP);
    await byHand(cluster).clone(source, TEMP, TEMP);
    await byHand(cluster).dropSnapshot(source, TEMP);
    await byHand(cluster).snapshot(TEMP, V);
    const data = read(cluster, source);
    if (begun) {
      await byHand(cluster).clone(TEMP, V, V);
      cluster.cutShort("child", "rbd", V);
    }
    // The point in time is the one that there is, not a new one.
    cluster.image("rbd", source).write(0n, MIB_4);
    const { volume } = await driver.createVolume(cloneOf(id));
    expect(uuidOf(volume.volumeId)).toBe(UUID);
    isWholeClone(cluster, source, data, "through");
    await settled(cluster);
  });
}

for (const cut of [undefined, "header", "parent", "child", "metadata"] as const) {
  test(`R9: a clone leaves no snapshot on its source in the end, when its image in between was ${cut === undefined ? "not begun" : `cut off (${cut})`}`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const source = imageOf(id);
    reserveCopy(cluster);
    await byHand(cluster).snapshot(source, TEMP);
    if (cut !== undefined) {
      await byHand(cluster).clone(source, TEMP, TEMP);
      cluster.cutShort(cut, "rbd", TEMP);
    }
    const data = read(cluster, source);
    await driver.createVolume(cloneOf(id));
    isWholeClone(cluster, source, data, "direct");
    await settled(cluster);
  });
}

for (const [what, image] of [
  ["the image in between", TEMP],
  ["the volume's image", V],
] as const) {
  test(`a clone of which a dead driver still has ${what} open is made by a later retry`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    reserveCopy(cluster);
    await byHand(cluster).snapshot(imageOf(id), TEMP);
    await byHand(cluster).clone(imageOf(id), TEMP, TEMP);
    if (image === V) {
      await byHand(cluster).dropSnapshot(imageOf(id), TEMP);
      await byHand(cluster).snapshot(TEMP, V);
      await byHand(cluster).clone(TEMP, V, V);
    }
    const close = cluster.watch("rbd", image);
    const before = poolDumpWithoutMakers(cluster);
    const failure = await failureOf(driver.createVolume(cloneOf(id)));
    expect(failure).toMatchObject({ code: "ABORTED", message: expect.stringContaining("within about 30 s") });
    expect(poolDumpWithoutMakers(cluster)).toEqual(before);
    close();
    await driver.createVolume(cloneOf(id));
    isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)), image === V ? "through" : "direct");
  });
}

test("a half-done clone is not finished for another source: it would hold the first one's data", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  const other = await aVolume(driver, cluster, { name: "pvc-2" });
  reserveCopy(cluster);
  await byHand(cluster).snapshot(imageOf(id), TEMP);
  await byHand(cluster).clone(imageOf(id), TEMP, TEMP);
  const failure = await failureOf(driver.createVolume(cloneOf(other)));
  expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining(imageOf(id)) });
  await driver.createVolume(cloneOf(id));
  isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)), "direct");
});

describe("copies that are clones of the volume itself", () => {
  /** The steps of a direct copy, as far as its image. */
  const begin = async (cluster: MemoryCluster, source: string): Promise<void> => {
    reserveCopy(cluster);
    await byHand(cluster).snapshot(source, TEMP);
    await byHand(cluster).clone(source, TEMP, V);
  };

  for (const cut of ["header", "parent", "child", "metadata", undefined] as const) {
    test(`a direct copy is made again while the snapshot of its source is there, when it was ${cut === undefined ? "whole" : `cut off (${cut})`}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const id = await aVolume(driver, cluster);
      const source = imageOf(id);
      await begin(cluster, source);
      if (cut !== undefined) cluster.cutShort(cut, "rbd", V);
      const data = read(cluster, source);
      // The point in time is the one that there is, not a new one.
      cluster.image("rbd", source).write(0n, MIB_4);
      await driver.createVolume(cloneOf(id));
      isWholeClone(cluster, source, data, "direct");
      await settled(cluster);
    });

    test(`DeleteVolume of the source takes away a direct copy that is not finished, when it was ${cut === undefined ? "whole" : `cut off (${cut})`}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const id = await aVolume(driver, cluster);
      await begin(cluster, imageOf(id));
      if (cut !== undefined) cluster.cutShort(cut, "rbd", V);
      await driver.deleteVolume(deletion(id));
      expect(await codeOf(driver.createVolume(cloneOf(id)))).toBe("NOT_FOUND");
      await settled(cluster);
      expect(poolDump(cluster).images).toEqual({});
      expect(objectsOf(cluster).get("csi.volumes.default")?.size).toBe(0);
    });
  }

  test("a direct copy without the snapshot of its source is whole, and is not made again", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    await begin(cluster, imageOf(id));
    await byHand(cluster).dropSnapshot(imageOf(id), TEMP);
    const imageId = cluster.image("rbd", V).id;
    await driver.createVolume(cloneOf(id, { capacityRange: { requiredBytes: 2n * GIB } }));
    expect(cluster.image("rbd", V)).toMatchObject({ id: imageId, sizeBytes: 2n * GIB });
    isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)), "direct");
  });

  test("a direct copy of another volume under the same name is refused, and stays", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const other = await aVolume(driver, cluster, { name: "pvc-2" });
    await begin(cluster, imageOf(id));
    await byHand(cluster).dropSnapshot(imageOf(id), TEMP);
    const failure = await failureOf(driver.createVolume(cloneOf(other)));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining(imageOf(id)) });
    await driver.createVolume(cloneOf(id));
    isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)), "direct");
  });

  // ceph-csi takes an image that is there for the volume, writes its ID, and leaves the snapshot.
  test("a copy that another driver calls complete stays when its source is deleted, with its data, and the snapshot goes", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    await begin(cluster, imageOf(id));
    const data = read(cluster, V);
    objectsOf(cluster).get(`csi.volume.${UUID}`)?.set("csi.imageid", cluster.image("rbd", V).id);
    const { volume } = await driver.createVolume(cloneOf(id));
    await driver.deleteVolume(deletion(id));
    cluster.runManager();
    expect(read(cluster, V)).toEqual(data);
    await driver.deleteVolume(deletion(volume.volumeId));
    await settled(cluster);
    expect(poolDump(cluster).images).toEqual({});
  });
});

for (const way of ["direct", "through"] as const) {
  test(`DeleteVolume of a source refuses while a copy that another driver calls complete would lose its data with it (${way === "direct" ? "a direct one" : "by way of an image in between"})`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    reserveCopy(cluster);
    const cut = way === "direct" ? V : TEMP;
    await byHand(cluster).snapshot(imageOf(id), TEMP);
    await byHand(cluster).clone(imageOf(id), TEMP, cut);
    cluster.cutShort("child", "rbd", cut);
    if (way === "through") {
      await byHand(cluster).snapshot(TEMP, V);
      await byHand(cluster).clone(TEMP, V, V);
      await byHand(cluster).dropSnapshot(TEMP, V);
    }
    objectsOf(cluster).get(`csi.volume.${UUID}`)?.set("csi.imageid", cluster.image("rbd", V).id);
    const data = read(cluster, V);
    const before = cluster.dump();
    const failure = await failureOf(driver.deleteVolume(deletion(id)));
    expect(failure).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining(`"rbd flatten rbd/${cut}"`),
    });
    expect(cluster.dump()).toEqual(before);
    await byHand(cluster).flatten(cut);
    await driver.deleteVolume(deletion(id));
    await settled(cluster);
    expect(read(cluster, V)).toEqual(data);
  });
}

describe("a restore that was cut off between its two links, and whose snapshot was deleted", () => {
  const lostRestore = async () => {
    const cluster = aCluster();
    const time = virtualTime();
    const driver = aDriver(cluster, { time });
    const source = await time.until(aVolume(driver, cluster));
    const { snapshotId } = await time.until(readySnapshot(driver, snapshotOf(source)));
    reserveCopy(cluster);
    const holder = holderOf(snapshotId);
    await byHand(cluster).clone(holder, holder, V);
    cluster.cutShort("child", "rbd", V);
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("1 minute");
    const retry = () => time.until(failureOf(driver.createVolume(restoreOf(snapshotId, { name: "pvc-copy" }))));
    return { cluster, driver, time, retry };
  };

  test("is taken away with its name, and the caller hears that the snapshot is gone", async () => {
    const { cluster, driver, time, retry } = await lostRestore();
    await using _driver = driver;
    expect((await retry())?.code).toBe("NOT_FOUND");
    await time.pass("1 minute");
    expect(Object.keys(poolDump(cluster).images)).not.toContain(V);
    expect(poolDump(cluster).trash).toEqual({});
    expect(objectsOf(cluster).has(`csi.volume.${UUID}`)).toBe(false);
    expect(objectsOf(cluster).get("csi.volumes.default")?.has("csi.volume.pvc-copy")).toBe(false);
  });

  for (const [what, change] of [
    ["holds data", (cluster: MemoryCluster) => cluster.image("rbd", V).write(0n, MIB_4)],
    ["is open", (cluster: MemoryCluster) => cluster.image("rbd", V).watchers.add("127.0.0.1:0/1/client.1")],
  ] as const) {
    test(`stays where its image ${what}`, async () => {
      const { cluster, driver, retry } = await lostRestore();
      await using _driver = driver;
      change(cluster);
      expect((await retry())?.code).toBe("ABORTED");
      expect(Object.keys(poolDump(cluster).images)).toContain(V);
      expect(objectsOf(cluster).get("csi.volumes.default")?.get("csi.volume.pvc-copy")).toBe(UUID);
    });
  }
});
