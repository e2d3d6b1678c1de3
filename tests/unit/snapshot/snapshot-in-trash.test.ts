/** The snapshot that goes to the trash with its image: who removes it, when, and what does not wait for that. */
import { describe, expect, test } from "bun:test";
import { TimedOut } from "../../../lib/ceph/errors.ts";
import { failAt, failingOnce, held, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  EMPTY_DIRECTORIES,
  holderOf,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, creation, deletion, eventually, failureOf, PARAMETERS, poolDump } from "../../support/world.ts";

const EMPTY = { objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} };

/** A cluster with a volume and so many snapshots of it that are ready -> IDs. */
const made = async (cluster: MemoryCluster, count = 1, parameters: Readonly<Record<string, string>> = {}) => {
  await using driver = aDriver(cluster);
  const volumeId = await aVolume(driver, cluster);
  const snapshots: string[] = [];
  for (let n = 0; n < count; n++) {
    const request = snapshotOf(volumeId, { name: `snap-${n}`, parameters: { ...PARAMETERS, ...parameters } });
    snapshots.push((await readySnapshot(driver, request)).snapshotId);
  }
  return { volumeId, snapshots, snapshotId: snapshots[0] ?? "" };
};

/** The monitors answer no removal of a snapshot in the trash before `letGo`. */
const slowMonitors = (cluster: MemoryCluster) => held(cephMemoryService(cluster), "trashSnapshotRemove");

const trashOf = (cluster: MemoryCluster) =>
  Object.values(poolDump(cluster).trash).map(({ name, snapshots }) => [name, snapshots.map((each) => each.name)]);

const methodsOf = (calls: readonly { readonly method: string }[]) => calls.map(({ method }) => method);

describe("the answer", () => {
  test("DeleteSnapshot does not wait for the monitors: the snapshot goes to the trash with its image", async () => {
    const cluster = aCluster();
    const { volumeId, snapshotId } = await made(cluster);
    const { ceph, letGo, waiting } = slowMonitors(cluster);
    await using driver = aDriver(cluster, { ceph });
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    expect(trashOf(cluster)).toEqual([[holderOf(snapshotId), [holderOf(snapshotId)]]]);
    expect(poolDump(cluster).objects["csi.snaps.default"]).toEqual({});
    await eventually(() => waiting() === 1, "the removal of the snapshot");
    letGo();
    await eventually(() => trashOf(cluster).length === 0, "an empty trash");
    await driver.deleteVolume(deletion(volumeId));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(EMPTY);
  });

  test("a snapshot with a restore goes to the trash of snapshots before its image is moved", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    await driver.createVolume(restoreOf(snapshotId, { name: "pvc-a" }));
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    const methods = methodsOf(calls());
    expect(methods.indexOf("snapshotKeep")).toBeLessThan(methods.indexOf("trashMove"));
    expect(Object.values(poolDump(cluster).trash)).toMatchObject([{ snapshots: [{ kind: "trash" }] }]);
    expect(methods).not.toContain("trashSnapshotRemove");
  });

  test("the snapshot is removed before the image is moved with --rbdtrashmaxdelay, so that an administrator can purge it", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster);
    await using driver = aDriver(cluster, { flags: { rbdtrashmaxdelay: "24h" } });
    await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    expect(trashOf(cluster)).toEqual([[holderOf(snapshotId), []]]);
  });
});

describe("behind the answer", () => {
  test("removals that wait for the monitors hold up no other image", async () => {
    const cluster = aCluster();
    const { snapshots } = await made(cluster, 8);
    const { ceph, letGo, waiting } = slowMonitors(cluster);
    await using driver = aDriver(cluster, { ceph });
    const { volume } = await driver.createVolume(creation({ name: "pvc-other" }));
    for (const snapshotId of snapshots) await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    await driver.deleteVolume(deletion(volume.volumeId));
    await eventually(() => waiting() === 8 && trashOf(cluster).length === 8, "all wait, and the volume is gone");
    letGo();
    await eventually(() => trashOf(cluster).length === 0, "an empty trash");
  });

  test("a removal that fails is tried again, and the image goes after it", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster);
    const time = virtualTime();
    const ceph = failingOnce(cephMemoryService(cluster), "trashSnapshotRemove", /./);
    await using driver = aDriver(cluster, { ceph, time });
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("30 seconds");
    expect(trashOf(cluster)).toEqual([[holderOf(snapshotId), [holderOf(snapshotId)]]]);
    await time.pass("10 seconds");
    expect(trashOf(cluster)).toEqual([]);
  });

  test("the manager gets an image with a name prefix of its own once the snapshot is gone", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster, 1, { snapshotNamePrefix: "mine-" });
    const time = virtualTime();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service, time });
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("6 seconds");
    await settled(cluster);
    expect(trashOf(cluster)).toEqual([]);
    expect(methodsOf(calls()).slice(-2)).toEqual(["trashSnapshotRemove", "managerTrashRemove"]);
  });

  test("the driver removes such an image itself where there is no manager", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster, 1, { snapshotNamePrefix: "mine-" });
    cluster.managerUp = false;
    const time = virtualTime();
    const ceph = failingOnce(cephMemoryService(cluster), "trashSnapshotRemove", /./);
    await using driver = aDriver(cluster, { ceph, time });
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("6 seconds");
    expect(trashOf(cluster)).toEqual([]);
  });

  test("an image waits for its clones that go in a moment, and then follows them", async () => {
    const cluster = aCluster();
    const { volumeId, snapshotId } = await made(cluster);
    cluster.managerUp = false;
    const time = virtualTime();
    const { ceph, letGo } = slowMonitors(cluster);
    const { service, calls } = recorded(ceph);
    await using driver = aDriver(cluster, { ceph: service, time });
    await time.until(driver.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.until(driver.deleteVolume(deletion(volumeId)));
    await time.pass("1 second");
    expect(trashOf(cluster)).toHaveLength(2);
    letGo();
    await time.pass("1 second");
    expect(trashOf(cluster)).toEqual([]);
    expect(methodsOf(calls())).not.toContain("managerTrashRemove");
  });
});

describe("a driver that ends before the snapshot is gone", () => {
  test("leaves both to the next one, and gives the manager nothing that it cannot remove", async () => {
    const cluster = aCluster();
    const { snapshotId } = await made(cluster);
    cluster.managerHeld = true;
    {
      await using driver = aDriver(cluster, { ceph: slowMonitors(cluster).ceph });
      await driver.deleteSnapshot(snapshotDeletion(snapshotId));
    }
    expect(cluster.queued()).toEqual([]);
    expect(trashOf(cluster)).toHaveLength(1);
    const time = virtualTime();
    await using next = aDriver(cluster, { time });
    await time.until(next.createVolume(creation({ name: "pvc-next" })));
    await time.until(next.deleteSnapshot(snapshotDeletion(snapshotId)));
    await time.pass("40 seconds");
    expect(trashOf(cluster)).toEqual([]);
  });

  test("lets the retry of DeleteSnapshot remove both, at whichever call it died", async () => {
    let deaths = 0;
    for (let at = 1; ; at++) {
      const cluster = aCluster();
      const { volumeId, snapshotId } = await made(cluster);
      const failure = new TimedOut({ op: "a_call", subject: "rbd" });
      const { service, calls } = recorded(failAt(cephMemoryService(cluster), at, failure, "before"));
      {
        await using dying = aDriver(cluster, { ceph: service });
        await failureOf(dying.deleteSnapshot(snapshotDeletion(snapshotId)));
      }
      if (calls().length < at) break;
      deaths += 1;
      const time = virtualTime();
      await using next = aDriver(cluster, { time });
      await time.until(next.deleteSnapshot(snapshotDeletion(snapshotId)));
      await time.until(next.deleteVolume(deletion(volumeId)));
      await time.pass("50 seconds");
      // the source was given to the manager while the image that was found held it
      await settled(cluster);
      expect([at, poolDump(cluster)]).toEqual([at, EMPTY]);
    }
    expect(deaths).toBeGreaterThan(5);
  });
});
