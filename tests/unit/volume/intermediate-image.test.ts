/**
 * The image through which a volume is cloned from a volume: how long it stays. Drivers of this layout went wrong here
 * before; each R-number is one such case.
 */
import { expect, test } from "bun:test";
import type { MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  imageOf,
  parentOf,
  read,
  readySnapshot,
  settled,
  snapshotOf,
  snapshotsOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { aCluster, codeOf, deletion, poolDump } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const cloned = async (driver: Driver, cluster: MemoryCluster) => {
  const id = await aVolume(driver, cluster);
  const { volume } = await driver.createVolume(cloneOf(id));
  return { source: imageOf(id), copyId: volume.volumeId, temp: `${imageOf(volume.volumeId)}-temp` };
};

test("R25: the image in between goes with its volume", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { flags: THROUGH });
  const { copyId, source } = await cloned(driver, cluster);
  await driver.deleteVolume(deletion(copyId));
  await settled(cluster);
  expect(Object.keys(poolDump(cluster).images)).toEqual([source]);
  expect(snapshotsOf(cluster, source)).toEqual([]);
});

for (const [what, look] of [
  ["snapshot", (driver: Driver, id: string) => readySnapshot(driver, snapshotOf(id))],
  ["clone", (driver: Driver, id: string) => driver.createVolume(cloneOf(id, { name: "pvc-3" }))],
] as const) {
  test(`R25: the image in between of a flattened volume goes with the next ${what} of it`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: THROUGH });
    const { copyId, source, temp } = await cloned(driver, cluster);
    const data = read(cluster, imageOf(copyId));
    await byHand(cluster).flatten(imageOf(copyId));
    expect(Object.keys(poolDump(cluster).images)).toContain(temp);
    await look(driver, copyId);
    await settled(cluster);
    expect(Object.keys(poolDump(cluster).images)).not.toContain(temp);
    expect(snapshotsOf(cluster, source)).toEqual([]);
    expect(read(cluster, imageOf(copyId))).toEqual(data);
  });

  test(`R25: the image in between stays while its volume reads from it, also when a ${what} of the volume is made`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 9, rbdhardmaxclonedepth: 9, ...THROUGH } });
    const { copyId, temp } = await cloned(driver, cluster);
    await look(driver, copyId);
    expect(Object.keys(poolDump(cluster).images)).toContain(temp);
    expect(parentOf(cluster, imageOf(copyId))).toBe(`${temp}@${imageOf(copyId)}`);
  });
}

test("R25: an image in between that cannot go yet fails nobody's request", async () => {
  const cluster = aCluster();
  const time = virtualTime();
  await using driver = aDriver(cluster, { time, flags: THROUGH });
  const { copyId, temp } = await cloned(driver, cluster);
  await byHand(cluster).flatten(imageOf(copyId));
  cluster.watch("rbd", temp);
  expect(await codeOf(time.until(driver.createVolume(cloneOf(copyId, { name: "pvc-3" }))))).toBe("OK");
  expect(driver.log.join("\n")).toContain("the left-over image of a copy stays for now");
});
