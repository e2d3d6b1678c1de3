/**
 * Two drivers that work on one copy or snapshot, as in a rolling update: the one that has looked at the journal before the
 * other one wrote there takes nothing away that was answered, and calls nothing complete that is being made again.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { NoSpace } from "../../../lib/ceph/errors.ts";
import { held, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aSource,
  cloneOf,
  holderOf,
  imageOf,
  MIB_4,
  POOL,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  creation,
  deletion,
  eventually,
  failureOf,
  objectsOf,
  poolDump,
  seed,
  seedImage,
  uuidOf,
} from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const V = `csi-vol-${UUID}`;

const recordedId = (cluster: MemoryCluster, uuid: string): string | undefined =>
  objectsOf(cluster).get(`csi.volume.${uuid}`)?.get("csi.imageid");

/** Leaves the clone of the image without a parent, and never answers: the driver dies there. */
const dyingInClone = (cluster: MemoryCluster, inner: CephCalls): { ceph: CephCalls; dead: () => boolean } => {
  let dead = false;
  const ceph = intercepted(inner, (call, act) => {
    if (call.method !== "imageClone") return act;
    const cut = Effect.sync(() => {
      cluster.cutShort("parent", "rbd", call.subject.split("/").at(-1) ?? "");
      dead = true;
    });
    return Effect.exit(act).pipe(Effect.andThen(cut), Effect.andThen(Effect.never));
  });
  return { ceph, dead: () => dead };
};

describe("a copy that another driver completes", () => {
  const copies = {
    "a restore": {
      flags: {},
      request: ({ snapshotId }: { snapshotId: string }) => restoreOf(snapshotId),
    },
    "a copy of a volume": {
      flags: {},
      request: ({ volumeId }: { volumeId: string }) => cloneOf(volumeId),
    },
    "a copy by way of an image in between": {
      flags: THROUGH,
      request: ({ volumeId }: { volumeId: string }) => cloneOf(volumeId),
    },
  } as const;
  for (const [what, { flags, request }] of Object.entries(copies)) {
    test(`A driver that looked before ${what} was answered leaves it as it is`, async () => {
      const at = await aSource();
      const { cluster, data } = at;
      const cloning = held(cephMemoryService(cluster), "imageClone");
      const looking = held(cephMemoryService(cluster), "omapWrite", /csi\.volume\./);
      await using first = aDriver(cluster, { ceph: cloning.ceph, flags });
      await using second = aDriver(cluster, { ceph: looking.ceph, flags });
      const answered = first.createVolume(request(at));
      await eventually(() => cloning.waiting() === 1, "a clone about to be made");
      const late = failureOf(second.createVolume(request(at)));
      await eventually(() => looking.waiting() === 1, "a look at the journal that becomes stale");
      cloning.letGo();
      const { volume } = await answered;
      const image = imageOf(volume.volumeId);
      const { id } = cluster.image("rbd", image);
      looking.letGo();
      expect(await late).toMatchObject({ code: "ABORTED" });
      expect(cluster.image("rbd", image).id).toBe(id);
      expect(recordedId(cluster, uuidOf(volume.volumeId))).toBe(id);
      expect(read(cluster, image)).toEqual(data);
      expect((await second.createVolume(request(at))).volume.volumeId).toBe(volume.volumeId);
    });

    test(`A driver that goes on with ${what} takes it over: the one that began it completes nothing`, async () => {
      const at = await aSource();
      const { cluster, data } = at;
      const cloning = held(cephMemoryService(cluster), "imageClone");
      const begun = held(cephMemoryService(cluster), "imageClone");
      await using first = aDriver(cluster, { ceph: cloning.ceph, flags });
      await using second = aDriver(cluster, { ceph: begun.ceph, flags });
      const overtaken = failureOf(first.createVolume(request(at)));
      await eventually(() => cloning.waiting() === 1, "a clone about to be made");
      const answered = second.createVolume(request(at));
      await eventually(() => begun.waiting() === 1, "the second one's clone about to be made");
      begun.letGo();
      const { volume } = await answered;
      const image = imageOf(volume.volumeId);
      const { id } = cluster.image("rbd", image);
      cloning.letGo();
      expect(await overtaken).toMatchObject({ code: "ABORTED" });
      expect(recordedId(cluster, uuidOf(volume.volumeId))).toBe(id);
      expect(cluster.image("rbd", image).id).toBe(id);
      expect(read(cluster, image)).toEqual(data);
      const marks = poolDump(cluster).images[imageOf(at.volumeId)]?.snapshots.filter(({ kind }) => kind === "user");
      expect(marks).toEqual([]);
    });
  }

  test("A driver does not answer with a restore that another one makes again", async () => {
    const { cluster, snapshotId, data } = await aSource();
    const committing = held(cephMemoryService(cluster), "imageMetaSet", /csi-vol-/);
    await using first = aDriver(cluster, { ceph: committing.ceph });
    const late = failureOf(first.createVolume(restoreOf(snapshotId)));
    await eventually(() => committing.waiting() === 1, "a clone that was made and not recorded");
    const dying = dyingInClone(cluster, cephMemoryService(cluster));
    await using second = aDriver(cluster, { ceph: dying.ceph });
    void second.createVolume(restoreOf(snapshotId)).catch(() => {});
    await eventually(dying.dead, "a clone that is cut off");
    committing.letGo();
    expect(await late).toMatchObject({ code: "ABORTED" });
    await using third = aDriver(cluster);
    const { volume } = await third.createVolume(restoreOf(snapshotId));
    expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
    expect(recordedId(cluster, uuidOf(volume.volumeId))).toBe(cluster.image("rbd", imageOf(volume.volumeId)).id);
  });
});

describe("a point in time that another driver goes on with", () => {
  /** Two drivers: the first is about to clone, and the other held at `look`. */
  const both = async (look: "imageMend" | "omapWrite") => {
    const { cluster, volumeId, data } = await aSource();
    const cloning = held(cephMemoryService(cluster), "imageClone");
    const looking = held(cephMemoryService(cluster), look, /csi[-.]snap[-.]/);
    const one = aDriver(cluster, { ceph: cloning.ceph });
    const other = aDriver(cluster, { ceph: looking.ceph });
    const first = one.createSnapshot(snapshotOf(volumeId));
    await eventually(() => cloning.waiting() === 1, "a clone about to be made");
    const late = other.createSnapshot(snapshotOf(volumeId));
    await eventually(() => looking.waiting() === 1, "the other driver at its look");
    return { cluster, volumeId, data, one, other, first, late, cloning, looking };
  };

  test("It stays if it was answered before the other one took it over", async () => {
    const { cluster, volumeId, data, one, other, first, late, cloning, looking } = await both("omapWrite");
    await using _ = one;
    await using last = other;
    cloning.letGo();
    const { snapshot } = await first;
    cluster.image("rbd", imageOf(volumeId)).write(0n, MIB_4);
    looking.letGo();
    await late.catch(() => undefined);
    const ready = await readySnapshot(last, snapshotOf(volumeId));
    expect(ready.snapshotId).toBe(snapshot.snapshotId);
    expect(read(cluster, holderOf(ready.snapshotId))).toEqual(data);
  });

  test("It is not answered if the other one has taken it over, and may make it anew", async () => {
    const { cluster, volumeId, one, other, first, late, cloning, looking } = await both("imageMend");
    await using _ = one;
    await using last = other;
    cloning.letGo();
    expect(await failureOf(first)).toMatchObject({ code: "ABORTED" });
    looking.letGo();
    await late.catch(() => undefined);
    const ready = await readySnapshot(last, snapshotOf(volumeId));
    expect(read(cluster, holderOf(ready.snapshotId))).toEqual(read(cluster, imageOf(volumeId)));
    expect(Object.keys(poolDump(cluster).images).filter((image) => image.startsWith("csi-snap-"))).toHaveLength(2);
  });
});

describe("an image for which the journal has the ID of another one", () => {
  /** A restore that was answered as another image than the one that is there. */
  const replaced = async () => {
    const at = await aSource();
    objectsOf(at.cluster).get("csi.volumes.default")?.set("csi.volume.pvc-copy", UUID);
    seed(at.cluster, {
      [`csi.volume.${UUID}`]: { "csi.volname": "pvc-copy", "csi.imagename": V, "csi.imageid": "gone" },
    });
    await seedImage(at.cluster, V);
    return at;
  };

  test("A copy that was begun again and cut off is made again, and not answered empty", async () => {
    const { cluster, snapshotId, data } = await replaced();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(restoreOf(snapshotId));
    expect(uuidOf(volume.volumeId)).toBe(UUID);
    expect(read(cluster, V)).toEqual(data);
    expect(objectsOf(cluster).get(`csi.volume.${UUID}`)?.get("csi.imageid")).toBe(cluster.image("rbd", V).id);
    expect([...(objectsOf(cluster).get(`csi.volume.${UUID}`)?.keys() ?? [])]).not.toContain("csi-rbd.maker");
    await settled(cluster);
  });

  const kept: Readonly<Record<string, (cluster: MemoryCluster) => unknown>> = {
    "with data": (cluster) => cluster.image("rbd", V).write(0n, MIB_4),
    "that is mirrored": (cluster) => (cluster.image("rbd", V).mirror = "primary"),
  };
  for (const [which, prepare] of Object.entries(kept)) {
    test(`An image ${which} is the volume, as after a failover`, async () => {
      const { cluster, snapshotId } = await replaced();
      prepare(cluster);
      const before = poolDump(cluster);
      await using driver = aDriver(cluster);
      const { volume } = await driver.createVolume(restoreOf(snapshotId));
      expect(uuidOf(volume.volumeId)).toBe(UUID);
      expect(poolDump(cluster)).toEqual(before);
    });
  }
});

test("An answered point in time survives the failure of the driver that reserved it", async () => {
  const { cluster, volumeId, data } = await aSource();
  const inner = cephMemoryService(cluster);
  const full = new NoSpace({ op: "rbd_snap_create", subject: "rbd" });
  const failing = held(
    intercepted(inner, (call, act) => (call.method === "snapshotCreate" ? Effect.fail(full) : act)),
    "snapshotCreate",
  );
  const later = held(inner, "snapshotCreate", /csi-snap/);
  await using first = aDriver(cluster, { ceph: failing.ceph });
  await using second = aDriver(cluster, { ceph: later.ceph });
  const failed = failureOf(first.createSnapshot(snapshotOf(volumeId)));
  await eventually(() => failing.waiting() === 1, "a reservation, and a snapshot about to fail");
  const { snapshot } = await second.createSnapshot(snapshotOf(volumeId));
  cluster.image("rbd", imageOf(volumeId)).write(0n, MIB_4);
  failing.letGo();
  expect(await failed).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
  later.letGo();
  const ready = await readySnapshot(second, snapshotOf(volumeId));
  expect(ready.snapshotId).toBe(snapshot.snapshotId);
  expect(read(cluster, holderOf(ready.snapshotId))).toEqual(data);
});

test("A move to the trash that comes late leaves the image that was made anew under its name", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const { volume } = await driver.createVolume(creation());
  const image = imageOf(volume.volumeId);
  const late = held(cephMemoryService(cluster), "trashMove");
  await using slow = aDriver(cluster, { ceph: late.ceph });
  const deleted = slow.deleteVolume(deletion(volume.volumeId));
  await eventually(() => late.waiting() === 1, "the move to the trash");
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, image));
  const made = await seedImage(cluster, image);
  late.letGo();
  await deleted;
  await settled(cluster);
  expect(await Effect.runPromise(cephMemoryService(cluster).imageId(POOL, image))).toBe(made);
});
