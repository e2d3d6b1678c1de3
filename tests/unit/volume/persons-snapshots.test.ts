/** Snapshots that somebody took of the driver's images, with "rbd snap create": what they keep, and what they do not. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  readySnapshot,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { idle } from "../../support/crash-copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, codeOf, deletion, failureOf, poolDump, seed } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";

for (const name of ["before-upgrade", `backup-${UUID}`, `csi-snap-${UUID}`]) {
  test(`DeleteVolume refuses while somebody's snapshot ${name} is on the volume, and changes nothing`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    await byHand(cluster).snapshot(imageOf(id), name);
    const before = cluster.dump();
    const failure = await failureOf(driver.deleteVolume(deletion(id)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toStartWith(`image rbd/${imageOf(id)} has a snapshot that no driver took: ${name}. `);
    expect(failure?.message).toContain(`"rbd snap rm rbd/${imageOf(id)}@NAME"`);
    expect(cluster.dump()).toEqual(before);
    await byHand(cluster).dropSnapshot(imageOf(id), name);
    await driver.deleteVolume(deletion(id));
    expect(poolDump(cluster).images).toEqual({});
  });
}

test("DeleteVolume takes no snapshot for a person's that another driver is removing with its journal entry", async () => {
  const cluster = aCluster();
  await using other = aDriver(cluster);
  const id = await aVolume(other, cluster);
  const name = `csi-snap-${UUID}`;
  await byHand(cluster).snapshot(imageOf(id), name);
  seed(cluster, {
    "csi.snaps.default": { "csi.snap.snap-1": UUID },
    [`csi.snap.${UUID}`]: { "csi.snapname": "snap-1", "csi.imagename": name, "csi.source": imageOf(id) },
  });
  let removed = false;
  const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
    call.method === "imageStatus" && call.subject.includes(imageOf(id)) && !removed
      ? Effect.tap(act, () => {
          removed = true;
          return Effect.promise(() => other.deleteSnapshot(snapshotDeletion(id.slice(0, -UUID.length) + UUID)));
        })
      : act,
  );
  await using driver = aDriver(cluster, { ceph });
  await driver.deleteVolume(deletion(id));
  expect(removed).toBe(true);
  expect(poolDump(cluster).images).toEqual({});
});

test("DeleteVolume counts snapshots of a person that it does not name", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  for (let day = 1; day <= 7; day++) await byHand(cluster).snapshot(imageOf(id), `day-${day}`);
  const failure = await failureOf(driver.deleteVolume(deletion(id)));
  expect(failure?.message).toContain(
    "has snapshots that no driver took: day-1, day-2, day-3, day-4, day-5 and 2 more. ",
  );
});

test("DeleteVolume of a clone refuses while somebody's snapshot is on the image in between, and changes nothing", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const source = await aVolume(driver, cluster);
  const clone = await driver.createVolume(cloneOf(source));
  // A clone of a clone always goes through an image in between.
  const { volume } = await driver.createVolume(cloneOf(clone.volume.volumeId, { name: "pvc-copy-2" }));
  const image = imageOf(volume.volumeId);
  await byHand(cluster).snapshot(`${image}-temp`, "mine");
  await idle(cluster);
  const before = cluster.dump();
  const failure = await failureOf(driver.deleteVolume(deletion(volume.volumeId)));
  expect(failure?.message).toStartWith(`image rbd/${image}-temp has a snapshot that no driver took: mine. `);
  expect(cluster.dump()).toEqual(before);
});

test("DeleteVolume leaves a transient snapshot that it could clear as it is, while somebody's snapshot is beside it", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  await byHand(cluster).snapshot(imageOf(id), `csi-vol-${UUID}-temp`);
  await byHand(cluster).snapshot(imageOf(id), "mine");
  const before = cluster.dump();
  expect(await codeOf(driver.deleteVolume(deletion(id)))).toBe("FAILED_PRECONDITION");
  expect(cluster.dump()).toEqual(before);
  await byHand(cluster).dropSnapshot(imageOf(id), "mine");
  await driver.deleteVolume(deletion(id));
  expect(poolDump(cluster).images).toEqual({});
});

test("DeleteVolume goes on where a mirror daemon has left its own snapshot", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  await byHand(cluster).snapshot(imageOf(id), `.rbd-mirror.${UUID}.${UUID}`);
  await driver.deleteVolume(deletion(id));
  expect(poolDump(cluster).images).toEqual({});
});

test("DeleteSnapshot refuses while somebody's snapshot is on its image, and changes nothing", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
  const holder = holderOf(snapshotId);
  await idle(cluster);
  await byHand(cluster).snapshot(holder, "mine");
  const before = cluster.dump();
  const failure = await failureOf(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
  expect(failure?.code).toBe("FAILED_PRECONDITION");
  expect(failure?.message).toStartWith(`image rbd/${holder} has a snapshot that no driver took: mine. `);
  expect(cluster.dump()).toEqual(before);
  await byHand(cluster).dropSnapshot(holder, "mine");
  await driver.deleteSnapshot(snapshotDeletion(snapshotId));
  expect(Object.keys(poolDump(cluster).images)).toEqual([imageOf(id)]);
});
