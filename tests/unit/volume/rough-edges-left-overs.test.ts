/**
 * What stays behind, and what a call costs, where drivers of this layout have gone wrong before: R25, R42, R43 and R50 of
 * the list of rough edges.
 *
 * Not here: the others (./rough-edges.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { Busy, type CephError, NoSpace, TimedOut } from "../../../lib/ceph/errors.ts";
import { type CephMethod, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  imageOf,
  parentOf,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import { aCluster, codeOf, deletion, poolDump, seed, uuidOf } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const objectsOf = (cluster: MemoryCluster) => {
  const objects = cluster.namespace("rbd", "")?.objects;
  if (objects === undefined) throw new Error("no such pool");
  return objects;
};

/** Fails the first call of a method that is about `subject`. */
const failing = (
  cluster: MemoryCluster,
  method: CephMethod,
  subject: RegExp,
  error: CephError = new NoSpace({ op: "a_call", subject: "rbd" }),
) => {
  let failed = false;
  return intercepted(cephMemoryService(cluster), (call, act) => {
    if (failed || call.method !== method || !subject.test(call.subject)) return act;
    failed = true;
    return Effect.fail(error);
  });
};

describe("R25: the image in between", () => {
  const cloned = async (driver: Driver, cluster: MemoryCluster) => {
    const id = await aVolume(driver, cluster);
    const { volume } = await driver.createVolume(cloneOf(id));
    return { source: imageOf(id), copyId: volume.volumeId, temp: `${imageOf(volume.volumeId)}-temp` };
  };

  test("goes with its volume", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { copyId, source } = await cloned(driver, cluster);
    await driver.deleteVolume(deletion(copyId));
    await settled(cluster);
    expect(Object.keys(poolDump(cluster).images)).toEqual([source]);
    expect(snapshotsOf(cluster, source)).toEqual([]);
  });

  for (const [what, look] of [
    ["a snapshot", (driver: Driver, id: string) => readySnapshot(driver, snapshotOf(id))],
    ["a clone", (driver: Driver, id: string) => driver.createVolume(cloneOf(id, { name: "pvc-3" }))],
  ] as const) {
    test(`goes when its volume was flattened, with the next ${what} of it`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
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

    test(`stays as long as its volume reads from it, also when ${what} of it is made`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 9, rbdhardmaxclonedepth: 9 } });
      const { copyId, temp } = await cloned(driver, cluster);
      await look(driver, copyId);
      expect(Object.keys(poolDump(cluster).images)).toContain(temp);
      expect(parentOf(cluster, imageOf(copyId))).toBe(`${temp}@${imageOf(copyId)}`);
    });
  }

  test("that can't go now fails nobody's request", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const { copyId, temp } = await cloned(driver, cluster);
    await byHand(cluster).flatten(imageOf(copyId));
    cluster.watch("rbd", temp);
    expect(await codeOf(time.until(driver.createVolume(cloneOf(copyId, { name: "pvc-3" }))))).toBe("OK");
    expect(driver.log.join("\n")).toContain("the left-over image of a copy stays for now");
  });
});

describe("R42: the cost of a call", () => {
  test("does not grow with the number of names: no scan, and as many calls among 300 as alone", async () => {
    const counts = async (others: number) => {
      const cluster = aCluster();
      const { service, calls, forget } = recorded(cephMemoryService(cluster));
      await using driver = aDriver(cluster, { ceph: service });
      const id = await aVolume(driver, cluster);
      for (let n = 0; n < others; n++) {
        objectsOf(cluster).get("csi.volumes.default")?.set(`csi.volume.other-${n}`, UUID);
        seed(cluster, { [`csi.snap.${UUID}`]: {} });
      }
      forget();
      const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
      const { volume } = await driver.createVolume(restoreOf(snapshotId));
      await driver.deleteVolume(deletion(volume.volumeId));
      await driver.deleteSnapshot(snapshotDeletion(snapshotId));
      return calls().map(({ method }) => method);
    };
    const alone = await counts(0);
    expect(alone).not.toContain("omapList");
    expect(alone).not.toContain("trashList");
    expect(await counts(300)).toEqual(alone);
  });
});

describe("R43, R50: an undo that does not come to its end", () => {
  for (const [what, method, subject, error] of [
    [
      "the volume's image can't be moved to the trash",
      "trashMove",
      /csi-vol-[^/]{36}$/,
      new Busy({ op: "a", subject: "b" }),
    ],
    ["the image in between can't be moved to the trash", "trashMove", /-temp$/, new Busy({ op: "a", subject: "b" })],
    ["it is not known what is there", "imageMend", /-temp$/, new TimedOut({ op: "a", subject: "b" })],
  ] as const) {
    test(`keeps the reservation, and so what is left belongs to somebody: ${what}`, async () => {
      const cluster = aCluster();
      await using making = aDriver(cluster);
      const id = await aVolume(making, cluster);
      const before = poolDump(cluster);
      let writes = 0;
      const faulty = intercepted(failing(cluster, method, subject, error), (call, act) =>
        call.method === "omapWrite" && ++writes === 3
          ? Effect.fail(new NoSpace({ op: "a_call", subject: "rbd" }))
          : act,
      );
      await using driver = aDriver(cluster, { ceph: faulty });
      expect(await codeOf(driver.createVolume(cloneOf(id)))).toBe("RESOURCE_EXHAUSTED");
      const uuid = objectsOf(cluster).get("csi.volumes.default")?.get("csi.volume.pvc-copy");
      expect(objectsOf(cluster).get(`csi.volume.${uuid}`)?.get("csi.volname")).toBe("pvc-copy");
      for (const image of Object.keys(poolDump(cluster).images)) {
        if (image !== imageOf(id)) expect(image).toContain(uuid ?? "");
      }
      const { volume } = await driver.createVolume(cloneOf(id));
      expect(uuidOf(volume.volumeId)).toBe(uuid ?? "");
      await driver.deleteVolume(deletion(volume.volumeId));
      await settled(cluster);
      expect(poolDump(cluster)).toEqual(before);
    });
  }

  test("of a snapshot keeps its reservation, too", async () => {
    const cluster = aCluster();
    await using making = aDriver(cluster);
    const id = await aVolume(making, cluster);
    const faulty = intercepted(failing(cluster, "snapshotRemove", /csi-vol-/), (call, act) =>
      call.method === "trashMove" ? Effect.fail(new Busy({ op: "a", subject: "b" })) : act,
    );
    await using driver = aDriver(cluster, { ceph: faulty });
    expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("RESOURCE_EXHAUSTED");
    const uuid = objectsOf(cluster).get("csi.snaps.default")?.get("csi.snap.snap-1");
    expect(Object.keys(poolDump(cluster).images)).toContain(`csi-snap-${uuid}`);
    const { snapshotId } = await readySnapshot(making, snapshotOf(id));
    expect(uuidOf(snapshotId)).toBe(uuid ?? "");
  });
});
