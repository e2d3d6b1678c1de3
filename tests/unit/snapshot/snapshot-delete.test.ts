/** DeleteSnapshot over a cluster in memory: what goes, what stays for those who were made of it, what is left alone. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { AccessDenied, TimedOut } from "../../../lib/ceph/errors.ts";
import { failAt, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  EMPTY_DIRECTORIES,
  holderOf,
  imageOf,
  POOL,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import { aCluster, codeOf, deletion, eventually, failureOf, poolDump, seed } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const GONE = "0001-0004-east-0000000000000002-b0285c97-a0ce-41eb-8c66-0242ac110002";

/** A snapshot whose image is not made yet, as it is on its source and in the journal -> the image's name. */
const unreadySnapshot = async (cluster: MemoryCluster, source: string): Promise<string> => {
  const uuid = "b0285c97-a0ce-41eb-8c66-0242ac110002";
  const holder = `csi-snap-${uuid}`;
  const attributes = { "csi.snapname": "snap-1", "csi.imagename": holder, "csi.source": source };
  seed(cluster, { "csi.snaps.default": { "csi.snap.snap-1": uuid }, [`csi.snap.${uuid}`]: attributes });
  await byHand(cluster).snapshot(source, holder);
  return holder;
};

describe("deletion of a snapshot", () => {
  test("DeleteSnapshot removes all that belongs to the snapshot, and leaves the source as it was", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const before = poolDump(cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    await settled(cluster);
    const after = poolDump(cluster);
    expect(after).toEqual({ ...before, objects: { ...before.objects, "csi.snaps.default": {} } });
    // Again, as a CO does that got no answer.
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    expect(poolDump(cluster)).toEqual(after);
  });

  test("DeleteSnapshot frees the name for another snapshot", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const first = await readySnapshot(driver, snapshotOf(id));
    await driver.deleteSnapshot(snapshotDeletion(first.snapshotId));
    const second = await readySnapshot(driver, snapshotOf(id));
    expect(second.snapshotId).not.toBe(first.snapshotId);
  });

  test("DeleteSnapshot removes a snapshot whose source is gone", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    await driver.deleteVolume(deletion(id));
    expect(Object.keys(poolDump(cluster).images)).toEqual([holderOf(snapshotId)]);
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual({ objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} });
  });

  test("DeleteSnapshot removes a snapshot with restores: they keep their data, and the last of them frees its space", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const data = read(cluster, imageOf(id));
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const restored = await Promise.all(
      ["pvc-a", "pvc-b"].map(
        async (name) => (await driver.createVolume(restoreOf(snapshotId, { name }))).volume.volumeId,
      ),
    );
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    await driver.deleteVolume(deletion(id));
    cluster.runManager();
    expect(Object.values(poolDump(cluster).trash).map(({ name }) => name)).toContain(holderOf(snapshotId));
    for (const each of restored) expect(read(cluster, imageOf(each))).toEqual(data);
    for (const each of restored) await driver.deleteVolume(deletion(each));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual({ objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} });
  });

  test("DeleteSnapshot removes a snapshot that is not ready yet, and what it left on its source", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const holder = await unreadySnapshot(cluster, imageOf(id));
    await byHand(cluster).clone(imageOf(id), holder, holder);
    await driver.deleteSnapshot(snapshotDeletion(GONE));
    await settled(cluster);
    expect(snapshotsOf(cluster, imageOf(id))).toEqual([]);
    expect(poolDump(cluster).objects["csi.snaps.default"]).toEqual({});
    expect(Object.keys(poolDump(cluster).images)).toEqual([imageOf(id)]);
  });

  test("DeleteSnapshot removes what a snapshot that is not ready has left on its source that ceph-csi has moved to the trash, and on no other image of that name", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    await unreadySnapshot(cluster, imageOf(id));
    const imageId = cluster.image("rbd", imageOf(id)).id;
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, imageOf(id)));
    await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, imageId));
    await driver.deleteSnapshot(snapshotDeletion(GONE));
    expect(cluster.namespace("rbd", "")?.trash.get(imageId)?.image.snapshots).toEqual([]);
    cluster.runManager();
    expect(poolDump(cluster).trash).toEqual({});
    expect(poolDump(cluster).objects["csi.snaps.default"]).toEqual({});
  });

  test("DeleteSnapshot of an image that the manager flattens says so, and nobody is told to fence it", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const holder = holderOf(snapshotId);
    cluster.managerHeld = true;
    cluster.queueTask("flatten", "rbd", "", holder);
    cluster.setProgress(holder, 0.4);
    const close = cluster.watch("rbd", holder);
    const failure = await failureOf(time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId))));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION" });
    expect(failure?.message).toContain("is being flattened by the Ceph manager (40 % done)");
    expect(failure?.message).not.toContain("blocklist");
    close();
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
  });

  test("DeleteSnapshot keeps a snapshot that a client has open", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    const before = cluster.dump();
    const close = cluster.watch("rbd", holderOf(snapshotId));
    const failure = await failureOf(time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId))));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("in use by") });
    expect(cluster.dump()).toEqual(before);
    close();
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
  });

  test("DeleteSnapshot purges the snapshot's image from the trash by its name, and keeps an image of that name that others put there", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const id = await time.until(aVolume(driver, cluster));
    const { snapshotId } = await time.until(readySnapshot(driver, snapshotOf(id)));
    const holder = holderOf(snapshotId);
    await byHand(cluster).dropSnapshot(holder, holder);
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, holder));
    const trash = cluster.namespace("rbd", "")?.trash;
    const mine = [...(trash?.values() ?? [])].find(({ name }) => name === holder);
    if (mine === undefined) throw new Error("not in the trash");
    trash?.set("00000000aaaa", { ...mine, source: "mirroring" });
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("35 seconds");
    expect(Object.keys(poolDump(cluster).trash)).toEqual(["00000000aaaa"]);
  });
});

describe("IDs that name no snapshot", () => {
  for (const [what, snapshotId] of [
    ["an unknown ID", GONE],
    ["a text that is not an ID", "snap-1"],
    ["an ID of a pool that is gone", GONE.replace("0000000000000002", "0000000000000063")],
    ["an ID whose length field exceeds the text", `0001-ffff-east-0000000000000002-${GONE.slice(-36)}`],
  ] as const) {
    test(`DeleteSnapshot succeeds and changes nothing for ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const before = cluster.dump();
      expect(await codeOf(driver.deleteSnapshot(snapshotDeletion(snapshotId)))).toBe("OK");
      expect(cluster.dump()).toEqual(before);
    });
  }

  test("DeleteSnapshot of a volume's ID deletes no volume", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const before = cluster.dump();
    expect(await codeOf(driver.deleteSnapshot(snapshotDeletion(id)))).toBe("OK");
    expect(cluster.dump()).toEqual(before);
  });
});

describe("calls that can't tell whether the snapshot exists", () => {
  test("DeleteSnapshot fails with an empty ID, no secret, or a cluster that is not configured", async () => {
    await using driver = aDriver(aCluster());
    expect(await codeOf(driver.deleteSnapshot(snapshotDeletion("")))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.deleteSnapshot(snapshotDeletion(GONE, { secrets: {} })))).toBe("INVALID_ARGUMENT");
    const elsewhere = GONE.replace("0004-east", "0004-west");
    expect(await codeOf(driver.deleteSnapshot(snapshotDeletion(elsewhere)))).not.toBe("OK");
  });

  test("DeleteSnapshot fails and changes nothing when the cluster does not answer, or denies access", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    for (const [error, code] of [
      [new TimedOut({ op: "a_call", subject: "rbd" }), "DEADLINE_EXCEEDED"],
      [new AccessDenied({ op: "a_call", subject: "rbd", user: "x" }), "PERMISSION_DENIED"],
    ] as const) {
      const before = cluster.dump();
      await using faulty = aDriver(cluster, { ceph: failAt(cephMemoryService(cluster), 2, error, "before") });
      expect(await codeOf(faulty.deleteSnapshot(snapshotDeletion(snapshotId)))).toBe(code);
      expect(cluster.dump()).toEqual(before);
    }
  });
});

test("DeleteSnapshot frees the name only after the image is in the trash", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const id = await aVolume(making, cluster);
  const { snapshotId } = await readySnapshot(making, snapshotOf(id));
  const order: string[] = [];
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    order.push(call.method);
    return act;
  });
  await using driver = aDriver(cluster, { ceph });
  await driver.deleteSnapshot(snapshotDeletion(snapshotId));
  expect(order.indexOf("trashMove")).toBeLessThan(order.indexOf("omapWrite"));
  expect(order.indexOf("omapWrite")).toBeLessThan(order.indexOf("objectRemove"));
});

describe("deletion without a manager", () => {
  test("DeleteSnapshot and DeleteVolume answer at once without a manager, and the driver removes the images itself, later", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
    cluster.managerUp = false;
    const { promise, resolve: letGo } = Promise.withResolvers<void>();
    const slow = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashRemove"
        ? Effect.andThen(
            Effect.promise(() => promise),
            act,
          )
        : act,
    );
    await using alone = aDriver(cluster, { ceph: slow });
    await alone.deleteSnapshot(snapshotDeletion(snapshotId));
    await alone.deleteVolume(deletion(id));
    expect(poolDump(cluster).objects).toEqual(EMPTY_DIRECTORIES);
    expect(poolDump(cluster).images).toEqual({});
    expect((await alone.purge()).pending()).toHaveLength(2);
    letGo();
    await eventually(() => Object.keys(poolDump(cluster).trash).length === 0, "an empty trash");
  });
});
