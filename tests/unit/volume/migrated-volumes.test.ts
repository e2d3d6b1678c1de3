/** Volumes that the driver did not make: of the in-tree plugin, under their migrated handles, and static ones. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import * as Result from "effect/Result";
import { CephFailed } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { parseMigratedId } from "../../../lib/csi/migrated-volume-id.ts";
import { aDriver } from "../../support/one-world.ts";
import { cloneOf, settled, snapshotDeletion, snapshotOf } from "../../support/copies-world.ts";
import {
  aCluster,
  codeOf,
  deletion,
  EAST,
  expansion,
  failureOf,
  GIB,
  poolDump,
  seedImage,
  validation,
} from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const CLUSTER = "7982de6a23b77bce50b1ba9f2e879cce";
const UUID = "b0285c97-a0ce-11eb-8c66-0242ac110002";
const IMAGE = `kubernetes-dynamic-pvc-${UUID}`;
const handle = (pool: string, uuid = UUID, cluster = CLUSTER) =>
  `mig_mons-${cluster}_image-${uuid}_${Buffer.from(pool).toString("hex")}`;
const HANDLE = handle("rbd");

const SETTINGS = { clusters: [EAST, { ...EAST, clusterId: CLUSTER }] };
/** As the in-tree plugin's secret has them. */
const IN_TREE = { adminId: "admin", key: "bWVtb3J5IGtleQ==" };

const aWorld = async (): Promise<MemoryCluster> => {
  const cluster = aCluster();
  await seedImage(cluster, IMAGE);
  await seedImage(cluster, "kubernetes-dynamic-pvc-other");
  return cluster;
};

describe("handles of migrated volumes", () => {
  test("the handle of a migrated volume names cluster, pool and image", () => {
    expect(Result.getOrThrow(parseMigratedId(HANDLE))).toEqual({ clusterId: CLUSTER, pool: "rbd", imageName: IMAGE });
    // A pool's name may hold whatever it likes.
    expect(Result.getOrThrow(parseMigratedId(handle("replica_pool-ü"))).pool).toBe("replica_pool-ü");
  });

  for (const [what, text] of [
    ["no text at all", ""],
    ["only its first part", "mig"],
    ["no pool", `mig_mons-${CLUSTER}_image-${UUID}`],
    ["an empty pool", `mig_mons-${CLUSTER}_image-${UUID}_`],
    ["a pool that is not in hex", `mig_mons-${CLUSTER}_image-${UUID}_rbd`],
    ["half a byte of a pool", `mig_mons-${CLUSTER}_image-${UUID}_726`],
    ["no cluster", `mig_mons-_image-${UUID}_726264`],
    ["no image", `mig_mons-${CLUSTER}_image-_726264`],
    ["an image that is a path", `mig_mons-${CLUSTER}_image-../x_726264`],
    ["its parts in another order", `mig_image-${UUID}_mons-${CLUSTER}_726264`],
  ] as const) {
    test(`the parser refuses a handle with ${what}`, () => {
      expect(Result.isFailure(parseMigratedId(text))).toBe(true);
    });
  }

  test("the parser of handles never throws", () => {
    const piece = fc.oneof(fc.string(), fc.constantFrom("mig", "mons-", "image-", "_", "726264", "/", "@"));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        parseMigratedId(pieces.join(""));
        parseMigratedId(pieces.join("_"));
      }),
    );
  });
});

describe("DeleteVolume of a migrated volume", () => {
  for (const [what, more] of [
    ["the driver's own secret", {}],
    ["the in-tree plugin's secret", { secrets: IN_TREE }],
  ] as const) {
    test(`DeleteVolume removes the image of a migrated volume with ${what}, and touches no journal`, async () => {
      const cluster = await aWorld();
      const time = virtualTime();
      await using driver = aDriver(cluster, { ...SETTINGS, time });
      await time.until(driver.deleteVolume(deletion(HANDLE, more)));
      await time.pass("5 seconds");
      await settled(cluster);
      expect(Object.keys(poolDump(cluster).images)).toEqual(["kubernetes-dynamic-pvc-other"]);
      expect(poolDump(cluster).objects).toEqual({});
      await driver.deleteVolume(deletion(HANDLE, more));
    });
  }

  test("DeleteVolume removes the image of a migrated volume whose pool has a name of 40 characters", async () => {
    const pool = "kubernetes-persistent-volumes-of-storage";
    const cluster = aCluster({ pools: ["rbd", pool] });
    await seedImage(cluster, IMAGE, pool);
    const time = virtualTime();
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    expect(handle(pool).length).toBeGreaterThan(128);
    await time.until(driver.deleteVolume(deletion(handle(pool))));
    expect(cluster.namespace(pool, "")?.images.size).toBe(0);
  });

  test("DeleteVolume changes nothing while a client uses the image of a migrated volume", async () => {
    const cluster = await aWorld();
    const time = virtualTime();
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    const close = cluster.watch("rbd", IMAGE);
    const before = cluster.dump();
    expect(await codeOf(time.until(driver.deleteVolume(deletion(HANDLE))))).toBe("FAILED_PRECONDITION");
    expect(cluster.dump()).toEqual(before);
    close();
    expect(await codeOf(driver.deleteVolume(deletion(HANDLE)))).toBe("OK");
  });

  test("DeleteVolume finds a migrated volume in its own pool and the default namespace, also where the cluster has another namespace", async () => {
    const cluster = aCluster();
    await seedImage(cluster, IMAGE, "ssd");
    const time = virtualTime();
    const clusters = [{ ...EAST, clusterId: CLUSTER, radosNamespace: "tenant" }];
    await using driver = aDriver(cluster, { clusters, time });
    await driver.deleteVolume(deletion(handle("ssd")));
    await time.pass("5 seconds");
    await settled(cluster, "ssd");
    expect(poolDump(cluster, "ssd").images).toEqual({});
  });

  test("DeleteVolume succeeds where pool or image is gone or the handle is malformed, and fails where the cluster is unknown", async () => {
    const cluster = await aWorld();
    await using driver = aDriver(cluster, SETTINGS);
    const before = cluster.dump();
    expect(await codeOf(driver.deleteVolume(deletion(handle("gone"))))).toBe("OK");
    expect(await codeOf(driver.deleteVolume(deletion(handle("rbd", "gone"))))).toBe("OK");
    expect(await codeOf(driver.deleteVolume(deletion(`mig_mons-${CLUSTER}_image-x_rbd`)))).toBe("OK");
    expect(await codeOf(driver.deleteVolume(deletion(handle("rbd", UUID, "west"))))).toBe("INVALID_ARGUMENT");
    expect(cluster.dump()).toEqual(before);
  });
});

describe("ControllerExpandVolume of a migrated volume", () => {
  test("ControllerExpandVolume grows a migrated volume", async () => {
    const cluster = await aWorld();
    await using driver = aDriver(cluster, SETTINGS);
    expect(await driver.expandVolume(expansion(HANDLE, { secrets: IN_TREE }))).toEqual({
      capacityBytes: 2n * GIB,
      nodeExpansionRequired: true,
    });
    expect(cluster.image("rbd", IMAGE).sizeBytes).toBe(2n * GIB);
  });

  test("R4: ControllerExpandVolume never shrinks a migrated volume", async () => {
    const cluster = await aWorld();
    cluster.image("rbd", IMAGE).sizeBytes = 5n * GIB;
    await using driver = aDriver(cluster, SETTINGS);
    expect(await driver.expandVolume(expansion(HANDLE))).toMatchObject({ capacityBytes: 5n * GIB });
    expect(cluster.image("rbd", IMAGE).sizeBytes).toBe(5n * GIB);
  });

  test("ControllerExpandVolume answers NOT_FOUND for a migrated volume that is gone", async () => {
    await using driver = aDriver(aCluster(), SETTINGS);
    expect(await codeOf(driver.expandVolume(expansion(HANDLE)))).toBe("NOT_FOUND");
    expect(await codeOf(driver.expandVolume(expansion(handle("gone"))))).toBe("NOT_FOUND");
  });
});

describe("a migrated volume that a dead kubelet has locked", () => {
  const LOCK = { id: "kubelet_lock_magic_node-1", client: "client.4101", address: "10.0.0.9:0/77" };
  const locked = async (lock = LOCK) => {
    const cluster = await aWorld();
    const image = cluster.image("rbd", IMAGE);
    image.locks = [lock];
    return { cluster, image, time: virtualTime() };
  };

  test("DeleteVolume and ControllerExpandVolume take the lock away once nobody has used the image for a while", async () => {
    const { cluster, image, time } = await locked();
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    expect(await time.until(driver.expandVolume(expansion(HANDLE), "100 seconds"))).toMatchObject({
      capacityBytes: 2n * GIB,
    });
    expect(image.locks).toEqual([]);
    image.locks = [LOCK];
    await time.until(driver.deleteVolume(deletion(HANDLE), "100 seconds"));
    expect(image.locks).toEqual([]);
    expect(Object.keys(poolDump(cluster).images)).toEqual(["kubernetes-dynamic-pvc-other"]);
  });

  test("DeleteVolume and ControllerExpandVolume leave the lock of a kubelet that has the image open", async () => {
    const { cluster, image, time } = await locked();
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    const close = cluster.watch("rbd", IMAGE);
    for (const call of [driver.expandVolume(expansion(HANDLE)), driver.deleteVolume(deletion(HANDLE))]) {
      expect(await codeOf(time.until(call))).toBe("FAILED_PRECONDITION");
    }
    close();
    const deleted = codeOf(driver.deleteVolume(deletion(HANDLE), "100 seconds"));
    await time.pass("8 seconds");
    cluster.watch("rbd", IMAGE);
    expect(await time.until(deleted)).toBe("FAILED_PRECONDITION");
    expect([image.locks, image.sizeBytes]).toEqual([[LOCK], GIB]);
  });

  test("DeleteVolume proves everything once more behind the locks: what a person or a user did meanwhile stays", async () => {
    for (const meanwhile of ["snapshot", "watch", "lock"] as const) {
      const { cluster, image, time } = await locked();
      const inner = cephMemoryService(cluster);
      let seen = 0;
      const ceph = intercepted(inner, ({ method }, act) => {
        if (method === "imageUnlock") seen = 1;
        // the look behind the unlocks is still good
        if (method !== "imageStatus" || seen === 0 || seen++ > 1) return act;
        return Effect.tap(act, () =>
          meanwhile === "snapshot"
            ? inner.snapshotCreate({ access: memoryAccess, pool: "rbd", namespace: "" }, IMAGE, "keep")
            : Effect.sync(() => {
                if (meanwhile === "watch") cluster.watch("rbd", IMAGE);
                else image.locks = [LOCK];
              }),
        );
      });
      await using driver = aDriver(cluster, { ...SETTINGS, time, ceph });
      const failure = await failureOf(time.until(driver.deleteVolume(deletion(HANDLE), "100 seconds")));
      expect([meanwhile, failure?.code]).toEqual([meanwhile, "FAILED_PRECONDITION"]);
      expect(Object.keys(poolDump(cluster).images)).toContain(IMAGE);
    }
  });

  test("DeleteVolume takes no lock away from an image with a person's snapshot", async () => {
    const { cluster, image, time } = await locked();
    const inner = cephMemoryService(cluster);
    await Effect.runPromise(inner.snapshotCreate({ access: memoryAccess, pool: "rbd", namespace: "" }, IMAGE, "keep"));
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    const failure = await failureOf(driver.deleteVolume(deletion(HANDLE)));
    expect([failure?.code, image.locks]).toEqual(["FAILED_PRECONDITION", [LOCK]]);
    expect(failure?.message).toContain("keep");
  });

  test("ControllerExpandVolume takes no lock away for a growth that failed by something else", async () => {
    const { cluster, image } = await locked();
    const ceph = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
      method === "imageGrow"
        ? Effect.fail(new CephFailed({ op: "rbd_resize", subject, errno: 5, reason: "it cannot be read" }))
        : act,
    );
    await using driver = aDriver(cluster, { ...SETTINGS, ceph });
    expect((await failureOf(driver.expandVolume(expansion(HANDLE))))?.message).toContain("it cannot be read");
    expect(image.locks).toEqual([LOCK]);
  });

  test("DeleteVolume leaves a lock that keeps nobody from writing, and waits for nothing", async () => {
    const cluster = aCluster();
    const ref = { access: memoryAccess, pool: "rbd", namespace: "" };
    await Effect.runPromise(cephMemoryService(cluster).imageCreate(ref, IMAGE, { sizeBytes: GIB, features: 1n }));
    const image = cluster.image("rbd", IMAGE);
    image.locks = [LOCK];
    const time = virtualTime();
    await using driver = aDriver(cluster, { ...SETTINGS, time });
    const since = time.now();
    expect(await codeOf(driver.expandVolume(expansion(HANDLE)))).toBe("OK");
    expect(await codeOf(driver.deleteVolume(deletion(HANDLE)))).toBe("OK");
    expect([time.now() - since, image.locks]).toEqual([0, [LOCK]]);
  });

  test("DeleteVolume and ControllerExpandVolume name a lock of somebody else, and leave it", async () => {
    const { cluster, image } = await locked({ ...LOCK, id: "maintenance" });
    await using driver = aDriver(cluster, SETTINGS);
    for (const call of [() => driver.expandVolume(expansion(HANDLE)), () => driver.deleteVolume(deletion(HANDLE))]) {
      const failure = await failureOf(call());
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("rbd lock remove"),
      });
    }
    expect(image.locks).toHaveLength(1);
  });
});

test("ValidateVolumeCapabilities confirms a migrated volume", async () => {
  const cluster = await aWorld();
  await using driver = aDriver(cluster, SETTINGS);
  expect(await driver.validate(validation(HANDLE))).toHaveProperty("confirmed");
});

describe("static volumes, whose handle is an image's name", () => {
  const STATIC = "hand-made-image";
  test("the Controller service does not delete, grow, snapshot or clone a static volume, and changes nothing", async () => {
    const cluster = aCluster();
    await seedImage(cluster, STATIC);
    await using driver = aDriver(cluster);
    const before = cluster.dump();
    // CSI: what does not exist is deleted. Its PV says Retain.
    expect(await codeOf(driver.deleteVolume(deletion(STATIC)))).toBe("OK");
    expect(await codeOf(driver.deleteSnapshot(snapshotDeletion(STATIC)))).toBe("OK");
    expect(await codeOf(driver.expandVolume(expansion(STATIC)))).toBe("NOT_FOUND");
    expect(await codeOf(driver.createSnapshot(snapshotOf(STATIC)))).toBe("NOT_FOUND");
    expect(await codeOf(driver.createVolume(cloneOf(STATIC)))).toBe("NOT_FOUND");
    const failure = await failureOf(driver.validate(validation(STATIC)));
    expect(failure).toMatchObject({ code: "NOT_FOUND", message: expect.stringContaining(STATIC) });
    expect(cluster.dump()).toEqual(before);
  });
});
