/** What becomes of snapshots and copies that were begun when their source goes. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { crashAt, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  EMPTY_DIRECTORIES,
  imageOf,
  POOL,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { aCluster, codeOf, deletion, failureOf, poolDump, seed } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const HOLDER = `csi-snap-${UUID}`;

/** A snapshot that was answered, by a driver that died before it was ready. */
const answered = async (cluster: MemoryCluster, volumeId: string) => {
  for (let k = 1; ; k++) {
    const { service, crashed } = crashAt(cephMemoryService(cluster), k, "before");
    const driver = aDriver(cluster, { ceph: service });
    const early = await driver.createSnapshot(snapshotOf(volumeId)).catch(() => undefined);
    if (early !== undefined) await driver.createSnapshot(snapshotOf(volumeId)).catch(() => {});
    await driver[Symbol.asyncDispose]();
    if (early !== undefined && crashed()) return early.snapshot;
    if (!crashed()) throw new Error("it did not die");
    await using healing = aDriver(cluster);
    const { snapshotId } = await readySnapshot(healing, snapshotOf(volumeId));
    await healing.deleteSnapshot(snapshotDeletion(snapshotId));
  }
};

describe("snapshots whose source is gone", () => {
  test("CreateSnapshot answers with a ready snapshot whose source is gone", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const snapshot = await readySnapshot(driver, snapshotOf(id));
    await driver.deleteVolume(deletion(id));
    expect(await driver.createSnapshot(snapshotOf(id))).toEqual({ snapshot });
  });

  test("CreateSnapshot makes ready, with its data, a snapshot that it answered before its source went", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const data = read(cluster, imageOf(id));
    const early = await answered(cluster, id);
    await driver.deleteVolume(deletion(id));
    const { snapshot } = await driver.createSnapshot(snapshotOf(id));
    expect(snapshot).toEqual({ ...early, readyToUse: true });
    const { volume } = await driver.createVolume(restoreOf(snapshot.snapshotId));
    expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
  });

  test("CreateSnapshot answers NOT_FOUND and leaves nothing of a reserved snapshot whose source is gone", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const attributes = { "csi.snapname": "snap-1", "csi.imagename": HOLDER, "csi.source": imageOf(id) };
    seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": UUID }, [`csi.snap.${UUID}`]: attributes });
    await driver.deleteVolume(deletion(id));
    expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("NOT_FOUND");
    expect(poolDump(cluster).objects).toEqual(EMPTY_DIRECTORIES);
  });

  for (const cut of ["header", "parent", "child"] as const) {
    test(`CreateSnapshot answers NOT_FOUND and leaves nothing of a snapshot whose clone was cut off (${cut}) and whose source is gone`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const id = await aVolume(driver, cluster);
      const attributes = { "csi.snapname": "snap-1", "csi.imagename": HOLDER, "csi.source": imageOf(id) };
      seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": UUID }, [`csi.snap.${UUID}`]: attributes });
      await byHand(cluster).snapshot(imageOf(id), HOLDER);
      await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
      cluster.cutShort(cut, "rbd", HOLDER);
      await driver.deleteVolume(deletion(id));
      expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("NOT_FOUND");
      await settled(cluster);
      expect(poolDump(cluster)).toEqual({ objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} });
    });
  }

  test("CreateSnapshot does not answer with an empty snapshot when a driver that checks nothing deleted the source", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const attributes = { "csi.snapname": "snap-1", "csi.imagename": HOLDER, "csi.source": imageOf(id) };
    seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": UUID }, [`csi.snap.${UUID}`]: attributes });
    await byHand(cluster).snapshot(imageOf(id), HOLDER);
    await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
    cluster.cutShort("parent", "rbd", HOLDER);
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, imageOf(id)));
    expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("NOT_FOUND");
    expect(poolDump(cluster).images).toEqual({});
    expect(poolDump(cluster).objects["csi.snaps.default"]).toEqual({});
  });

  test("CreateSnapshot of a volume that is gone does not answer with another volume's snapshot of that name", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const other = await aVolume(driver, cluster, { name: "pvc-2" });
    await readySnapshot(driver, snapshotOf(id));
    await driver.deleteVolume(deletion(other));
    const before = cluster.dump();
    expect(await codeOf(driver.createSnapshot(snapshotOf(other)))).toBe("NOT_FOUND");
    expect(cluster.dump()).toEqual(before);
  });
});

describe("begun copies whose source goes", () => {
  const kinds = [
    [
      "restore of a snapshot",
      ({ snapshotId }: Sources) => restoreOf(snapshotId),
      (driver: Driver, { snapshotId }: Sources) => driver.deleteSnapshot(snapshotDeletion(snapshotId)),
    ],
    [
      "clone of a volume",
      ({ volumeId }: Sources) => cloneOf(volumeId),
      (driver: Driver, { volumeId }: Sources) => driver.deleteVolume(deletion(volumeId)),
    ],
  ] as const;
  interface Sources {
    readonly volumeId: string;
    readonly snapshotId: string;
  }

  for (const [what, request, drop] of kinds) {
    test(`a begun ${what} whose source goes answers NOT_FOUND and leaves nothing, at whichever call the driver died`, async () => {
      let deaths = 0;
      for (const moment of ["before", "after"] as const) {
        for (let k = 1; k < 60; k++) {
          const cluster = aCluster();
          await using driver = aDriver(cluster);
          const volumeId = await aVolume(driver, cluster);
          const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId));
          const sources = { volumeId, snapshotId };
          const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
          const dying = aDriver(cluster, { ceph: service });
          await dying.createVolume(request(sources)).catch(() => {});
          await dying[Symbol.asyncDispose]();
          if (!crashed()) break;
          deaths += 1;
          await drop(driver, sources);
          const failure = await failureOf(driver.createVolume(request(sources)));
          if (failure === undefined) {
            // It was finished but for the answer.
            const { volume } = await driver.createVolume(request(sources));
            await driver.deleteVolume(deletion(volume.volumeId));
          } else expect([k, failure.code]).toEqual([k, "NOT_FOUND"]);
          await driver.deleteSnapshot(snapshotDeletion(snapshotId));
          await driver.deleteVolume(deletion(volumeId));
          await settled(cluster);
          expect([moment, k, poolDump(cluster)]).toEqual([
            moment,
            k,
            { objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} },
          ]);
        }
      }
      expect(deaths).toBeGreaterThan(10);
    }, 60_000);
  }
});

describe("sources that another driver deletes during a call", () => {
  const calls = [
    ["CreateSnapshot", "snapshotCreate", (driver: Driver, id: string) => driver.createSnapshot(snapshotOf(id))],
    ["a clone by CreateVolume", "snapshotCreate", (driver: Driver, id: string) => driver.createVolume(cloneOf(id))],
    [
      "a restore by CreateVolume",
      "imageClone",
      (driver: Driver, _id: string, snapshotId: string) => driver.createVolume(restoreOf(snapshotId)),
    ],
  ] as const;
  for (const [what, method, call] of calls) {
    test(`${what} answers ABORTED when another driver deletes its source meanwhile, then NOT_FOUND, and leaves nothing`, async () => {
      const cluster = aCluster();
      await using other = aDriver(cluster);
      const id = await aVolume(other, cluster);
      const { snapshotId } = await readySnapshot(other, snapshotOf(id, { name: "snap-0" }));
      let deleted = false;
      const ceph = intercepted(cephMemoryService(cluster), (each, act) => {
        if (deleted || each.method !== method) return act;
        deleted = true;
        const all = async () => {
          await other.deleteSnapshot(snapshotDeletion(snapshotId));
          await other.deleteVolume(deletion(id));
        };
        return Effect.andThen(Effect.promise(all), act);
      });
      await using driver = aDriver(cluster, { ceph });
      expect(await codeOf(call(driver, id, snapshotId))).toBe("ABORTED");
      expect(await codeOf(call(driver, id, snapshotId))).toBe("NOT_FOUND");
      await settled(cluster);
      expect(poolDump(cluster)).toEqual({ objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} });
    });
  }
});
