/** ListSnapshots and GetSnapshot: every filter, pages, what is no snapshot (yet), and whose credentials count. */
import { describe, expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, MEMORY_KEY } from "../../support/ceph-memory/memory.ts";
import { encodeToken } from "../../../lib/listing/page-token.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { ADMIN, aSnapshot, LISTING } from "../../support/listing-world.ts";
import { aCluster, codeOf, creation, deletion, EAST, PARAMETERS, SECRETS, seed, uuidOf } from "../../support/world.ts";
import { snapshotDeletion } from "../../support/copies-world.ts";

const START = Date.UTC(2026, 10, 21, 9, 0, 0, 250);

/** Two volumes with two snapshots each, in two pools, and one snapshot more of the first. */
const stage = async () => {
  const cluster = aCluster({ now: () => START });
  const lister = aDriver(cluster, LISTING);
  const volumes: string[] = [];
  for (const [name, pool] of [
    ["one", "rbd"],
    ["two", "ssd"],
  ] as const) {
    const { volume } = await lister.createVolume(creation({ name, parameters: { ...PARAMETERS, pool } }));
    volumes.push(volume.volumeId);
  }
  const [one = "", two = ""] = volumes;
  const snapshots: [string, string][] = [];
  for (const [name, of] of [
    ["a", one],
    ["b", one],
    ["c", two],
    ["d", two],
    ["e", one],
  ] as const) {
    snapshots.push([await aSnapshot(lister, name, of), of]);
  }
  return { cluster, lister, one, two, snapshots, [Symbol.asyncDispose]: () => lister[Symbol.asyncDispose]() };
};

const idsOf = async (lister: Driver, init: Parameters<Driver["listSnapshots"]>[0] = {}) =>
  (await lister.listSnapshots(init)).entries.map(({ snapshot }) => snapshot.snapshotId);

describe("ListSnapshots", () => {
  test("ListSnapshots lists all snapshots with size, source, age and readiness, in the order of pools and names", async () => {
    await using world = await stage();
    const { lister, snapshots, one, two } = world;
    const [a, b, c, d, e] = snapshots.map(([id]) => id);
    const { entries, nextToken } = await lister.listSnapshots();
    expect(nextToken).toBe("");
    const creationTime = { seconds: BigInt(START) / 1000n, nanos: 250_000_000 };
    const expected = (snapshotId: string | undefined, sourceVolumeId: string) => ({
      snapshot: {
        snapshotId: snapshotId ?? "",
        sourceVolumeId,
        sizeBytes: 1n << 30n,
        creationTime,
        readyToUse: true,
      },
    });
    expect(entries).toEqual([expected(a, one), expected(b, one), expected(e, one), expected(c, two), expected(d, two)]);
    for (const { snapshot } of entries)
      expect(await lister.getSnapshot({ snapshotId: snapshot.snapshotId })).toEqual({ snapshot });
  });

  test("ListSnapshots of one volume looks at many names at once, so that a small page costs a few calls", async () => {
    const cluster = aCluster();
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using lister = aDriver(cluster, { ...LISTING, ceph: service });
    const [one, other] = [
      (await lister.createVolume(creation({ name: "one" }))).volume.volumeId,
      (await lister.createVolume(creation({ name: "other" }))).volume.volumeId,
    ];
    for (let i = 10; i < 40; i++) await aSnapshot(lister, `a-${i}`, other);
    const [first, second] = [await aSnapshot(lister, "b-1", one), await aSnapshot(lister, "b-2", one)];
    forget();
    const page = await lister.listSnapshots({ sourceVolumeId: one, maxEntries: 1 });
    expect(page.entries.map(({ snapshot }) => snapshot.snapshotId)).toEqual([first]);
    expect(calls().map(({ method }) => method)).toEqual(["pools", "omapList", "omapGetMany", "imageBriefs"]);
    const request = { sourceVolumeId: one, maxEntries: 1, startingToken: page.nextToken };
    expect(await idsOf(lister, request)).toEqual([second]);
  });

  test("ListSnapshots lists snapshots in pages of any size", async () => {
    await using world = await stage();
    const whole = await idsOf(world.lister);
    for (const maxEntries of [1, 2, 3, 4, 5, 6]) {
      const found: string[] = [];
      for (let startingToken = ""; ; ) {
        const { entries, nextToken } = await world.lister.listSnapshots({ maxEntries, startingToken });
        expect(entries.length).toBe(Math.min(maxEntries, 5 - found.length));
        found.push(...entries.map(({ snapshot }) => snapshot.snapshotId));
        if (nextToken === "") break;
        startingToken = nextToken;
      }
      expect(found).toEqual(whole);
    }
    expect(await codeOf(world.lister.listSnapshots({ maxEntries: -1 }))).toBe("INVALID_ARGUMENT");
    const ofVolumes = encodeToken("volumes", { clusterId: "east", poolId: 2n, requestName: "a" });
    for (const startingToken of ["1", ofVolumes]) {
      expect(await codeOf(world.lister.listSnapshots({ startingToken }))).toBe("ABORTED");
    }
  });

  test("ListSnapshots of a volume lists only that volume's snapshots, in pages too, and also when the volume is gone", async () => {
    await using world = await stage();
    const { lister, snapshots, one, two } = world;
    const idsFor = (volume: string) => snapshots.filter(([, of]) => of === volume).map(([id]) => id);
    expect(await idsOf(lister, { sourceVolumeId: one })).toEqual(idsFor(one));
    expect(await idsOf(lister, { sourceVolumeId: two })).toEqual(idsFor(two));
    const first = await lister.listSnapshots({ sourceVolumeId: one, maxEntries: 2 });
    expect(first.entries).toHaveLength(2);
    const { nextToken: startingToken } = first;
    expect(await idsOf(lister, { sourceVolumeId: one, maxEntries: 2, startingToken })).toEqual(idsFor(one).slice(2));
    await lister.deleteVolume(deletion(two));
    expect(await idsOf(lister, { sourceVolumeId: two })).toEqual(idsFor(two));
    expect(await idsOf(lister, { sourceVolumeId: two.replace(uuidOf(two), crypto.randomUUID()) })).toEqual([]);
    expect(await idsOf(lister, { sourceVolumeId: "none-exist-volume" })).toEqual([]);
  });

  test("ListSnapshots of an ID lists that snapshot or none, and with a volume only when both match", async () => {
    await using world = await stage();
    const { lister, snapshots, one, two } = world;
    const [a = ""] = snapshots.map(([id]) => id);
    expect(await idsOf(lister, { snapshotId: a })).toEqual([a]);
    expect(await idsOf(lister, { snapshotId: a, sourceVolumeId: one })).toEqual([a]);
    expect(await idsOf(lister, { snapshotId: a, sourceVolumeId: two })).toEqual([]);
    expect(await idsOf(lister, { snapshotId: a.replace(uuidOf(a), crypto.randomUUID()) })).toEqual([]);
    for (const snapshotId of ["none-exist-id", one]) expect(await idsOf(lister, { snapshotId })).toEqual([]);
    await lister.deleteSnapshot(snapshotDeletion(a));
    expect(await idsOf(lister, { snapshotId: a })).toEqual([]);
    expect(await idsOf(lister)).toHaveLength(4);
  });

  test("ListSnapshots omits begun and half-deleted snapshots, and tells which snapshots are not ready", async () => {
    await using world = await stage();
    const { cluster, lister, snapshots, one } = world;
    const begun = "b0285c97-a0ce-41eb-8c66-0242ac110002";
    const directory = cluster.namespace("rbd", "")?.objects.get("csi.snaps.default");
    directory?.set("csi.snap.begun", begun);
    const source = `csi-vol-${uuidOf(one)}`;
    seed(cluster, { [`csi.snap.${begun}`]: { "csi.snapname": "begun", "csi.source": source } });
    expect(await idsOf(lister)).toHaveLength(5);
    const [a = "", b = ""] = snapshots.map(([id]) => id);
    expect(await codeOf(lister.getSnapshot({ snapshotId: a.replace(uuidOf(a), begun) }))).toBe("NOT_FOUND");
    cluster
      .namespace("rbd", "")
      ?.objects.get(`csi.snap.${uuidOf(a)}`)
      ?.delete("csi.imageid");
    expect((await lister.getSnapshot({ snapshotId: a })).snapshot.readyToUse).toBe(false);
    const listed = (await lister.listSnapshots()).entries.map(({ snapshot }) => snapshot);
    expect(listed.find(({ snapshotId }) => snapshotId === a)?.readyToUse).toBe(false);
    cluster.namespace("rbd", "")?.images.delete(`csi-snap-${uuidOf(b)}`);
    expect(await codeOf(lister.getSnapshot({ snapshotId: b }))).toBe("NOT_FOUND");
    expect(await idsOf(lister)).not.toContain(b);
  });

  test("ListSnapshots and GetSnapshot open no image", async () => {
    await using world = await stage();
    const { service, calls } = recorded(cephMemoryService(world.cluster));
    await using lister = aDriver(world.cluster, { ...LISTING, ceph: service });
    expect(await idsOf(lister)).toHaveLength(5);
    await lister.getSnapshot({ snapshotId: world.snapshots[0]?.[0] ?? "" });
    const used = new Set(calls().map(({ method }) => method));
    expect([...used].toSorted()).toEqual(["imageBriefs", "omapGet", "omapGetMany", "omapList", "poolName", "pools"]);
  });
});

describe("credentials of snapshot lists", () => {
  test("ListSnapshots and GetSnapshot use the request's credentials where the administrator gives none, and fail without either", async () => {
    await using world = await stage();
    await using bare = aDriver(world.cluster, { secrets: {} });
    const [a = ""] = world.snapshots.map(([id]) => id);
    for (const init of [{}, { snapshotId: a }, { sourceVolumeId: world.one }]) {
      expect((await idsOf(bare, { ...init, secrets: SECRETS })).length).toBeGreaterThan(0);
      expect(await codeOf(bare.listSnapshots(init))).toBe("FAILED_PRECONDITION");
    }
    expect((await bare.getSnapshot({ snapshotId: a, secrets: SECRETS })).snapshot.snapshotId).toBe(a);
    expect(await codeOf(bare.getSnapshot({ snapshotId: a }))).toBe("FAILED_PRECONDITION");
    expect(await codeOf(bare.getSnapshot({ snapshotId: a, secrets: { userID: "admin" } }))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(bare.getSnapshot({ snapshotId: a, secrets: { userID: "admin", userKey: "d3Jvbmc=" } }))).toBe(
      "PERMISSION_DENIED",
    );
    expect(await codeOf(bare.getSnapshot({ snapshotId: "" }))).toBe("INVALID_ARGUMENT");
  });

  test("ListSnapshots uses the request's credentials only for clusters without a secret file", async () => {
    const users = { admin: { key: MEMORY_KEY, manager: true }, other: { key: "b3RoZXI=", manager: true } };
    const cluster = aCluster({ users });
    const west = { ...EAST, clusterId: "west", radosNamespace: "w" };
    const clusters = [EAST, west];
    await using maker = aDriver(cluster, { clusters });
    for (const clusterID of ["east", "west"]) {
      const { volume } = await maker.createVolume(
        creation({ name: clusterID, parameters: { ...PARAMETERS, clusterID } }),
      );
      await aSnapshot(maker, `of-${clusterID}`, volume.volumeId);
    }
    await using lister = aDriver(cluster, { clusters, secrets: { east: ADMIN } });
    expect(await idsOf(lister, { secrets: { userID: "other", userKey: "b3RoZXI=" } })).toHaveLength(2);
    expect(await codeOf(lister.listSnapshots())).toBe("FAILED_PRECONDITION");
  });
});
