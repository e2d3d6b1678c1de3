/** ListVolumes: what is listed and how it is, pages that stay right while volumes come and go, and what a list costs. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import { AccessDenied, TimedOut } from "../../../lib/ceph/errors.ts";
import { failAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, MEMORY_KEY, MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { VOLUME_CONDITION } from "../../../lib/csi/volume-condition.ts";
import { ControllerServiceCapability_RPC_Type as Offered } from "../../../lib/gen/csi_pb.ts";
import { encodeToken, type Position, parseToken } from "../../../lib/listing/page-token.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  ADMIN,
  seedVolumes,
  aSnapshot,
  offered,
  allVolumes,
  LISTING,
  trashImage,
} from "../../support/listing-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  EAST,
  failureOf,
  GIB,
  objectsOf,
  PARAMETERS,
  SECRETS,
  seed,
  seedImage,
} from "../../support/world.ts";

const LIMIT = 30_000;
const idOf = (uuid: string, pool = 2, clusterId = "east") =>
  `0001-000${clusterId.length}-${clusterId}-${pool.toString(16).padStart(16, "0")}-${uuid}`;
const HEALTHY = { abnormal: false, message: "volume is in a healthy condition" };

describe("offered capabilities", () => {
  const LISTS: readonly number[] = [
    Offered.LIST_VOLUMES,
    Offered.LIST_SNAPSHOTS,
    Offered.GET_VOLUME,
    Offered.GET_VOLUME_HEALTH,
    Offered.LIST_VOLUME_HEALTH,
    VOLUME_CONDITION.controller,
  ];

  test("the driver offers lists, conditions and capacity once every cluster has credentials, and GetSnapshot always", async () => {
    await using with_ = aDriver(aCluster(), LISTING);
    expect(await offered(with_)).toEqual(
      expect.arrayContaining([...LISTS, Offered.GET_CAPACITY, Offered.GET_SNAPSHOT]),
    );
    const west = { ...EAST, clusterId: "west", radosNamespace: "w" };
    for (const settings of [{ secrets: {} }, { clusters: [EAST, west] }, { clusters: [] }]) {
      await using without = aDriver(aCluster(), settings);
      const fewer = await offered(without);
      expect(fewer).toContain(Offered.GET_SNAPSHOT);
      for (const each of [...LISTS, Offered.GET_CAPACITY]) expect(fewer).not.toContain(each);
    }
  });

  test("a list without credentials fails, and says where the credentials go", async () => {
    await using lister = aDriver(aCluster(), { secrets: {} });
    const error = await failureOf(lister.listVolumes());
    expect(error?.code).toBe("FAILED_PRECONDITION");
    expect(error?.message).toContain("--secrets-dir/east");
    expect(await codeOf(lister.getVolume({ volumeId: idOf("00000000-0000-4000-8000-000000000001") }))).toBe(
      "FAILED_PRECONDITION",
    );
    expect(await codeOf(lister.getCapacity({ parameters: PARAMETERS }))).toBe("FAILED_PRECONDITION");
  });
});

describe("ListVolumes", () => {
  test("ListVolumes lists every volume that CreateVolume made until it is deleted, and nothing in an empty cluster", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    expect(await lister.listVolumes()).toEqual({ entries: [], nextToken: "" });
    const { volume: one } = await lister.createVolume(creation());
    const parameters = { ...PARAMETERS, pool: "ssd", volumeNamePrefix: "tenant-" };
    const { volume: two } = await lister.createVolume(creation({ name: "pvc-0", parameters }));
    const { entries, nextToken } = await lister.listVolumes();
    expect(entries.map(({ volume }) => volume)).toEqual(
      [one, two].map(({ volumeId, capacityBytes }) => ({ volumeId, capacityBytes })),
    );
    for (const { status } of entries) {
      expect(status.publishedNodeIds).toEqual([]);
      expect(conditionOf(status)).toEqual(HEALTHY);
    }
    expect(nextToken).toBe("");
    await lister.deleteVolume(deletion(one.volumeId));
    expect((await lister.listVolumes()).entries.map(({ volume }) => volume.volumeId)).toEqual([two.volumeId]);
  });

  test("ListVolumes lists the names in the parts of a split directory with the others, page by page", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    const made: string[] = [];
    for (const name of ["pvc-1", "pvc-2", "pvc-3", "pvc-4"]) {
      made.push((await lister.createVolume(creation({ name }))).volume.volumeId);
    }
    const objects = objectsOf(cluster);
    const names = objects.get("csi.volumes.default");
    for (const [part, name] of ["csi.volume.pvc-2", "csi.volume.pvc-3"].entries()) {
      objects.set(`csi.volumes.default.${part * 10}`, new Map([[name, names?.get(name) ?? ""]]));
      names?.delete(name);
    }
    expect(await allVolumes(lister, 3)).toEqual([made.slice(0, 3), made.slice(3)]);
  });

  test("ListVolumes covers each cluster, namespace and pool once, and no other driver's journal", async () => {
    const cluster = aCluster();
    const inNamespace = { ...EAST, clusterId: "dept", radosNamespace: "dept" };
    const alias = { ...EAST, clusterId: "also-east", monitors: ["v1:127.0.0.1:6789"] };
    const clusters = [EAST, alias, inNamespace];
    const secrets = { east: ADMIN, dept: ADMIN, "also-east": ADMIN };
    await using lister = aDriver(cluster, { clusters, secrets });
    await using other = aDriver(cluster, { clusters, secrets, flags: { instanceid: "other" } });
    const made: string[] = [];
    for (const [name, clusterID, pool] of [
      ["a", "dept", "rbd"],
      ["b", "east", "ec"],
      ["c", "east", "ssd"],
      ["d", "also-east", "ssd"],
    ] as const) {
      const parameters = { clusterID, pool };
      made.push((await lister.createVolume(creation({ name, parameters }))).volume.volumeId);
    }
    await other.createVolume(creation({ name: "x" }));
    // by clusterID, then pool id (rbd 2, ssd 3, ec 4), then name; an alias's volumes go by the first entry's ID
    const [a, b, c, d] = made;
    const dAsEast = `0001-0004-east-${d?.slice("0001-0009-also-east-".length)}`;
    expect(await allVolumes(lister, 100)).toEqual([[a ?? "", c ?? "", dAsEast, b ?? ""]]);
    expect((await allVolumes(other, 100)).flat()).toHaveLength(1);
  });

  test("ListVolumes skips pools that the user is not permitted to read, but fails for those that the administrator names", async () => {
    const users = { admin: { key: MEMORY_KEY, manager: true }, csi: { key: "a2V5", manager: true, pools: ["rbd"] } };
    const cluster = aCluster({ users });
    await using maker = aDriver(cluster, LISTING);
    const { volume } = await maker.createVolume(creation());
    await maker.createVolume(creation({ name: "hidden", parameters: { ...PARAMETERS, pool: "ssd" } }));
    const credentials = { user: "csi", key: Redacted.make("a2V5") };
    const idsWith = async (pools: readonly string[] | undefined, user = credentials) => {
      await using lister = aDriver(cluster, { secrets: { east: { credentials: user, pools } } });
      return (await allVolumes(lister, 1)).flat();
    };
    expect(await idsWith(undefined)).toEqual([volume.volumeId]);
    expect(await idsWith(["rbd"])).toEqual([volume.volumeId]);
    expect(await codeOf(idsWith(["rbd", "ssd"]))).toBe("PERMISSION_DENIED");
    expect(await codeOf(idsWith(["rbd", "gone"]))).not.toBe("OK");
    expect(await codeOf(idsWith(undefined, { user: "csi", key: Redacted.make("d3Jvbmc=") }))).toBe("PERMISSION_DENIED");
    const none = aCluster({ users: { ...users, csi: { ...users.csi, pools: [] } } });
    await using blind = aDriver(none, { secrets: { east: { credentials, pools: undefined } } });
    expect(await codeOf(blind.listVolumes())).toBe("PERMISSION_DENIED");
  });

  test("ListVolumes fails as a whole when any of its calls to Ceph fails", async () => {
    const cluster = aCluster();
    await seedVolumes(cluster, 3);
    await seedVolumes(cluster, 3, { pool: "ec", from: 10, prefix: "tenant-" });
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using counting = aDriver(cluster, { ...LISTING, ceph: service });
    expect((await counting.listVolumes()).entries).toHaveLength(6);
    const count = calls().length;
    expect(count).toBeGreaterThan(8);
    for (let k = 1; k <= count; k += 1) {
      const late = new TimedOut({ op: "rados_read_op_operate", subject: "rbd" });
      await using lister = aDriver(cluster, {
        ...LISTING,
        ceph: failAt(cephMemoryService(cluster), k, late, "before"),
      });
      expect([k, await codeOf(lister.listVolumes())]).toEqual([k, "DEADLINE_EXCEEDED"]);
    }
    // a pool whose names one may read, but not its images
    const denied = new AccessDenied({ op: "rados_exec", subject: "rbd", user: "csi" });
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "imageBriefs" ? Effect.fail(denied) : act,
    );
    await using lister = aDriver(cluster, { ...LISTING, ceph });
    expect(await codeOf(lister.listVolumes())).toBe("PERMISSION_DENIED");
  });

  test("ListVolumes fails as a whole when one cluster does not answer", async () => {
    const cluster = aCluster();
    await seedVolumes(cluster, 3);
    cluster.reachable = false;
    await using lister = aDriver(cluster, LISTING);
    expect(await codeOf(lister.listVolumes())).toBe("UNAVAILABLE");
  });
});

describe("pages of ListVolumes", () => {
  test("pages of any size make the whole list in one order, and no page but a single one is empty", async () => {
    const cluster = aCluster();
    await seedVolumes(cluster, 7);
    await seedVolumes(cluster, 4, { pool: "ec", from: 100, prefix: "tenant-" });
    await using lister = aDriver(cluster, LISTING);
    const [whole = []] = await allVolumes(lister, 0);
    expect(whole).toHaveLength(11);
    for (const size of [1, 2, 3, 7, 10, 11, 12]) {
      const pages = await allVolumes(lister, size);
      expect(pages.flat()).toEqual(whole);
      expect(pages.map((page) => page.length)).toEqual(
        Array.from({ length: Math.ceil(11 / size) }, (_, i) => Math.min(size, 11 - i * size)),
      );
    }
  });

  test(
    "pages list each volume that exists all the time exactly once, whatever comes and goes in between",
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 5 }),
          fc.array(fc.record({ make: fc.stringMatching(/^[a-z0-9]{1,3}$/), drop: fc.nat() }), { maxLength: 30 }),
          async (size, changes) => {
            const cluster = aCluster();
            await using lister = aDriver(cluster, LISTING);
            const there = new Map<string, string>();
            const make = async (name: string, pool: string) => {
              if (there.has(`${name}/${pool}`)) return;
              const { volume } = await lister.createVolume(creation({ name, parameters: { ...PARAMETERS, pool } }));
              there.set(`${name}/${pool}`, volume.volumeId);
            };
            for (const name of ["b", "f", "k", "p", "u"]) for (const pool of ["rbd", "ec"]) await make(name, pool);
            const before = new Set(there.values());
            const gone = new Set<string>();
            const todo = [...changes];
            const drop = async (id: string) => {
              gone.add(id);
              await lister.deleteVolume(deletion(id));
              for (const [key, value] of there) if (value === id) there.delete(key);
            };
            const listed = (
              await allVolumes(lister, size, async (ids) => {
                const [one, two] = todo.splice(0, 2);
                if (one !== undefined) await make(one.make, one.drop % 2 === 0 ? "rbd" : "ec");
                // the last of a page is where the next one begins
                const last = ids.at(-1);
                if (last !== undefined && (two?.drop ?? 1) % 3 === 0) await drop(last);
                const some = [...there.values()];
                const victim = some[(two?.drop ?? 0) % Math.max(1, some.length)];
                if (two !== undefined && victim !== undefined) await drop(victim);
              })
            ).flat();
            expect(new Set(listed).size).toBe(listed.length);
            for (const id of before) if (!gone.has(id)) expect(listed).toContain(id);
          },
        ),
        { numRuns: 60 },
      );
    },
    LIMIT,
  );

  test("pages continue from their position when its pool or cluster is gone", async () => {
    const cluster = aCluster();
    const clusters = ["a", "b", "c"].map((clusterId) => ({ ...EAST, clusterId, radosNamespace: clusterId }));
    const secrets = { a: ADMIN, b: ADMIN, c: ADMIN };
    await using lister = aDriver(cluster, { clusters, secrets });
    for (const clusterID of ["a", "b", "c"]) {
      for (const pool of ["rbd", "ssd"]) await lister.createVolume(creation({ parameters: { clusterID, pool } }));
    }
    const { entries, nextToken } = await lister.listVolumes({ maxEntries: 3 });
    expect(entries.map(({ volume }) => volume.volumeId[10])).toEqual(["a", "a", "b"]);
    cluster.removePool("rbd");
    const rest = async (with_: typeof clusters) => {
      await using later = aDriver(cluster, { clusters: with_, secrets });
      const { entries: more } = await later.listVolumes({ startingToken: nextToken });
      return more.map(({ volume }) => volume.volumeId[10]);
    };
    expect(await rest(clusters)).toEqual(["b", "c"]);
    expect(await rest(clusters.filter(({ clusterId }) => clusterId !== "b"))).toEqual(["c"]);
  });

  test("ListVolumes answers INVALID_ARGUMENT to a negative page size, and ABORTED to a foreign token", async () => {
    const cluster = aCluster();
    await seedVolumes(cluster, 3);
    await using lister = aDriver(cluster, LISTING);
    expect(await codeOf(lister.listVolumes({ maxEntries: -1 }))).toBe("INVALID_ARGUMENT");
    const position = { clusterId: "east", poolId: 2n, requestName: "pvc-000001" };
    const good = encodeToken("volumes", position);
    expect((await lister.listVolumes({ startingToken: good })).entries).toHaveLength(1);
    const bad = [
      "1",
      "x",
      "v1",
      "invalid-token",
      `${good}=`,
      ` ${good}`,
      good.slice(0, -2),
      `v2${good.slice(2)}`,
      encodeToken("snapshots", position),
      `v1${Buffer.from('["east","2"]').toString("base64url")}`,
      `v1${Buffer.from('["east","-2","x"]').toString("base64url")}`,
      `v1${Buffer.from('["east", "2","x"]').toString("base64url")}`,
      `v1${"A".repeat(5000)}`,
    ];
    for (const startingToken of bad) {
      expect([startingToken, await codeOf(lister.listVolumes({ startingToken }))]).toEqual([startingToken, "ABORTED"]);
    }
  });

  test(
    "a token holds any position, and has at most 128 bytes for names that Kubernetes makes",
    () => {
      const positions = fc.record<Position>({
        clusterId: fc.string({ unit: "grapheme", minLength: 1, maxLength: 64 }),
        poolId: fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
        requestName: fc.string({ unit: "grapheme", minLength: 1, maxLength: 128 }),
      });
      fc.assert(
        fc.property(positions, fc.constantFrom("volumes", "snapshots", "volume health"), (position, kind) => {
          const token = encodeToken(kind, position);
          expect(Result.getOrThrow(parseToken(kind, token))).toEqual(position);
          expect(token).toMatch(/^[\w-]+$/);
        }),
      );
      const usual = { clusterId: crypto.randomUUID(), poolId: 1234n, requestName: `pvc-${crypto.randomUUID()}` };
      expect(encodeToken("volumes", usual).length).toBeLessThanOrEqual(128);
      fc.assert(
        fc.property(fc.string({ unit: "binary" }), (text) => {
          const parsed = parseToken("volumes", text);
          expect(text === "" || Result.isFailure(parsed)).toBe(true);
        }),
      );
    },
    LIMIT,
  );
});

describe("volume condition", () => {
  const of = async (lister: ReturnType<typeof aDriver>, volumeId: string) => {
    const { entries } = await lister.listVolumes();
    const listed = entries.find(({ volume }) => volume.volumeId === volumeId);
    return [conditionOf(listed?.status), conditionOf((await lister.getVolume({ volumeId })).status)];
  };

  test("a volume is abnormal when its image is in the trash or gone, and NOT_FOUND once its entry is gone", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    const { volume } = await lister.createVolume(creation());
    const { volumeId } = volume;
    expect(await of(lister, volumeId)).toEqual([HEALTHY, HEALTHY]);
    const image = `csi-vol-${volumeId.slice(-36)}`;
    const id = trashImage(cluster, image);
    for (const condition of await of(lister, volumeId)) {
      expect(condition).toEqual({ abnormal: true, message: expect.stringContaining("rbd trash restore") });
      expect(condition?.message).toContain(id);
    }
    cluster.namespace("rbd", "")?.trash.clear();
    for (const condition of await of(lister, volumeId)) {
      expect(condition).toEqual({ abnormal: true, message: `image rbd/${image} is gone, and it is not in the trash` });
    }
    expect((await lister.getVolume({ volumeId })).volume.capacityBytes).toBe(0n);
    await lister.deleteVolume(deletion(volumeId));
    expect(await codeOf(lister.getVolume({ volumeId }))).toBe("NOT_FOUND");
    expect(await codeOf(lister.getVolume({ volumeId: "no-such-volume" }))).toBe("NOT_FOUND");
    expect(await codeOf(lister.getVolume({ volumeId: "" }))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(lister.getVolume({ volumeId: volumeId.replace("000000000000000", "00000000000000f") }))).toBe(
      "NOT_FOUND",
    );
  });

  test("a copy is abnormal when its parent image is lost", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    const source = await lister.createVolume(creation());
    const snapshotId = await aSnapshot(lister, "snap-1", source.volume.volumeId);
    const { volume } = await lister.createVolume(
      creation({
        name: "pvc-copy",
        volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } },
      }),
    );
    const { parent } = cluster.image("rbd", `csi-vol-${volume.volumeId.slice(-36)}`);
    if (parent === undefined) throw new Error("no parent");
    expect(conditionOf((await lister.getVolume({ volumeId: volume.volumeId })).status)).toEqual(HEALTHY);
    parent.gone = true;
    const { volume: found, status } = await lister.getVolume({ volumeId: volume.volumeId });
    expect(found.capacityBytes).toBe(GIB);
    expect(conditionOf(status)).toMatchObject({
      abnormal: true,
      message: expect.stringContaining("its parent image cannot be opened"),
    });
    // an error of the whole list would hide all others
    expect((await lister.listVolumes()).entries.map((entry) => entry.volume.volumeId)).toContain(volume.volumeId);
  });

  test("a volume is abnormal when its pool is full, and only ControllerGetVolume tells of its data pool and mirror state", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    const { volume } = await lister.createVolume(creation({ parameters: { ...PARAMETERS, dataPool: "ec" } }));
    const space = (pool: string) => {
      const found = cluster.pools.get(pool);
      if (found === undefined) throw new Error(`no pool ${pool}`);
      return found;
    };
    space("rbd").maxAvailableBytes = 0n;
    for (const condition of await of(lister, volume.volumeId)) {
      expect(condition).toMatchObject({ abnormal: true, message: expect.stringContaining("pool rbd is full") });
    }
    space("rbd").maxAvailableBytes = 1n << 40n;
    space("ec").maxAvailableBytes = 0n;
    expect(conditionOf((await lister.getVolume({ volumeId: volume.volumeId })).status)).toMatchObject({
      abnormal: true,
      message: expect.stringContaining("pool ec is full"),
    });
    space("ec").maxAvailableBytes = 1n << 40n;
    cluster.image("rbd", `csi-vol-${volume.volumeId.slice(-36)}`).mirror = "non-primary";
    expect(conditionOf((await lister.getVolume({ volumeId: volume.volumeId })).status)).toMatchObject({
      abnormal: true,
      message: expect.stringContaining("mirror"),
    });
  });

  test("a volume whose making was cut off is listed once it has an image, by whatever name", async () => {
    const cluster = aCluster();
    const uuids = ["a0285c97-a0ce-41eb-8c66-0242ac110002", "b0285c97-a0ce-41eb-8c66-0242ac110002"];
    for (const [i, image] of [`csi-vol-${uuids[0]}`, `mine-${uuids[1]}`].entries()) {
      await seedImage(cluster, image);
      seed(cluster, { [`csi.volume.${uuids[i]}`]: { "csi.volname": `begun-${i}`, "csi.imagename": image } });
    }
    const names = Object.fromEntries(uuids.map((uuid, i) => [`csi.volume.begun-${i}`, uuid]));
    seed(cluster, { "csi.volumes.default": names });
    await using lister = aDriver(cluster, LISTING);
    const ids = uuids.map((uuid) => idOf(uuid));
    expect((await lister.listVolumes()).entries.map(({ volume }) => volume.volumeId)).toEqual(ids);
    for (const id of ids) expect((await lister.getVolume({ volumeId: id })).volume.capacityBytes).toBe(1n << 30n);
  });

  test("ListVolumes omits a name that never had an image, and ControllerGetVolume answers NOT_FOUND", async () => {
    const cluster = aCluster();
    const uuid = "b0285c97-a0ce-41eb-8c66-0242ac110002";
    seed(cluster, {
      "csi.volumes.default": {
        "csi.volume.begun": uuid,
        "csi.volume.": "2d8f6a0e-a0ce-41eb-8c66-0242ac110002",
        "csi.volume.old-handle": "0001-0004-east-0000000000000002-b0285c97-a0ce-11eb-8c66-0242ac110002",
        "csi.volume.nonsense": "🗝",
      },
      [`csi.volume.${uuid}`]: { "csi.volname": "begun", "csi.imagename": `csi-vol-${uuid}` },
    });
    await using lister = aDriver(cluster, LISTING);
    expect(await lister.listVolumes()).toEqual({ entries: [], nextToken: "" });
    expect(await codeOf(lister.getVolume({ volumeId: idOf(uuid) }))).toBe("NOT_FOUND");
  });

  test("a volume of an older driver's entry is in the pool that the entry names, and abnormal when that pool is gone", async () => {
    const cluster = aCluster();
    const uuid = "b0285c97-a0ce-41eb-8c66-0242ac110002";
    const [made = ""] = await seedVolumes(cluster, 1, { pool: "ssd" });
    cluster.namespace("ssd", "")?.objects.delete("csi.volumes.default");
    const image = { "csi.volname": "x", "csi.imagename": `csi-vol-${made}`, "csi.imageid": "1" };
    seed(cluster, {
      "csi.volumes.default": {
        "csi.volume.x": `0000000000000003/${made}`,
        "csi.volume.y": `000000000000000f/${uuid}`,
      },
      [`csi.volume.${made}`]: image,
      [`csi.volume.${uuid}`]: { ...image, "csi.imagename": `csi-vol-${uuid}` },
    });
    await using lister = aDriver(cluster, LISTING);
    const { entries } = await lister.listVolumes();
    expect(
      entries.map(({ volume, status }) => [volume.volumeId, volume.capacityBytes, conditionOf(status)?.message]),
    ).toEqual([
      [idOf(made, 3), 1n << 20n, HEALTHY.message],
      [idOf(uuid, 15), 0n, "the cluster has no pool with id 15 any more"],
    ]);
  });
});

describe("costs of ListVolumes", () => {
  test(
    "ListVolumes of 20,000 volumes makes the same few calls for each page of 500, and opens no image",
    async () => {
      const cluster = new MemoryCluster({ pools: ["rbd"] });
      await seedVolumes(cluster, 20_000);
      const { service, calls, forget } = recorded(cephMemoryService(cluster));
      await using lister = aDriver(cluster, { ...LISTING, ceph: service });
      const perPage: string[][] = [];
      const took: number[] = [];
      const seen = new Set<string>();
      for (let startingToken = ""; ; ) {
        forget();
        const since = performance.now();
        const { entries, nextToken } = await lister.listVolumes({ maxEntries: 500, startingToken });
        took.push(performance.now() - since);
        perPage.push(calls().map(({ method }) => method));
        for (const { volume } of entries) seen.add(volume.volumeId);
        if (nextToken === "") break;
        startingToken = nextToken;
      }
      expect(seen.size).toBe(20_000);
      expect(perPage).toHaveLength(40);
      const usual = ["imageBriefs", "omapGet", "omapList", "poolSpace", "pools"];
      for (const methods of perPage) expect(methods.toSorted()).toEqual(usual);
      const ms = took.reduce((sum, each) => sum + each, 0);
      console.log(`20,000 volumes in memory: ${ms.toFixed(0)} ms, slowest page ${Math.max(...took).toFixed(0)} ms`);
    },
    LIMIT,
  );
});

test("ListVolumes logs no secret, and its errors have none", async () => {
  const cluster = aCluster();
  await using lister = aDriver(cluster, { secrets: {} });
  await failureOf(lister.listVolumes());
  await using denied = aDriver(cluster, {
    secrets: { east: { credentials: { user: "admin", key: Redacted.make("c2VjcmV0") }, pools: undefined } },
  });
  const error = await failureOf(denied.listVolumes());
  expect(error?.code).toBe("PERMISSION_DENIED");
  expect(JSON.stringify([error, denied.log, lister.log])).not.toContain("c2VjcmV0");
  expect(JSON.stringify(denied.log)).not.toContain(SECRETS.userKey);
});
