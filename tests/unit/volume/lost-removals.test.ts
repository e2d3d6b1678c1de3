/**
 * Images whose removal from the trash nobody would remember, because the driver ends while no manager answers: the next
 * driver finds them.
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { DRIVERS_MARKS } from "../../../lib/ceph/rbd.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  POOL,
  readySnapshot,
  snapshotOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  GIB,
  growAll,
  PARAMETERS,
  poolDump,
  seedImage,
} from "../../support/world.ts";

/** A driver that removes nothing itself in the time that it has. */
const stuck = (cluster: MemoryCluster) =>
  intercepted(cephMemoryService(cluster), (call, act) => (call.method === "trashRemove" ? Effect.never : act));

/** Another driver uses the pool, for as long as it takes. */
const nextDriver = async (cluster: MemoryCluster): Promise<void> => {
  const time = virtualTime();
  await using driver = aDriver(cluster, { time });
  await time.until(driver.createVolume(creation({ name: "pvc-next" })));
  await time.pass("2 minutes");
};

const trashIn = (cluster: MemoryCluster): readonly string[] => Object.keys(poolDump(cluster).trash);

for (const [what, more] of [
  ["above 16 GiB", { capacityRange: { requiredBytes: 100n * GIB } }],
  ["with a name prefix of its class", { parameters: { ...PARAMETERS, volumeNamePrefix: "team-" } }],
] as const) {
  for (const managerComesBack of [false, true]) {
    test(`A deleted image ${what} leaves the trash although its driver ended while no manager answered, ${managerComesBack ? "by the manager that came back" : "without a manager"}`, async () => {
      const cluster = aCluster();
      cluster.managerUp = false;
      const time = virtualTime();
      const driver = aDriver(cluster, { ceph: stuck(cluster), time });
      const { volume } = await time.until(driver.createVolume(creation(more)));
      await time.until(driver.deleteVolume(deletion(volume.volumeId)));
      await time.pass("10 seconds");
      expect(trashIn(cluster)).toHaveLength(1);
      await driver[Symbol.asyncDispose]();
      cluster.managerUp = managerComesBack;
      await nextDriver(cluster);
      expect(trashIn(cluster)).toEqual([]);
    });
  }
}

test("The image in between of a flattened copy leaves the trash although its driver ended there, while the copy lives", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster, { flags: THROUGH });
  const source = await aVolume(making, cluster);
  const copy = (await making.createVolume(cloneOf(source))).volume.volumeId;
  await byHand(cluster).flatten(imageOf(copy));
  growAll(cluster, 100n * GIB);
  cluster.managerUp = false;
  const time = virtualTime();
  const driver = aDriver(cluster, { ceph: stuck(cluster), flags: THROUGH, time });
  const request = { name: "pvc-again", capacityRange: { requiredBytes: 100n * GIB } };
  await time.until(driver.createVolume(cloneOf(copy, request)));
  await time.pass("10 seconds");
  expect(Object.values(poolDump(cluster).trash)).toMatchObject([{ name: `${imageOf(copy)}-temp` }]);
  await driver[Symbol.asyncDispose]();
  await nextDriver(cluster);
  expect(trashIn(cluster)).toEqual([]);
  expect(Object.keys(poolDump(cluster).images)).toContain(imageOf(copy));
});

test("An image that somebody else moved to the trash keeps its journal entry while no manager takes it", async () => {
  const cluster = aCluster();
  cluster.managerUp = false;
  const time = virtualTime();
  await using driver = aDriver(cluster, { ceph: stuck(cluster), time });
  const { volume } = await time.until(driver.createVolume(creation()));
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, imageOf(volume.volumeId)));
  const before = poolDump(cluster);
  expect(await codeOf(time.until(driver.deleteVolume(deletion(volume.volumeId))))).toBe("UNAVAILABLE");
  expect(poolDump(cluster)).toEqual(before);
  cluster.managerUp = true;
  await time.until(driver.deleteVolume(deletion(volume.volumeId)));
  expect(poolDump(cluster)).toMatchObject({ objects: { "csi.volumes.default": {} }, trash: {} });
});

test("A repeated CreateVolume leaves the image in the trash where a person put it, and makes a new volume", async () => {
  const cluster = aCluster();
  const time = virtualTime();
  await using driver = aDriver(cluster, { time });
  const first = (await time.until(driver.createVolume(creation()))).volume.volumeId;
  const { id } = cluster.image("rbd", imageOf(first));
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, imageOf(first)));
  const second = (await time.until(driver.createVolume(creation()))).volume.volumeId;
  expect(second).not.toBe(first);
  await time.pass("2 minutes");
  cluster.runManager();
  expect(trashIn(cluster)).toEqual([id]);
  expect(Object.keys(poolDump(cluster).images)).toEqual([imageOf(second)]);
});

test("A repeated CreateSnapshot leaves the image in the trash where a person put it, and makes a new snapshot", async () => {
  const cluster = aCluster();
  const time = virtualTime();
  await using driver = aDriver(cluster, { time });
  const volume = await time.until(aVolume(driver, cluster));
  const first = (await time.until(readySnapshot(driver, snapshotOf(volume)))).snapshotId;
  const { id } = cluster.image("rbd", holderOf(first));
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, holderOf(first)));
  const second = (await time.until(readySnapshot(driver, snapshotOf(volume)))).snapshotId;
  expect(second).not.toBe(first);
  await time.pass("2 minutes");
  cluster.runManager();
  expect(trashIn(cluster)).toEqual([id]);
});

test("A repeated CreateVolume finishes the removal that a driver had begun", async () => {
  const cluster = aCluster();
  const time = virtualTime();
  await using driver = aDriver(cluster, { time });
  const first = (await time.until(driver.createVolume(creation()))).volume.volumeId;
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, imageOf(first), DRIVERS_MARKS.small));
  const second = (await time.until(driver.createVolume(creation()))).volume.volumeId;
  expect(second).not.toBe(first);
  await time.pass("40 seconds");
  expect(trashIn(cluster)).toEqual([]);
});

test("What a person moved to the trash stays, whatever its name and its size", async () => {
  const cluster = aCluster();
  const uuid = crypto.randomUUID();
  for (const name of [`csi-vol-${uuid}`, `team-${uuid}`, `csi-vol-${uuid}-temp`, "backup"]) {
    await seedImage(cluster, name);
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, name));
  }
  const before = trashIn(cluster);
  await nextDriver(cluster);
  expect(trashIn(cluster)).toEqual(before);
});
