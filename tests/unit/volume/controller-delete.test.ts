/** DeleteVolume: what goes, what must stay, and removals that were cut off. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { TimedOut } from "../../../lib/ceph/errors.ts";
import { DRIVERS_MARKS } from "../../../lib/ceph/rbd.ts";
import { crashAt, intercepted } from "../../support/ceph-faults.ts";
import type { MemoryOptions } from "../../support/ceph-memory/cluster.ts";
import { cephMemoryService, memoryAccess, MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { settled } from "../../support/copies-world.ts";
import { everyDeath } from "../../support/every-death.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  EAST,
  failureOf,
  objectsOf,
  PARAMETERS,
  poolDump,
  seed,
  seedImage,
  uuidOf,
} from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const ID = `0001-0004-east-0000000000000002-${UUID}`;
const DIRECTORY = "csi.volumes.default";
const OBJECT = `csi.volume.${UUID}`;
const IMAGE = `csi-vol-${UUID}`;
const EMPTIED = { objects: { [DIRECTORY]: {} }, images: {}, bareNames: {}, trash: {} };

/** A finished volume with a UUID that is known -> its image's id. */
const seedVolume = async (cluster: MemoryCluster, imageName = IMAGE): Promise<string> => {
  const imageId = await seedImage(cluster, imageName);
  seed(cluster, {
    [DIRECTORY]: { "csi.volume.pvc-1": UUID },
    [OBJECT]: { "csi.volname": "pvc-1", "csi.imagename": imageName, "csi.imageid": imageId },
  });
  return imageId;
};

/** Puts the volume's image into the trash, as a driver does that then dies. */
const halfDelete = (cluster: MemoryCluster): Promise<unknown> =>
  Effect.runPromise(
    cephMemoryService(cluster).trashMove(
      { access: memoryAccess, pool: "rbd", namespace: "" },
      IMAGE,
      DRIVERS_MARKS.small,
    ),
  );

const world = async (imageName = IMAGE) => {
  const cluster = aCluster();
  const imageId = await seedVolume(cluster, imageName);
  return { cluster, imageId };
};

describe("a volume", () => {
  test("goes with its image, its name and its attributes, and what is beside it stays", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const beside = await driver.createVolume(creation({ name: "pvc-2" }));
    const before = cluster.dump();
    const { volume } = await driver.createVolume(creation());
    expect(cluster.dump()).not.toEqual(before);
    expect(await driver.deleteVolume(deletion(volume.volumeId))).toEqual({});
    await settled(cluster);
    expect(cluster.dump()).toEqual(before);
    expect((await driver.createVolume(creation({ name: "pvc-2" }))).volume).toEqual(beside.volume);
  });

  test("of a namespace and a prefix goes, too", async () => {
    const cluster = aCluster();
    const time = virtualTime();
    await using driver = aDriver(cluster, { clusters: [{ ...EAST, radosNamespace: "tenant" }], time });
    const parameters = { ...PARAMETERS, volumeNamePrefix: "team-" };
    const { volume } = await driver.createVolume(creation({ parameters }));
    await driver.deleteVolume(deletion(volume.volumeId));
    await time.pass("5 seconds");
    expect(poolDump(cluster, "rbd", "tenant")).toEqual(EMPTIED);
  });

  test("that is gone is deleted again without complaint, and its name makes a new one", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    await driver.deleteVolume(deletion(volume.volumeId));
    expect(await driver.deleteVolume(deletion(volume.volumeId))).toEqual({});
    const again = await driver.createVolume(creation());
    expect(again.volume.volumeId).not.toBe(volume.volumeId);
    expect(await driver.deleteVolume(deletion(volume.volumeId))).toEqual({});
    expect((await driver.createVolume(creation())).volume.volumeId).toBe(again.volume.volumeId);
  });

  test("that moved to another cluster is found through the mapping", async () => {
    const { cluster } = await world();
    const west = { ...EAST, clusterId: "west" };
    const mapping = {
      elements: [{ clusters: [["west", "east"]], pools: [[["9", "2"]]] }],
      problems: new Map(),
      remarks: [],
    } as const;
    await using driver = aDriver(cluster, { clusters: [EAST, west], mapping });
    await driver.deleteVolume(deletion(`0001-0004-west-0000000000000009-${UUID}`));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });
});

describe("a volume whose image ceph-csi has moved to the trash, and died", () => {
  const POOL = { access: memoryAccess, pool: "rbd", namespace: "" };
  const inTrash = async (name: string, ...snapshots: readonly string[]) => {
    const cluster = aCluster();
    const imageId = await seedVolume(cluster);
    const ceph = cephMemoryService(cluster);
    if (name !== IMAGE) await seedImage(cluster, name);
    const id = name === IMAGE ? imageId : cluster.image("rbd", name).id;
    for (const each of snapshots) await Effect.runPromise(ceph.snapshotCreate(POOL, name, each));
    for (const each of new Set([IMAGE, name])) await Effect.runPromise(ceph.trashMove(POOL, each));
    return { cluster, id };
  };

  test("is refused while it has a snapshot that no driver took, keeps its name, and is deleted once the snapshot is gone", async () => {
    const { cluster, id } = await inTrash(IMAGE, "mine");
    await using driver = aDriver(cluster);
    const before = cluster.dump();
    const failure = await failureOf(driver.deleteVolume(deletion(ID)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toStartWith(
      `image rbd/${id} (${IMAGE}) is in the trash, and has a snapshot that is not known to be a driver's: mine. `,
    );
    expect(failure?.message).toContain(`rbd trash restore rbd/${id}`);
    expect(cluster.dump()).toEqual(before);
    expect(cluster.queued()).toEqual([]);
    await Effect.runPromise(cephMemoryService(cluster).trashSnapshotRemove(POOL, id, "mine"));
    await driver.deleteVolume(deletion(ID));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("goes with the image that it was copied through, whose snapshot ceph-csi has left", async () => {
    const { cluster, id } = await inTrash(`${IMAGE}-temp`, IMAGE);
    await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, id));
    await using driver = aDriver(cluster);
    await driver.deleteVolume(deletion(ID));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("is not moved there again if a person takes it out in that moment and opens it", async () => {
    const { cluster, id } = await inTrash(IMAGE);
    let close = (): void => {};
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "trashSnapshots") return act;
      return Effect.tap(act, () =>
        Effect.sync(() => {
          cluster.restore("rbd", id);
          close = cluster.watch("rbd", IMAGE);
        }),
      );
    });
    await using driver = aDriver(cluster, { ceph });
    const before = poolDump(cluster).objects;
    expect(await codeOf(driver.deleteVolume(deletion(ID)))).toBe("ABORTED");
    expect(cluster.image("rbd", IMAGE).id).toBe(id);
    expect(poolDump(cluster).objects).toEqual(before);
    close();
  });

  test("goes, also if it is moved there between the driver's look and its own move", async () => {
    const cluster = aCluster();
    await seedVolume(cluster);
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashMove"
        ? Effect.andThen(Effect.orDie(cephMemoryService(cluster).trashMove(POOL, IMAGE)), act)
        : act,
    );
    await using driver = aDriver(cluster, { ceph });
    await driver.deleteVolume(deletion(ID));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });
});

describe("what names no volume is deleted already:", () => {
  const ids: readonly (readonly [what: string, id: string])[] = [
    ["a word", "nonsense"],
    ["a static volume's name", "my-image"],
    ["a length field that wraps", `0001-ffff-east-0000000000000002-${UUID}`],
    ["a cut ID", ID.slice(0, -1)],
    ["a long ID", `${ID}0`],
    ["no UUID at its end", `${ID.slice(0, -1)}x`],
    ["an unknown UUID", ID.replace("b0285c97", "ffffffff")],
    ["a pool that is gone", ID.replace("0002-b", "0063-b")],
    ["128 bytes of something", "x".repeat(128)],
    ["255 bytes of something", "x".repeat(255)],
    ["a path", "../../etc/passwd"],
  ];
  for (const [what, id] of ids) {
    test(what, async () => {
      const { cluster } = await world();
      const before = cluster.dump();
      await using driver = aDriver(cluster);
      expect(await driver.deleteVolume(deletion(id))).toEqual({});
      expect(driver.log.some((line) => line.startsWith("nothing to delete:"))).toBe(id !== ids[6]?.[1]);
      expect(cluster.dump()).toEqual(before);
    });
  }
});

describe("what leaves it open whether there is a volume is no success, and nothing changes:", () => {
  const refusals: readonly (readonly [
    what: string,
    code: string,
    call: (driver: Driver, cluster: MemoryCluster) => Promise<unknown>,
  ])[] = [
    [
      "a wrong key",
      "PERMISSION_DENIED",
      (driver) => driver.deleteVolume(deletion(ID, { secrets: { userID: "admin", userKey: "d3Jvbmc=" } })),
    ],
    [
      "an unknown user",
      "PERMISSION_DENIED",
      (driver) => driver.deleteVolume(deletion(ID, { secrets: { userID: "nobody", userKey: MEMORY_KEY } })),
    ],
    [
      "a user without caps for the pool",
      "PERMISSION_DENIED",
      (driver, cluster) => {
        cluster.users.set("limited", { key: MEMORY_KEY, manager: true, pools: ["ssd"] });
        return driver.deleteVolume(deletion(ID, { secrets: { userID: "limited", userKey: MEMORY_KEY } }));
      },
    ],
    [
      "a cluster that is not configured",
      "INVALID_ARGUMENT",
      (driver) => driver.deleteVolume(deletion(ID.replace("east", "west"))),
    ],
    [
      "a cluster that does not answer",
      "UNAVAILABLE",
      (driver, cluster) => {
        cluster.reachable = false;
        return driver.deleteVolume(deletion(ID));
      },
    ],
  ];
  for (const [what, code, call] of refusals) {
    test(what, async () => {
      const { cluster } = await world();
      const before = cluster.dump();
      await using driver = aDriver(cluster);
      expect(await codeOf(call(driver, cluster))).toBe(code);
      expect(cluster.dump()).toEqual(before);
    });
  }
});

describe("an image that is in use stays, and all that leads to it:", () => {
  test("DeleteVolume waits almost five seconds for an image that somebody watches, and then names the watcher", async () => {
    const { cluster } = await world();
    const before = cluster.dump();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const close = cluster.watch("rbd", IMAGE);
    const failure = await failureOf(time.until(driver.deleteVolume(deletion(ID))));
    expect(time.now()).toBe(4750);
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain(`image rbd/${IMAGE} is in use by 127.0.0.1:0/`);
    expect(failure?.message).toContain('(DeleteVolume, stage "remove image")');
    expect(cluster.dump()).toEqual(before);
    expect((await driver.createVolume(creation())).volume.volumeId).toBe(ID);
    close();
    await driver.deleteVolume(deletion(ID));
    await time.pass("1 second");
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("DeleteVolume waits for an image that falls out of use within its five seconds, and deletes it", async () => {
    const { cluster } = await world();
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const close = cluster.watch("rbd", IMAGE);
    const deleted = driver.deleteVolume(deletion(ID));
    await time.pass("4 seconds");
    expect(cluster.image("rbd", IMAGE).watchers.size).toBe(1);
    close();
    await time.pass("250 millis");
    await deleted;
    await time.pass("1 second");
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("while it mirrors another cluster's, and no mirror daemon says that it follows", async () => {
    const { cluster } = await world();
    cluster.image("rbd", IMAGE).mirror = "non-primary";
    const before = cluster.dump();
    await using driver = aDriver(cluster);
    const failure = await failureOf(driver.deleteVolume(deletion(ID)));
    expect(failure).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("Delete the volume in the other cluster"),
    });
    expect(cluster.dump()).toEqual(before);
  });

  for (const temp of [false, true]) {
    test(`that follows another cluster's image keeps it, and loses its name${temp ? ", and so does what it was copied through" : ""}`, async () => {
      const { cluster } = await world();
      const images = temp ? [IMAGE, `${IMAGE}-temp`] : [IMAGE];
      if (temp) await seedImage(cluster, `${IMAGE}-temp`);
      for (const name of images)
        Object.assign(cluster.image("rbd", name), { mirror: "non-primary", mirrorReplays: true });
      cluster.watch("rbd", IMAGE);
      await using driver = aDriver(cluster);
      await driver.deleteVolume(deletion(ID));
      expect(driver.log.filter((line) => line.includes("follows the volume of another cluster"))).toHaveLength(1);
      expect(Object.keys(poolDump(cluster).images)).toEqual(images);
      expect(poolDump(cluster)).toMatchObject({ objects: EMPTIED.objects, trash: {} });
      // A retry whose first answer was lost.
      expect(await driver.deleteVolume(deletion(ID))).toEqual({});
      expect(Object.keys(poolDump(cluster).images)).toEqual(images);
    });
  }

  test("whose image in between alone follows another cluster's image", async () => {
    const { cluster } = await world();
    await seedImage(cluster, `${IMAGE}-temp`);
    Object.assign(cluster.image("rbd", `${IMAGE}-temp`), { mirror: "non-primary", mirrorReplays: true });
    const before = cluster.dump();
    await using driver = aDriver(cluster);
    expect(await codeOf(driver.deleteVolume(deletion(ID)))).toBe("FAILED_PRECONDITION");
    expect(cluster.dump()).toEqual(before);
  });

  test("but for as many mirror daemons as the configuration says", async () => {
    for (const [watchers, code] of [
      [1, "OK"],
      [2, "OK"],
      [3, "FAILED_PRECONDITION"],
    ] as const) {
      const { cluster } = await world();
      cluster.image("rbd", IMAGE).mirror = "primary";
      for (let i = 0; i < watchers; i++) cluster.watch("rbd", IMAGE);
      const time = virtualTime();
      await using driver = aDriver(cluster, { clusters: [{ ...EAST, mirrorDaemonCount: 2 }], time });
      expect(await codeOf(time.until(driver.deleteVolume(deletion(ID))))).toBe(code);
    }
  });
});

describe("a removal that was cut off", () => {
  const afterTrash = async () => {
    const { cluster, imageId } = await world();
    await halfDelete(cluster);
    return { cluster, imageId };
  };

  /** Until the driver has also removed what it found in the trash, which a dead one may have open for half a minute. */
  const settledBy = async <A>(cluster: MemoryCluster, call: (driver: Driver) => Promise<A>): Promise<A> => {
    const time = virtualTime();
    await using driver = aDriver(cluster, { time });
    const answer = await time.until(call(driver));
    await time.pass("40 seconds");
    return answer;
  };

  for (const cut of ["trash-entered", "name-gone", "entry-gone"] as const) {
    for (const recorded of [true, false]) {
      test(`on the way to the trash (${cut}) is finished, the image's ID ${recorded ? "" : "not "}recorded`, async () => {
        const { cluster } = await world();
        cluster.cutShort(cut, "rbd", IMAGE);
        if (!recorded) cluster.namespace("rbd", "")?.objects.get(OBJECT)?.delete("csi.imageid");
        await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
        expect(poolDump(cluster)).toEqual(EMPTIED);
      });

      test(`on the way to the trash (${cut}) is no obstacle to the name, the ID ${recorded ? "" : "not "}recorded`, async () => {
        const { cluster } = await world();
        await halfDelete(cluster);
        cluster.cutShort(cut, "rbd", IMAGE);
        if (!recorded) cluster.namespace("rbd", "")?.objects.get(OBJECT)?.delete("csi.imageid");
        const { volume } = await settledBy(cluster, (driver) => driver.createVolume(creation()));
        expect(Object.keys(poolDump(cluster).images)).toEqual([`csi-vol-${uuidOf(volume.volumeId)}`]);
        await settledBy(cluster, (driver) => driver.deleteVolume(deletion(volume.volumeId)));
        expect(poolDump(cluster)).toEqual(EMPTIED);
      });
    }
  }

  test("in the trash is finished", async () => {
    const { cluster } = await afterTrash();
    await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("in the trash is finished by the image's name when its ID was never recorded", async () => {
    const { cluster } = await afterTrash();
    cluster.namespace("rbd", "")?.objects.get(OBJECT)?.delete("csi.imageid");
    await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
    expect(poolDump(cluster)).toEqual(EMPTIED);
  });

  test("in the trash is finished when only the image is left", async () => {
    const { cluster } = await afterTrash();
    cluster.namespace("rbd", "")?.objects.clear();
    await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
    expect(poolDump(cluster)).toEqual({ ...EMPTIED, objects: {} });
  });

  test("after the trash, or between name and object, is finished", async () => {
    for (const forget of [[], ["csi.volume.pvc-1"]]) {
      const { cluster } = await afterTrash();
      cluster.namespace("rbd", "")?.trash.clear();
      for (const key of forget) cluster.namespace("rbd", "")?.objects.get(DIRECTORY)?.delete(key);
      await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
      expect(poolDump(cluster)).toEqual(EMPTIED);
    }
  });

  test("takes nothing of others out of the trash", async () => {
    const { cluster } = await afterTrash();
    cluster.namespace("rbd", "")?.objects.get(OBJECT)?.delete("csi.imageid");
    const trash = cluster.namespace("rbd", "")?.trash;
    const mine = [...(trash?.values() ?? [])][0];
    if (mine === undefined) throw new Error("nothing in the trash");
    trash?.set("00000000aaaa", { ...mine, source: "mirroring" });
    trash?.set("00000000bbbb", { ...mine, name: `${IMAGE}-other` });
    await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
    expect(Object.keys(poolDump(cluster).trash)).toEqual(["00000000aaaa", "00000000bbbb"]);
  });

  test("is finished by CreateVolume of the name, which then makes a volume with another UUID", async () => {
    const { cluster } = await afterTrash();
    const { volume } = await settledBy(cluster, (driver) => driver.createVolume(creation()));
    const uuid = uuidOf(volume.volumeId);
    expect(uuid).not.toBe(UUID);
    const { objects, images, trash } = poolDump(cluster);
    expect(Object.keys(objects)).toEqual([`csi.volume.${uuid}`, DIRECTORY]);
    expect(Object.keys(images)).toEqual([`csi-vol-${uuid}`]);
    expect(trash).toEqual({});
    // The caller of the cut-off DeleteVolume retries, late: the new volume is none of its business.
    const before = cluster.dump();
    await settledBy(cluster, (driver) => driver.deleteVolume(deletion(ID)));
    expect(cluster.dump()).toEqual(before);
  });

  test("is finished by CreateVolume when the image went by other hands", async () => {
    const { cluster } = await world();
    cluster.namespace("rbd", "")?.images.delete(IMAGE);
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    expect(uuidOf(volume.volumeId)).not.toBe(UUID);
    expect(poolDump(cluster).objects[OBJECT]).toBeUndefined();
  });
});

describe("DeleteVolume of a volume whose journal is in another pool", () => {
  const SPLIT_ID = `0001-0004-east-0000000000000003-${UUID}`;

  /** As ceph-csi made it with a topology class before 3.11: the image in the pool `ssd`, the journal in `rbd`. */
  const split = async (imageName: string, options: MemoryOptions = {}) => {
    const cluster = aCluster(options);
    const imageId = await seedImage(cluster, imageName, "ssd");
    const attributes = { "csi.volname": "pvc-1", "csi.imagename": imageName, "csi.imageid": imageId };
    seed(cluster, {
      [DIRECTORY]: { "csi.volume.pvc-1": `0000000000000003/${UUID}` },
      [OBJECT]: { ...attributes, "csi.journalpool": "0000000000000002" },
    });
    seed(cluster, { [OBJECT]: {} }, "ssd");
    return cluster;
  };
  const GONE = { objects: {}, images: {}, bareNames: {}, trash: {} };
  const settledIn = async (cluster: MemoryCluster, ceph = cephMemoryService(cluster)) => {
    const time = virtualTime();
    await using driver = aDriver(cluster, { time, ceph });
    const failure = await time.until(failureOf(driver.deleteVolume(deletion(SPLIT_ID))));
    await time.pass("2 minutes");
    cluster.runManager();
    return failure;
  };

  for (const imageName of [IMAGE, `db-${UUID}`]) {
    test(`removes image ${imageName.replace(UUID, "<uuid>")}, journal and marker, after a death at any call, too`, async () => {
      const deaths = await everyDeath(40, async (call, moment) => {
        const cluster = await split(imageName);
        const { service, crashed } = crashAt(cephMemoryService(cluster), call, moment);
        await settledIn(cluster, service).catch(() => undefined);
        expect(await settledIn(cluster)).toBeUndefined();
        expect([poolDump(cluster), poolDump(cluster, "ssd")]).toEqual([EMPTIED, GONE]);
        return crashed();
      });
      expect(deaths.before).toBeGreaterThan(8);
    });
  }

  test("finds the image's ID in the marker, where ceph-csi wrote it", async () => {
    const cluster = await split(`db-${UUID}`);
    const { id } = cluster.image("ssd", `db-${UUID}`);
    objectsOf(cluster).get(OBJECT)?.delete("csi.imageid");
    seed(cluster, { [OBJECT]: { "csi.imageid": id } }, "ssd");
    expect(await settledIn(cluster)).toBeUndefined();
    expect([poolDump(cluster), poolDump(cluster, "ssd")]).toEqual([EMPTIED, GONE]);
  });

  test("changes nothing while a pool cannot be read, and says what to do", async () => {
    const cluster = await split(`db-${UUID}`, {
      users: { admin: { key: MEMORY_KEY, manager: true, pools: ["ssd", "ec"] } },
    });
    const before = cluster.dump();
    const failure = await settledIn(cluster);
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("could not be told");
    expect(cluster.dump()).toEqual(before);
  });

  test("changes nothing while a pool does not answer", async () => {
    const cluster = await split(`db-${UUID}`);
    const before = cluster.dump();
    const ceph = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
      method === "omapGet" && subject.startsWith("ec/") ? Effect.fail(new TimedOut({ op: "read", subject })) : act,
    );
    expect((await settledIn(cluster, ceph))?.code).toBe("DEADLINE_EXCEEDED");
    expect(cluster.dump()).toEqual(before);
  });

  test("removes an empty entry whose volume is nowhere", async () => {
    const cluster = aCluster();
    seed(cluster, { [OBJECT]: {} }, "ssd");
    expect(await settledIn(cluster)).toBeUndefined();
    expect(poolDump(cluster, "ssd")).toEqual(GONE);
  });
});
