/**
 * Where drivers of this layout have gone wrong before, one test each at least: half-done clones and snapshots as
 * ceph-csi leaves them, reservations and chains. The numbers are those of the list of rough edges
 * that the driver's compatibility notes keep.
 *
 * Not here: what stays behind (./rough-edges-left-overs.test.ts: R25, R42, R43, R50), R19 (./topology-volumes.test.ts),
 * and deaths of our own driver (tests/unit/crash/crash-copies.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type CephError, NoSpace } from "../../../lib/ceph/errors.ts";
import { type CephMethod, intercepted, latency } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
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
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  EAST,
  failureOf,
  GIB,
  poolDump,
  seed,
  uuidOf,
} from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const V = `csi-vol-${UUID}`;
const TEMP = `${V}-temp`;
const HOLDER = `csi-snap-${UUID}`;
const K8S = "csi.storage.k8s.io/";

const objectsOf = (cluster: MemoryCluster) => {
  const objects = cluster.namespace("rbd", "")?.objects;
  if (objects === undefined) throw new Error("no such pool");
  return objects;
};

/** ceph-csi's reservation of `pvc-copy`, complete but for the image's ID. */
const reserveCopy = (cluster: MemoryCluster): void => {
  objectsOf(cluster).get("csi.volumes.default")?.set("csi.volume.pvc-copy", UUID);
  seed(cluster, { [`csi.volume.${UUID}`]: { "csi.volname": "pvc-copy", "csi.imagename": V } });
};
const reserveSnapshot = (cluster: MemoryCluster, source: string): void => {
  const attributes = { "csi.snapname": "snap-1", "csi.imagename": HOLDER, "csi.source": source };
  seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": UUID }, [`csi.snap.${UUID}`]: attributes });
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

/** Nothing of a copy but the copy: no snapshot by name on the source, no image but those that belong. */
const isWholeClone = (cluster: MemoryCluster, source: string, data: readonly string[]): void => {
  expect(parentOf(cluster, V)).toBe(`${TEMP}@${V}`);
  expect(read(cluster, V)).toEqual(data);
  expect(snapshotsOf(cluster, source)).toEqual([`trash ${TEMP}`]);
  expect(snapshotsOf(cluster, TEMP)).toEqual([`trash ${V}`]);
  expect(objectsOf(cluster).get(`csi.volume.${UUID}`)?.get("csi.imageid")).toBe(cluster.image("rbd", V).id);
};

describe("R7: a clone whose image in between is whole, and nothing else", () => {
  test("is finished: volume ID, image ID, size and metadata included", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { setmetadata: true } });
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-1" } });
    const source = imageOf(id);
    reserveCopy(cluster);
    await byHand(cluster).snapshot(source, TEMP);
    await byHand(cluster).clone(source, TEMP, TEMP);
    await byHand(cluster).dropSnapshot(source, TEMP);
    const data = read(cluster, source);
    const parameters = { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-copy" };
    const { volume } = await driver.createVolume(
      cloneOf(id, { parameters, capacityRange: { requiredBytes: 2n * GIB } }),
    );
    expect(volume).toMatchObject({ capacityBytes: 2n * GIB, volumeContext: { imageName: V } });
    expect(uuidOf(volume.volumeId)).toBe(UUID);
    isWholeClone(cluster, source, data);
    expect(metaOf(cluster, V)).toEqual({ [`${K8S}pv/name`]: "pvc-copy" });
    expect(metaOf(cluster, TEMP)).toEqual({});
  });
});

describe("R8: a clone whose image in between has its snapshot", () => {
  for (const begun of [false, true]) {
    test(`is finished from that one, the volume's image ${begun ? "half made" : "not made yet"}`, async () => {
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
      isWholeClone(cluster, source, data);
      await settled(cluster);
    });
  }
});

describe("R9: a clone that left its snapshot on the source", () => {
  for (const cut of [undefined, "header", "parent", "child", "metadata"] as const) {
    test(`leaves none in the end; its image in between was ${cut === undefined ? "not begun" : `cut off (${cut})`}`, async () => {
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
      isWholeClone(cluster, source, data);
      await settled(cluster);
    });
  }
});

describe("what a driver that has just died still has open", () => {
  for (const [what, image] of [
    ["the image in between", TEMP],
    ["the volume's image", V],
  ] as const) {
    test(`holds a retry up for a while, and is no final failure: ${what}`, async () => {
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
      const before = cluster.dump();
      const failure = await failureOf(driver.createVolume(cloneOf(id)));
      expect(failure).toMatchObject({ code: "ABORTED", message: expect.stringContaining("within about 30 s") });
      expect(cluster.dump()).toEqual(before);
      close();
      await driver.createVolume(cloneOf(id));
      isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)));
    });
  }

  test("of a snapshot, too", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    reserveSnapshot(cluster, imageOf(id));
    await byHand(cluster).snapshot(imageOf(id), HOLDER);
    await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
    const close = cluster.watch("rbd", HOLDER);
    expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("ABORTED");
    close();
    await readySnapshot(driver, snapshotOf(id));
  });
});

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
  isWholeClone(cluster, imageOf(id), read(cluster, imageOf(id)));
});

describe("R12: before a restore, what is flattened is the snapshot that the request names", () => {
  test("and never the snapshot's source", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    // The source is a clone of depth 2, and is not what the request names.
    await using making = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 14, rbdhardmaxclonedepth: 14 } });
    const id = await aVolume(making, cluster);
    const { volume } = await making.createVolume(cloneOf(id));
    const { snapshotId } = await readySnapshot(making, snapshotOf(volume.volumeId));
    await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 3, rbdhardmaxclonedepth: 6 } });
    await driver.createVolume(restoreOf(snapshotId, { name: "pvc-restored" }));
    expect(
      cluster
        .tasks()
        .filter(({ action }) => action === "flatten")
        .map(({ image }) => image),
    ).toEqual([holderOf(snapshotId)]);
  });
});

describe("R13: a snapshot whose own snapshot is missing", () => {
  test("is made ready by the first retry", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    reserveSnapshot(cluster, imageOf(id));
    await byHand(cluster).snapshot(imageOf(id), HOLDER);
    await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
    await byHand(cluster).dropSnapshot(imageOf(id), HOLDER);
    const data = read(cluster, imageOf(id));
    cluster.image("rbd", imageOf(id)).write(0n, MIB_4);
    const { snapshot } = await driver.createSnapshot(snapshotOf(id));
    expect(uuidOf(snapshot.snapshotId)).toBe(UUID);
    const again = await readySnapshot(driver, snapshotOf(id));
    expect(again).toEqual({ ...snapshot, readyToUse: true });
    expect(snapshotsOf(cluster, HOLDER)).toEqual([`user ${HOLDER}`]);
    expect(read(cluster, HOLDER)).toEqual(data);
  });

  test("is no source of a restore meanwhile, and says so", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    reserveSnapshot(cluster, imageOf(id));
    await byHand(cluster).snapshot(imageOf(id), HOLDER);
    await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
    const before = poolDump(cluster).images;
    const failure = await failureOf(driver.createVolume(restoreOf(`0001-0004-east-0000000000000002-${UUID}`)));
    expect(failure).toMatchObject({ code: "ABORTED", message: expect.stringContaining("not ready to use yet") });
    expect(poolDump(cluster).images).toEqual(before);
    expect(objectsOf(cluster).get("csi.volumes.default")?.has("csi.volume.pvc-copy")).toBe(false);
  });
});

describe("R14: a source that does not exist", () => {
  const gone = `0001-0004-east-0000000000000002-${UUID}`;
  for (const [what, request] of [
    ["snapshot", restoreOf(gone)],
    ["volume", cloneOf(gone)],
    ["snapshot whose ID is none", restoreOf("snap-1")],
    ["volume whose ID is none", cloneOf("pvc-1")],
    ["snapshot in a pool that is gone", restoreOf(gone.replace("0000000000000002", "0000000000000063"))],
  ] as const) {
    test(`is NOT_FOUND: ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      expect(await codeOf(driver.createVolume(request))).toBe("NOT_FOUND");
      expect(poolDump(cluster)).toEqual({ objects: {}, images: {}, bareNames: {}, trash: {} });
    });
  }
});

describe("R15: the retry of CreateSnapshot", () => {
  test("writes its metadata on the snapshot, and none on the source", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { setmetadata: true } });
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, [`${K8S}pv/name`]: "pvc-1" } });
    reserveSnapshot(cluster, imageOf(id));
    await byHand(cluster).snapshot(imageOf(id), HOLDER);
    await byHand(cluster).clone(imageOf(id), HOLDER, HOLDER);
    await byHand(cluster).dropSnapshot(imageOf(id), HOLDER);
    const before = metaOf(cluster, imageOf(id));
    await readySnapshot(driver, snapshotOf(id, { parameters: { [`${K8S}volumesnapshot/name`]: "nightly" } }));
    expect(metaOf(cluster, imageOf(id))).toEqual(before);
    expect(metaOf(cluster, HOLDER)).toEqual({ [`${K8S}volumesnapshot/name`]: "nightly" });
  });
});

test("R16: each answer of CreateSnapshot names its source", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const id = await aVolume(driver, cluster);
  const first = await driver.createSnapshot(snapshotOf(id));
  expect(first.snapshot.readyToUse).toBe(false);
  const second = await readySnapshot(driver, snapshotOf(id));
  const third = await driver.createSnapshot(snapshotOf(id));
  expect([first.snapshot, second, third.snapshot].map(({ sourceVolumeId }) => sourceVolumeId)).toEqual([id, id, id]);
});

describe("R20: deletes of volumes that the journal does not know", () => {
  test("wait for nobody, and take nobody's key", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), 1) });
    await driver.createVolume(creation());
    objectsOf(cluster).get("csi.volumes.default")?.set("csi.volume.", "not ours");
    const before = cluster.dump();
    const ids = Array.from({ length: 8 }, (_, n) => `0001-0004-east-0000000000000002-${UUID.slice(0, -1)}${n}`);
    const codes = await Promise.all(ids.map((id) => codeOf(driver.deleteVolume(deletion(id), "5 seconds"))));
    expect(new Set(codes)).toEqual(new Set(["OK"]));
    expect(cluster.dump()).toEqual(before);
  });
});

describe("R21: a clone that fails", () => {
  for (const [what, request, methods] of [
    ["of a snapshot", "restore", ["imageClone"]],
    ["of a volume", "clone", ["imageClone", "snapshotRemove"]],
    ["for a snapshot", "snapshot", ["imageClone", "snapshotRemove"]],
  ] as const) {
    for (const method of methods) {
      test(`${what} is a failure (${method}), and leaves nothing`, async () => {
        const cluster = aCluster();
        await using making = aDriver(cluster);
        const id = await aVolume(making, cluster);
        const { snapshotId } = await readySnapshot(making, snapshotOf(id, { name: "snap-0" }));
        const before = poolDump(cluster);
        await using driver = aDriver(cluster, { ceph: failing(cluster, method, /./) });
        const call = () =>
          request === "snapshot"
            ? driver.createSnapshot(snapshotOf(id))
            : driver.createVolume(request === "restore" ? restoreOf(snapshotId) : cloneOf(id));
        expect(await codeOf(call())).toBe("RESOURCE_EXHAUSTED");
        await settled(cluster);
        expect(poolDump(cluster)).toEqual(before);
        expect(await codeOf(call())).toBe("OK");
      });
    }
  }
});

describe("R22: images that only hold data for others", () => {
  test("keep it in the source's data pool, also when they are flattened", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, dataPool: "ec" } });
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const { volume } = await driver.createVolume(cloneOf(id));
    const stored = cluster.storedBytes("rbd");
    await byHand(cluster).flatten(holderOf(snapshotId));
    await byHand(cluster).flatten(`${imageOf(volume.volumeId)}-temp`);
    expect(cluster.storedBytes("rbd")).toBe(stored);
    expect(cluster.storedBytes("ec")).toBe(3n * MIB_4);
  });
});

describe("R23: flattening", () => {
  test("is asked of the manager in the image's own RADOS namespace", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const settings = {
      clusters: [{ ...EAST, radosNamespace: "tenant" }],
      flags: { rbdsoftmaxclonedepth: 1, rbdhardmaxclonedepth: 8 },
    };
    await using driver = aDriver(cluster, settings);
    const { volume } = await driver.createVolume(creation());
    const { snapshotId } = await readySnapshot(driver, snapshotOf(volume.volumeId));
    expect(cluster.tasks()).toEqual([
      expect.objectContaining({ action: "flatten", pool: "rbd", namespace: "tenant", image: holderOf(snapshotId) }),
    ]);
  });

  test("of an image without a parent is no failure", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 1, rbdhardmaxclonedepth: 1 } });
    const id = await aVolume(driver, cluster);
    expect(await codeOf(driver.createVolume(cloneOf(id)))).toBe("OK");
  });
});

test("R24: restores of one snapshot run side by side", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const { snapshotId } = await readySnapshot(making, snapshotOf(await aVolume(making, cluster)));
  let running = 0;
  let most = 0;
  const { promise: all, resolve } = Promise.withResolvers<void>();
  // No restore ends before all of them clone: if one waited for another, none ever would.
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    if (call.method !== "imageClone") return act;
    running += 1;
    most = Math.max(most, running);
    if (running === 50) resolve();
    return Effect.andThen(
      Effect.promise(() => all),
      act,
    );
  });
  await using driver = aDriver(cluster, { ceph });
  const names = Array.from({ length: 50 }, (_, n) => `copy-${n}`);
  const codes = await Promise.all(names.map((name) => codeOf(driver.createVolume(restoreOf(snapshotId, { name })))));
  expect(new Set(codes)).toEqual(new Set(["OK"]));
  expect(most).toBe(50);
}, 20_000);
