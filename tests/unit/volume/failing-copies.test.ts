/**
 * Copies that cannot be made: the source does not exist, a call of Ceph fails, or the undo of such a failure fails
 * too. Drivers of this layout went wrong here before; each R-number is one such case.
 *
 * Not here: a failure at each call in turn (tests/unit/crash/crash-copies-failures.test.ts).
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { Busy, NoSpace, TimedOut } from "../../../lib/ceph/errors.ts";
import { failingOnce, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aVolume,
  cloneOf,
  imageOf,
  readySnapshot,
  restoreOf,
  settled,
  snapshotOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, codeOf, deletion, objectsOf, poolDump, uuidOf } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";

const gone = `0001-0004-east-0000000000000002-${UUID}`;
for (const [what, request] of [
  ["snapshot that does not exist", restoreOf(gone)],
  ["volume that does not exist", cloneOf(gone)],
  ["snapshot with an ID that nobody made", restoreOf("snap-1")],
  ["volume with an ID that nobody made", cloneOf("pvc-1")],
  ["snapshot in a pool that is gone", restoreOf(gone.replace("0000000000000002", "0000000000000063"))],
] as const) {
  test(`R14: a copy is NOT_FOUND when its source is a ${what}`, async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    expect(await codeOf(driver.createVolume(request))).toBe("NOT_FOUND");
    expect(poolDump(cluster)).toEqual({ objects: {}, images: {}, bareNames: {}, trash: {} });
  });
}

for (const [what, request, methods] of [
  ["a restore", "restore", ["imageClone"]],
  ["a clone", "clone", ["imageClone", "snapshotRemove"]],
  ["a snapshot", "snapshot", ["imageClone", "snapshotRemove"]],
] as const) {
  for (const method of methods) {
    test(`R21: a failed ${method} fails ${what}, and nothing is left`, async () => {
      const cluster = aCluster();
      await using making = aDriver(cluster);
      const id = await aVolume(making, cluster);
      const { snapshotId } = await readySnapshot(making, snapshotOf(id, { name: "snap-0" }));
      const before = poolDump(cluster);
      const time = virtualTime();
      await using driver = aDriver(cluster, { ceph: failingOnce(cephMemoryService(cluster), method, /./), time });
      const call = (): Promise<unknown> =>
        request === "snapshot"
          ? driver.createSnapshot(snapshotOf(id))
          : driver.createVolume(request === "restore" ? restoreOf(snapshotId) : cloneOf(id));
      expect(await codeOf(time.until(call()))).toBe("RESOURCE_EXHAUSTED");
      await time.pass("5 seconds");
      await settled(cluster);
      expect(poolDump(cluster)).toEqual(before);
      expect(await codeOf(time.until(call()))).toBe("OK");
    });
  }
}

for (const [what, method, subject, error] of [
  [
    "the volume's image cannot be moved to the trash",
    "trashMove",
    /csi-vol-[^/]{36}$/,
    new Busy({ op: "a", subject: "b" }),
  ],
  ["the image in between cannot be moved to the trash", "trashMove", /-temp$/, new Busy({ op: "a", subject: "b" })],
  ["it is not known who uses the image in between", "imageStatus", /-temp$/, new TimedOut({ op: "a", subject: "b" })],
] as const) {
  test(`R43, R50: an undo keeps the reservation when ${what}, and the next call finishes it`, async () => {
    const cluster = aCluster();
    await using making = aDriver(cluster);
    const id = await aVolume(making, cluster);
    const before = poolDump(cluster);
    let writes = 0;
    const faulty = intercepted(failingOnce(cephMemoryService(cluster), method, subject, error), (call, act) =>
      call.method === "omapWrite" && ++writes === 3 ? Effect.fail(new NoSpace({ op: "a_call", subject: "rbd" })) : act,
    );
    const time = virtualTime();
    await using driver = aDriver(cluster, { ceph: faulty, flags: THROUGH, time });
    expect(await codeOf(time.until(driver.createVolume(cloneOf(id))))).toBe("RESOURCE_EXHAUSTED");
    const uuid = objectsOf(cluster).get("csi.volumes.default")?.get("csi.volume.pvc-copy");
    expect(objectsOf(cluster).get(`csi.volume.${uuid}`)?.get("csi.volname")).toBe("pvc-copy");
    for (const image of Object.keys(poolDump(cluster).images)) {
      if (image !== imageOf(id)) expect(image).toContain(uuid ?? "");
    }
    const { volume } = await time.until(driver.createVolume(cloneOf(id)));
    expect(uuidOf(volume.volumeId)).not.toBe(uuid ?? "");
    await time.until(driver.deleteVolume(deletion(volume.volumeId)));
    await time.pass("40 seconds");
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(before);
  });
}

test("R43, R50: an undo keeps the reservation of a snapshot whose image it cannot remove, and the next call finishes it", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const id = await aVolume(making, cluster);
  const faulty = intercepted(failingOnce(cephMemoryService(cluster), "snapshotRemove", /csi-vol-/), (call, act) =>
    call.method === "trashMove" ? Effect.fail(new Busy({ op: "a", subject: "b" })) : act,
  );
  await using driver = aDriver(cluster, { ceph: faulty });
  expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("RESOURCE_EXHAUSTED");
  const uuid = objectsOf(cluster).get("csi.snaps.default")?.get("csi.snap.snap-1");
  expect(Object.keys(poolDump(cluster).images)).toContain(`csi-snap-${uuid}`);
  const { snapshotId } = await readySnapshot(making, snapshotOf(id));
  expect(uuidOf(snapshotId)).not.toBe(uuid ?? "");
  expect(Object.keys(poolDump(cluster).images)).not.toContain(`csi-snap-${uuid}`);
});
