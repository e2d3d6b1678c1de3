/** CreateSnapshot over a cluster in memory: layout and journal byte by byte, what it answers and when, what it refuses. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aVolume,
  holderOf,
  imageOf,
  metaOf,
  MIB_4,
  parentOf,
  PARAMETERS,
  read,
  readySnapshot,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import {
  aCluster,
  creation,
  deletion,
  EAST,
  eventually,
  waitsFor,
  failureOf,
  GIB,
  poolDump,
  uuidOf,
} from "../../support/world.ts";

const K8S = "csi.storage.k8s.io/";
const VOLUME_NAMES = { [`${K8S}pvc/name`]: "data", [`${K8S}pvc/namespace`]: "shop", [`${K8S}pv/name`]: "pvc-1" };
const SNAPSHOT_NAMES = {
  [`${K8S}volumesnapshot/name`]: "nightly",
  [`${K8S}volumesnapshot/namespace`]: "shop",
  [`${K8S}volumesnapshotcontent/name`]: "snapcontent-1",
};

/** A ceph whose second snapshot (the one on the holder) waits. */
const withSlowReadiness = (cluster: ReturnType<typeof aCluster>) => {
  const { promise, resolve: letGo } = Promise.withResolvers<void>();
  const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
    call.method === "snapshotCreate" && call.subject.startsWith("rbd/csi-snap-")
      ? Effect.andThen(
          Effect.promise(() => promise),
          act,
        )
      : act,
  );
  return { ceph, letGo };
};

describe("layout of a snapshot", () => {
  test("a snapshot is an image and a snapshot of one name, cloned from a snapshot of the source that is in the trash", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const source = imageOf(id);
    const before = read(cluster, source);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const holder = holderOf(snapshotId);
    cluster.image("rbd", source).write(0n, MIB_4);
    expect(snapshotId).toMatch(/^0001-0004-east-0000000000000002-[0-9a-f-]{36}$/);
    expect(snapshotsOf(cluster, holder)).toEqual([`user ${holder}`]);
    expect(snapshotsOf(cluster, source)).toEqual([`trash ${holder}`]);
    expect(parentOf(cluster, holder)).toBe(`${source}@${holder}`);
    // layering and deep-flatten, whatever the source has
    expect(cluster.image("rbd", holder).bornFeatures).toBe(33n);
    expect(read(cluster, holder)).toEqual(before);
    expect(read(cluster, source)).not.toEqual(before);
  });

  test("CreateSnapshot writes the journal entry as ceph-csi does", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, ...VOLUME_NAMES } });
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const holder = holderOf(snapshotId);
    const { objects } = poolDump(cluster);
    expect(objects["csi.snaps.default"]).toEqual({ "csi.snap.snap-1": uuidOf(snapshotId) });
    expect(objects[`csi.snap.${uuidOf(snapshotId)}`]).toEqual({
      "csi.snapname": "snap-1",
      "csi.imagename": holder,
      "csi.source": imageOf(id),
      "csi.imageid": cluster.image("rbd", holder).id,
      "csi.volume.owner": "shop",
    });
  });

  test("a snapshot has no owner where its source has none, and has the name prefix that the class asks for", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { instanceid: "prod" } });
    const id = await aVolume(driver, cluster);
    const parameters = { clusterID: "east", snapshotNamePrefix: "nightly-", pool: "whatever" };
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { parameters }));
    const uuid = uuidOf(snapshotId);
    const { objects, images } = poolDump(cluster);
    expect(Object.keys(images)).toContain(`nightly-${uuid}`);
    expect(objects["csi.snaps.prod"]).toEqual({ "csi.snap.snap-1": uuid });
    expect(Object.keys(objects[`csi.snap.${uuid}`] ?? {})).toEqual([
      "csi.imageid",
      "csi.imagename",
      "csi.snapname",
      "csi.source",
    ]);
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    expect(Object.keys(poolDump(cluster).images)).toEqual([imageOf(id)]);
  });

  test("a snapshot keeps the data pool, object size and striping of its source", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const layout = { dataPool: "ec", objectSize: "8388608", stripeUnit: "65536", stripeCount: "8" };
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, ...layout } });
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const { dataPool, objectSize, stripeUnit, stripeCount } = cluster.image("rbd", holderOf(snapshotId));
    expect({ dataPool, objectSize, stripeUnit, stripeCount }).toEqual({
      dataPool: "ec",
      objectSize: 8n << 20n,
      stripeUnit: 65_536n,
      stripeCount: 8n,
    });
  });

  test("a snapshot is in the cluster's RADOS namespace, as are its source and the journal", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { clusters: [{ ...EAST, radosNamespace: "tenant" }] });
    const { volume } = await driver.createVolume(creation());
    const { snapshotId } = await readySnapshot(driver, snapshotOf(volume.volumeId));
    const { objects, images } = poolDump(cluster, "rbd", "tenant");
    expect(Object.keys(images).toSorted()).toEqual([holderOf(snapshotId), imageOf(volume.volumeId)].toSorted());
    expect(objects["csi.snaps.default"]).toEqual({ "csi.snap.snap-1": uuidOf(snapshotId) });
    expect(poolDump(cluster).images).toEqual({});
  });

  test("the metadata of a snapshot names the snapshot, and nothing of the volume", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: { clustername: "prod" } });
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, ...VOLUME_NAMES } });
    const source = metaOf(cluster, imageOf(id));
    expect(source).toEqual({ ...VOLUME_NAMES, "csi.ceph.com/cluster/name": "prod" });
    const parameters = { clusterID: "east", ...SNAPSHOT_NAMES };
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { parameters }));
    expect(metaOf(cluster, holderOf(snapshotId))).toEqual({ ...SNAPSHOT_NAMES, "csi.ceph.com/cluster/name": "prod" });
    expect(metaOf(cluster, imageOf(id))).toEqual(source);
  });

  test("a snapshot loses the volume's names also where it gets none of its own", async () => {
    const cluster = aCluster();
    await using writing = aDriver(cluster, { flags: { clustername: "prod" } });
    const id = await aVolume(writing, cluster, { parameters: { ...PARAMETERS, ...VOLUME_NAMES } });
    await using driver = aDriver(cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    expect(metaOf(cluster, holderOf(snapshotId))).toEqual({});
  });
});

describe("answers of CreateSnapshot", () => {
  test("CreateSnapshot answers before the snapshot is ready, and answers the same once it is ready", async () => {
    let now = 1_700_000_000_123;
    const cluster = aCluster({ now: () => now });
    const { ceph, letGo } = withSlowReadiness(cluster);
    await using driver = aDriver(cluster, { ceph });
    const id = await aVolume(driver, cluster);
    const { snapshot: early } = await driver.createSnapshot(snapshotOf(id));
    expect(early).toMatchObject({
      sourceVolumeId: id,
      sizeBytes: GIB,
      creationTime: { seconds: 1_700_000_000n, nanos: 123_000_000 },
      readyToUse: false,
    });
    // The point in time is fixed: what is written now is not in it.
    const image = cluster.image("rbd", imageOf(id));
    const before = read(cluster, holderOf(early.snapshotId));
    image.write(0n, MIB_4);
    now += 60_000;
    const joined = driver.createSnapshot(snapshotOf(id));
    letGo();
    const ready = { snapshot: { ...early, readyToUse: true } };
    expect(await joined).toEqual(ready);
    expect(await driver.createSnapshot(snapshotOf(id))).toEqual(ready);
    expect(read(cluster, holderOf(early.snapshotId))).toEqual(before);
  });

  test("CreateSnapshot answers after one snapshot: the transient one is gone, and the second is not begun", async () => {
    const cluster = aCluster();
    const { ceph, letGo } = withSlowReadiness(cluster);
    const { service, calls } = recorded(ceph);
    await using driver = aDriver(cluster, { ceph: service });
    const id = await aVolume(driver, cluster);
    const { snapshot } = await driver.createSnapshot(snapshotOf(id));
    const made = () => calls().filter(({ method }) => method === "snapshotCreate");
    expect(made().at(0)?.subject).toBe(`rbd/${imageOf(id)}`);
    expect(snapshotsOf(cluster, imageOf(id))).toEqual([`trash ${holderOf(snapshot.snapshotId)}`]);
    expect(snapshotsOf(cluster, holderOf(snapshot.snapshotId))).toEqual([]);
    letGo();
    await readySnapshot(driver, snapshotOf(id));
    expect(made()).toHaveLength(2);
  });

  test("another driver answers the same for a snapshot that it finds, finished or not", async () => {
    const cluster = aCluster();
    const { ceph } = withSlowReadiness(cluster);
    const first = aDriver(cluster, { ceph });
    const id = await aVolume(first, cluster);
    const { snapshot: early } = await first.createSnapshot(snapshotOf(id));
    // It stops here.
    await first[Symbol.asyncDispose]();
    await using second = aDriver(cluster);
    const finished = await second.createSnapshot(snapshotOf(id));
    expect(finished.snapshot.snapshotId).toBe(early.snapshotId);
    expect(finished.snapshot.creationTime).toEqual(early.creationTime);
    await using third = aDriver(cluster);
    expect(await third.createSnapshot(snapshotOf(id))).toEqual({ snapshot: { ...early, readyToUse: true } });
  });

  test("CreateSnapshot takes the cluster of the source where the class names none", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { parameters: {} }));
    expect(snapshotId).toStartWith("0001-0004-east-");
  });

  test("the snapshot ID has the clusterID of the class where two clusterIDs lead to one cluster", async () => {
    const cluster = aCluster();
    const monitors = ["10.0.0.1:6789", "10.0.0.2:6789"];
    const alias = { ...EAST, clusterId: "alias", monitors: monitors.toReversed() };
    await using driver = aDriver(cluster, { clusters: [{ ...EAST, monitors }, alias] });
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { parameters: { clusterID: "alias" } }));
    expect(snapshotId).toStartWith("0001-0005-alias-");
  });
});

describe("refused requests", () => {
  const cases: readonly (readonly [string, Parameters<typeof snapshotOf>[1], string, RegExp])[] = [
    ["no name", { name: "" }, "INVALID_ARGUMENT", /^name /],
    ["no source", { sourceVolumeId: "" }, "INVALID_ARGUMENT", /^source_volume_id /],
    ["no secret", { secrets: {} }, "INVALID_ARGUMENT", /userID/],
    ["a source that is not a volume ID", { sourceVolumeId: "pvc-1" }, "NOT_FOUND", /volume pvc-1 does not exist/],
    [
      "a source that is gone",
      { sourceVolumeId: "0001-0004-east-0000000000000002-b0285c97-a0ce-41eb-8c66-0242ac110002" },
      "NOT_FOUND",
      /does not exist/,
    ],
    [
      "a source in a pool that is gone",
      { sourceVolumeId: "0001-0004-east-0000000000000063-b0285c97-a0ce-41eb-8c66-0242ac110002" },
      "NOT_FOUND",
      /no pool with id 99/,
    ],
    ["an empty prefix", { parameters: { snapshotNamePrefix: "" } }, "INVALID_ARGUMENT", /snapshotNamePrefix/],
    ["an empty pool", { parameters: { pool: "" } }, "INVALID_ARGUMENT", /pool/],
    ["a prefix with a slash", { parameters: { snapshotNamePrefix: "a/b" } }, "INVALID_ARGUMENT", /snapshotNamePrefix/],
    ["an unknown cluster", { parameters: { clusterID: "west" } }, "INVALID_ARGUMENT", /west/],
  ];
  for (const [what, more, code, message] of cases) {
    test(`CreateSnapshot refuses a request with ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const id = await aVolume(driver, cluster);
      const before = cluster.dump();
      expect(await failureOf(driver.createSnapshot(snapshotOf(id, more)))).toMatchObject({
        code,
        message: expect.stringMatching(message),
      });
      expect(cluster.dump()).toEqual(before);
    });
  }

  test("CreateSnapshot refuses a cluster that is not the source's", async () => {
    const cluster = aCluster();
    const west = { ...EAST, clusterId: "west", monitors: ["10.0.0.1:6789"] };
    await using driver = aDriver(cluster, { clusters: [EAST, west] });
    const id = await aVolume(driver, cluster);
    const failure = await failureOf(driver.createSnapshot(snapshotOf(id, { parameters: { clusterID: "west" } })));
    expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("clusterID") });
  });

  test("CreateSnapshot refuses a source without layering", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, imageFeatures: "exclusive-lock" } });
    const failure = await failureOf(driver.createSnapshot(snapshotOf(id)));
    expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("layering") });
  });

  test("CreateSnapshot refuses a name that a snapshot of another volume has", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const one = await aVolume(driver, cluster);
    const other = await aVolume(driver, cluster, { name: "pvc-2" });
    await readySnapshot(driver, snapshotOf(one));
    const before = cluster.dump();
    const failure = await failureOf(driver.createSnapshot(snapshotOf(other)));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining(imageOf(one)) });
    expect(cluster.dump()).toEqual(before);
  });
});

test("CreateSnapshot takes snapshots of one volume side by side", async () => {
  const cluster = aCluster();
  let running = 0;
  let most = 0;
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    if (call.method !== "snapshotCreate") return act;
    running += 1;
    most = Math.max(most, running);
    return act.pipe(Effect.delay(5), Effect.ensuring(Effect.sync(() => (running -= 1))));
  });
  await using driver = aDriver(cluster, { ceph });
  const id = await aVolume(driver, cluster);
  const names = Array.from({ length: 10 }, (_, n) => `snap-${n}`);
  const taken = await Promise.all(names.map((name) => readySnapshot(driver, snapshotOf(id, { name }))));
  expect(new Set(taken.map(({ snapshotId }) => snapshotId)).size).toBe(10);
  expect(most).toBe(10);
});

test.each(["has answered", "has not answered for two seconds"])(
  "A snapshot of a burst is made ready when the other one %s",
  async (when) => {
    const cluster = aCluster();
    const { promise, resolve: letGo } = Promise.withResolvers<void>();
    let clones = 0;
    const held = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "imageClone") return act;
      clones += 1;
      return clones === 1
        ? act
        : Effect.andThen(
            Effect.promise(() => promise),
            act,
          );
    });
    const { service, calls } = recorded(held);
    const madeReady = () =>
      calls().filter(({ method, subject }) => method === "snapshotCreate" && subject.startsWith("rbd/csi-snap-"));
    await using driver = aDriver(cluster, { ceph: service });
    const id = await aVolume(driver, cluster);
    const from = performance.now();
    const both = ["snap-1", "snap-2"].map((name) => driver.createSnapshot(snapshotOf(id, { name })));
    const { snapshot } = await Promise.race(both);
    expect(snapshot.readyToUse).toBe(false);
    await eventually(() => clones === 2, "the other clone");
    await Bun.sleep(200);
    expect(madeReady()).toEqual([]);
    if (when === "has answered") letGo();
    await eventually(() => madeReady().length > 0, "a snapshot that is made ready");
    const waitedMs = performance.now() - from;
    if (when === "has answered") expect(waitedMs).toBeLessThan(1_900);
    else expect(waitedMs).toBeGreaterThan(1_900);
    letGo();
    await Promise.all(both);
    await eventually(() => madeReady().length === 2, "both snapshots ready");
  },
);

test("DeleteVolume waits for a snapshot of the volume that is being taken", async () => {
  const cluster = aCluster();
  const { ceph, letGo } = withSlowReadiness(cluster);
  await using driver = aDriver(cluster, { ceph });
  const id = await aVolume(driver, cluster);
  const { snapshot } = await driver.createSnapshot(snapshotOf(id));
  const deleted = driver.deleteVolume(deletion(id));
  await waitsFor(driver, `volume ${id}`);
  expect(Object.keys(poolDump(cluster).images)).toContain(imageOf(id));
  letGo();
  await deleted;
  expect(Object.keys(poolDump(cluster).images)).toEqual([holderOf(snapshot.snapshotId)]);
  await eventually(() => snapshotsOf(cluster, holderOf(snapshot.snapshotId)).length === 1, "a ready snapshot");
});
