/** `--rbdtrashmaxdelay`: what is removed stays in the trash, for an administrator to purge. */
import { expect, test } from "bun:test";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { DRIVERS_MARKS } from "../../../lib/ceph/rbd.ts";
import { failingOnce, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { settled } from "../../support/copies-world.ts";
import { aDriver, type DriverWorld } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, codeOf, creation, deletion, poolDump } from "../../support/world.ts";

const trashIn = (cluster: MemoryCluster) => Object.keys(poolDump(cluster).trash);

/** A driver with that delay; the protection that it asks for and its calls that remove from the trash. */
const keeping = (cluster: MemoryCluster, delay: string, more: DriverWorld = {}) => {
  const kept: (number | undefined)[] = [];
  const { service, calls } = recorded(cephMemoryService(cluster));
  const ceph: CephCalls = {
    ...service,
    trashMove: (pool, image, keepSeconds) => {
      kept.push(keepSeconds);
      return service.trashMove(pool, image, keepSeconds);
    },
  };
  const removals = () => calls().filter(({ method }) => /trashRemove$/i.test(method));
  return { driver: aDriver(cluster, { ceph, flags: { rbdtrashmaxdelay: delay }, ...more }), kept, removals };
};

test("A deleted volume stays in the trash, protected for the delay, and its journal is clean", async () => {
  const cluster = aCluster();
  const { driver, kept, removals } = keeping(cluster, "24h");
  await using _ = driver;
  const { volume } = await driver.createVolume(creation());
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(kept).toEqual([86_400]);
  expect(trashIn(cluster)).toHaveLength(1);
  expect(poolDump(cluster)).toMatchObject({ images: {}, objects: { "csi.volumes.default": {} } });
  // Nor does a repeated call, or that of another driver, purge it.
  await driver.deleteVolume(deletion(volume.volumeId));
  await using other = keeping(cluster, "1s").driver;
  await other.deleteVolume(deletion(volume.volumeId));
  const second = await driver.createVolume(creation());
  await driver.deleteVolume(deletion(second.volume.volumeId));
  // A repeated call looks for the image again, and finds it gone.
  expect(new Set(kept)).toEqual(new Set([86_400]));
  expect(trashIn(cluster)).toHaveLength(2);
  expect(removals()).toEqual([]);
});

test("A volume whose deletion failed after the move to the trash stays there when the deletion is finished", async () => {
  const cluster = aCluster();
  const { driver, removals } = keeping(cluster, "24h");
  await using _ = driver;
  const { volume } = await driver.createVolume(creation());
  await using dying = aDriver(cluster, {
    ceph: failingOnce(cephMemoryService(cluster), "objectRemove", /csi\.volume\./),
    flags: { rbdtrashmaxdelay: "24h" },
  });
  expect(await codeOf(dying.deleteVolume(deletion(volume.volumeId)))).toBe("RESOURCE_EXHAUSTED");
  expect(trashIn(cluster)).toHaveLength(1);
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(trashIn(cluster)).toHaveLength(1);
  expect(removals()).toEqual([]);
});

test("Without a delay a deleted volume goes to the trash with the driver's mark, and is removed a moment later", async () => {
  const cluster = aCluster();
  const { driver, kept, removals } = keeping(cluster, "0");
  await using _ = driver;
  const { volume } = await driver.createVolume(creation());
  await driver.deleteVolume(deletion(volume.volumeId));
  expect(kept).toEqual([DRIVERS_MARKS.small]);
  await settled(cluster);
  expect(removals()).toHaveLength(1);
});

for (const [size, seconds] of Object.entries(DRIVERS_MARKS)) {
  test(`A delay that is as long as the driver's mark for ${size} images is longer than any mark`, async () => {
    const { driver, kept, removals } = keeping(aCluster(), `${seconds}s`);
    await using _ = driver;
    const { volume } = await driver.createVolume(creation());
    await driver.deleteVolume(deletion(volume.volumeId));
    expect(kept).toEqual([Math.max(...Object.values(DRIVERS_MARKS)) + 1]);
    expect(removals()).toEqual([]);
  });
}

test("A driver without a delay finishes the deletion of a volume that the trash protects, and leaves its image there", async () => {
  const cluster = aCluster();
  const time = virtualTime();
  cluster.now = time.now;
  await using first = aDriver(cluster, {
    ceph: failingOnce(cephMemoryService(cluster), "objectRemove", /csi\.volume\./),
    flags: { rbdtrashmaxdelay: "1h" },
  });
  const { volume } = await first.createVolume(creation());
  expect(await codeOf(first.deleteVolume(deletion(volume.volumeId)))).toBe("RESOURCE_EXHAUSTED");
  const { driver, removals } = keeping(cluster, "0", { time });
  await using _ = driver;
  await time.until(driver.deleteVolume(deletion(volume.volumeId)));
  expect(poolDump(cluster)).toMatchObject({ images: {}, objects: { "csi.volumes.default": {} } });
  // neither before the end of its protection nor after it
  for (const wait of ["40 seconds", "2 hours"] as const) {
    await time.pass(wait);
    await time.until(driver.deleteVolume(deletion(volume.volumeId)));
    await time.pass("11 minutes");
    expect(trashIn(cluster)).toHaveLength(1);
  }
  expect(removals()).toEqual([]);
});
