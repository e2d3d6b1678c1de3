/**
 * ControllerListVolumeHealth and ControllerGetVolumeHealth: which faults they tell, that the volume condition of CSI 1.12
 * has the same words, and pages in which few names have an entry.
 */
import { describe, expect, test } from "bun:test";
import * as Redacted from "effect/Redacted";
import { VolumeHealthErrorType as Status } from "../../../lib/gen/csi_pb.ts";
import { encodeToken } from "../../../lib/listing/page-token.ts";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { imageOf } from "../../support/copies-world.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { ADMIN, aSnapshot, LISTING, seedVolumes, trashImage } from "../../support/listing-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { aCluster, codeOf, creation, deletion, EAST, failureOf, PARAMETERS, SECRETS } from "../../support/world.ts";

const aVolumeOf = async (driver: Driver, name: string, more: Record<string, string> = {}): Promise<string> =>
  (await driver.createVolume(creation({ name, parameters: { ...PARAMETERS, ...more } }))).volume.volumeId;

const setSpace = (cluster: MemoryCluster, pool: string, bytes: bigint | undefined): void => {
  const found = cluster.pools.get(pool);
  if (found === undefined) throw new Error(`no pool ${pool}`);
  found.maxAvailableBytes = bytes;
};

/** What both RPCs of 1.13 tell of a volume; after it, that the condition of 1.12 says the same. */
const toldOf = async (driver: Driver, volumeId: string) => {
  const { volumeHealth } = await driver.getHealth({ volumeId });
  expect(volumeHealth.volumeId).toBe(volumeId);
  const listed = (await driver.listHealth()).entries.find((entry) => entry.volumeId === volumeId);
  const condition = conditionOf((await driver.getVolume({ volumeId })).status);
  const [fault] = volumeHealth.healthStatuses;
  expect(condition?.abnormal).toBe(fault !== undefined);
  if (fault !== undefined) expect(condition?.message).toBe(fault.message);
  return { now: volumeHealth.healthStatuses, listed: listed?.healthStatuses };
};

describe("faults of a volume", () => {
  test("a healthy volume has an empty list of faults, and is left out of the list of unhealthy volumes", async () => {
    await using driver = aDriver(aCluster(), LISTING);
    const volumeId = await aVolumeOf(driver, "pvc-1");
    expect(await toldOf(driver, volumeId)).toEqual({ now: [], listed: undefined });
    expect(await driver.listHealth()).toEqual({ entries: [], nextToken: "" });
  });

  test("a volume whose image is in the trash is inaccessible, and one whose image is gone has lost its data", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const volumeId = await aVolumeOf(driver, "pvc-1");
    const id = trashImage(cluster, imageOf(volumeId));
    const message = expect.stringContaining(`rbd trash restore --pool rbd ${id}`);
    const trashed = [{ status: Status.INACCESSIBLE, reason: "ImageInTrash", message }];
    expect(await toldOf(driver, volumeId)).toEqual({ now: trashed, listed: trashed });
    cluster.namespace("rbd", "")?.trash.clear();
    const gone = [
      { status: Status.DATA_LOSS, reason: "ImageGone", message: expect.stringContaining("it is not in the trash") },
    ];
    expect(await toldOf(driver, volumeId)).toEqual({ now: gone, listed: gone });
    await driver.deleteVolume(deletion(volumeId));
    expect(await codeOf(driver.getHealth({ volumeId }))).toBe("NOT_FOUND");
    expect((await driver.listHealth()).entries).toEqual([]);
  });

  test("a volume whose pool is full is degraded, and only ControllerGetVolumeHealth tells of its data pool", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const volumeId = await aVolumeOf(driver, "pvc-1", { dataPool: "ec" });
    const full = (pool: string) => [
      { status: Status.DEGRADED, reason: "PoolFull", message: expect.stringContaining(`pool ${pool} is full`) },
    ];
    setSpace(cluster, "rbd", 0n);
    expect(await toldOf(driver, volumeId)).toEqual({ now: full("rbd"), listed: full("rbd") });
    setSpace(cluster, "rbd", 1n << 40n);
    setSpace(cluster, "ec", 0n);
    expect(await toldOf(driver, volumeId)).toEqual({ now: full("ec"), listed: undefined });
  });

  test("a volume whose pool is new is healthy while nobody knows the pool's space", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const volumeId = await aVolumeOf(driver, "pvc-1");
    setSpace(cluster, "rbd", undefined);
    expect(await toldOf(driver, volumeId)).toEqual({ now: [], listed: undefined });
  });

  test("only ControllerGetVolumeHealth tells that an image is a mirror, or that its parent is lost", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const source = await aVolumeOf(driver, "pvc-1");
    const snapshotId = await aSnapshot(driver, "snap-1", source);
    const volumeContentSource = { type: { case: "snapshot" as const, value: { snapshotId } } };
    const { volume } = await driver.createVolume(creation({ name: "pvc-2", volumeContentSource }));
    cluster.image("rbd", imageOf(source)).mirror = "non-primary";
    expect(await toldOf(driver, source)).toEqual({
      now: [
        { status: Status.INACCESSIBLE, reason: "MirrorNotPrimary", message: expect.stringContaining("Promote it") },
      ],
      listed: undefined,
    });
    const { parent } = cluster.image("rbd", imageOf(volume.volumeId));
    if (parent === undefined) throw new Error("no parent");
    parent.gone = true;
    expect(await toldOf(driver, volume.volumeId)).toEqual({
      now: [{ status: Status.INACCESSIBLE, reason: "ParentLost", message: expect.stringContaining("parent image") }],
      listed: undefined,
    });
  });

  test("a volume in a pool that the cluster no longer has has lost its data", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, LISTING);
    const uuid = "b0285c97-a0ce-41eb-8c66-0242ac110002";
    const objects = cluster.namespace("rbd", "")?.objects;
    objects?.set("csi.volumes.default", new Map([["csi.volume.y", `000000000000000f/${uuid}`]]));
    const entry = { "csi.volname": "y", "csi.imagename": `csi-vol-${uuid}`, "csi.imageid": "1" };
    objects?.set(`csi.volume.${uuid}`, new Map(Object.entries(entry)));
    const { entries } = await driver.listHealth();
    expect(entries.map(({ healthStatuses }) => healthStatuses)).toEqual([
      [
        {
          status: Status.DATA_LOSS,
          reason: "PoolGone",
          message: "the cluster has no pool with id 15 any more",
        },
      ],
    ]);
  });
});

describe("pages of unhealthy volumes", () => {
  const pagesOf = async (driver: Driver, maxEntries: number) => {
    const pages: string[][] = [];
    for (let startingToken = ""; ; ) {
      const { entries, nextToken } = await driver.listHealth({ maxEntries, startingToken });
      pages.push(entries.map(({ volumeId }) => volumeId.slice(-36)));
      if (nextToken === "") return pages;
      startingToken = nextToken;
    }
  };

  test("pages of any size list each unhealthy volume once, in the order of the names", async () => {
    const cluster = aCluster();
    const made = await seedVolumes(cluster, 200);
    const sick = made.filter((_, i) => i % 7 === 3);
    for (const uuid of sick) cluster.namespace("rbd", "")?.images.delete(`csi-vol-${uuid}`);
    await using driver = aDriver(cluster, LISTING);
    for (const size of [0, 1, 2, 5, sick.length, 1000]) {
      const pages = await pagesOf(driver, size);
      expect(pages.flat()).toEqual(sick);
      if (size > 0) for (const page of pages) expect(page.length).toBeLessThanOrEqual(size);
    }
    expect((await pagesOf(driver, 5)).slice(0, -1).every((page) => page.length === 5)).toBe(true);
  });

  test("a page looks at 1,000 names at most, and a page without an entry leads to the next one", async () => {
    const cluster = aCluster();
    const made = await seedVolumes(cluster, 2500);
    const last = made.at(-1) ?? "";
    cluster.namespace("rbd", "")?.images.delete(`csi-vol-${last}`);
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ...LISTING, ceph: service });
    const first = await driver.listHealth({ maxEntries: 10 });
    expect(first.entries).toEqual([]);
    expect(first.nextToken).not.toBe("");
    expect(calls().map(({ method }) => method)).toEqual(["pools", "omapList", "imageBriefs", "poolSpace"]);
    forget();
    expect(await pagesOf(driver, 10)).toEqual([[], [], [last]]);
  }, 30_000);

  test("a token of another list is refused with ABORTED, and a negative size with INVALID_ARGUMENT", async () => {
    await using driver = aDriver(aCluster(), LISTING);
    const position = { clusterId: "east", poolId: 2n, requestName: "pvc-000001" };
    expect(await codeOf(driver.listHealth({ startingToken: encodeToken("volume health", position) }))).toBe("OK");
    for (const startingToken of ["1", "h1", encodeToken("volumes", position), encodeToken("snapshots", position)]) {
      expect(await codeOf(driver.listHealth({ startingToken }))).toBe("ABORTED");
    }
    expect(await codeOf(driver.listVolumes({ startingToken: encodeToken("volume health", position) }))).toBe("ABORTED");
    expect(await codeOf(driver.listHealth({ maxEntries: -1 }))).toBe("INVALID_ARGUMENT");
  });
});

describe("credentials", () => {
  test("the request's secrets serve where the administrator has given none", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { secrets: {} });
    const volumeId = await aVolumeOf(driver, "pvc-1");
    trashImage(cluster, imageOf(volumeId));
    for (const request of [driver.listHealth(), driver.getHealth({ volumeId })]) {
      expect((await failureOf(request))?.code).toBe("FAILED_PRECONDITION");
    }
    expect((await driver.listHealth({ secrets: SECRETS })).entries.map((entry) => entry.volumeId)).toEqual([volumeId]);
    const { volumeHealth } = await driver.getHealth({ volumeId, secrets: SECRETS });
    expect(volumeHealth.healthStatuses).toHaveLength(1);
  });

  test("one cluster without credentials fails the whole list, because what a list lacks counts as healthy", async () => {
    const west = { ...EAST, clusterId: "west", radosNamespace: "w" };
    await using driver = aDriver(aCluster(), { clusters: [EAST, west], secrets: { east: ADMIN } });
    expect(await codeOf(driver.listHealth())).toBe("FAILED_PRECONDITION");
  });

  test("secrets that are wrong are refused before any cluster is asked, and are in no message", async () => {
    await using driver = aDriver(aCluster(), LISTING);
    for (const call of [
      driver.listHealth({ secrets: { userID: "admin" } }),
      driver.getHealth({ volumeId: "x", secrets: { userID: "admin" } }),
    ]) {
      expect((await failureOf(call))?.code).toBe("INVALID_ARGUMENT");
    }
    expect(JSON.stringify(driver.log)).not.toContain(Redacted.value(ADMIN.credentials.key));
    expect(await codeOf(driver.getHealth({ volumeId: "" }))).toBe("INVALID_ARGUMENT");
  });
});
