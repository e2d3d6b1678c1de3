/**
 * The journal's bytes: which objects, keys and values a volume has, and what becomes of the states that ceph-csi, or a
 * crash of either driver, can leave. Names and values are those of ceph-csi's omaps, written out in full.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { NoSpace } from "../../../lib/ceph/errors.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { settled } from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  EAST,
  failureOf,
  PARAMETERS,
  poolDump,
  seed,
  seedImage,
  uuidOf,
} from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const OTHER = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";
const DIRECTORY = "csi.volumes.default";
const OBJECT = `csi.volume.${UUID}`;
const IMAGE = `csi-vol-${UUID}`;
const NAME_KEY = { "csi.volume.pvc-1": UUID };
const NOTHING = { objects: {}, images: {}, bareNames: {}, trash: {} };
const idIn = (poolId: number, uuid = UUID) => `0001-0004-east-${poolId.toString(16).padStart(16, "0")}-${uuid}`;

/** What a volume looks like once it is made: nothing but this. */
const complete = (imageId: string, uuid = UUID) => ({
  [DIRECTORY]: { "csi.volume.pvc-1": uuid },
  [`csi.volume.${uuid}`]: {
    "csi.imageid": imageId,
    "csi.imagename": `csi-vol-${uuid}`,
    "csi.volname": "pvc-1",
  },
});

describe("the journal of a created volume", () => {
  test("The journal of a created volume has these keys and no others", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const owner = { "csi.storage.k8s.io/pvc/namespace": "team-a", "csi.storage.k8s.io/pvc/name": "data" };
    const { volume } = await driver.createVolume(creation({ parameters: { ...PARAMETERS, ...owner } }));
    const uuid = uuidOf(volume.volumeId);
    expect(poolDump(cluster).objects).toEqual({
      "csi.volumes.default": { "csi.volume.pvc-1": uuid },
      [`csi.volume.${uuid}`]: {
        "csi.imageid": cluster.image("rbd", `csi-vol-${uuid}`).id,
        "csi.imagename": `csi-vol-${uuid}`,
        "csi.volname": "pvc-1",
        "csi.volume.owner": "team-a",
      },
    });
  });

  test("A volume without a claim has no owner; one with a prefix has an image name with that prefix", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation({ parameters: { ...PARAMETERS, volumeNamePrefix: "t-" } }));
    const uuid = uuidOf(volume.volumeId);
    expect(poolDump(cluster).objects[`csi.volume.${uuid}`]).toEqual({
      "csi.imageid": cluster.image("rbd", `t-${uuid}`).id,
      "csi.imagename": `t-${uuid}`,
      "csi.volname": "pvc-1",
    });
  });

  test("The journal entry is in the directory of its instance and the namespace of its cluster", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, {
      flags: { instanceid: "blue" },
      clusters: [{ ...EAST, radosNamespace: "tenant" }],
    });
    const { volume } = await driver.createVolume(creation());
    expect(poolDump(cluster, "rbd", "tenant").objects["csi.volumes.blue"]).toEqual({
      "csi.volume.pvc-1": uuidOf(volume.volumeId),
    });
    expect(poolDump(cluster)).toEqual(NOTHING);
  });

  test("CreateVolume writes name, attributes and image ID in this order, each only where nothing was before", async () => {
    const cluster = aCluster();
    const writes: unknown[] = [];
    const inner = cephMemoryService(cluster);
    await using driver = aDriver(cluster, {
      ceph: {
        ...inner,
        omapWrite: (pool, object, write) => {
          writes.push([object, write]);
          return inner.omapWrite(pool, object, write);
        },
      },
    });
    const { volume } = await driver.createVolume(creation());
    const uuid = uuidOf(volume.volumeId);
    const object = `csi.volume.${uuid}`;
    expect(writes).toEqual([
      [
        "csi.volumes.default",
        { object: "ensure", compare: { "csi.volume.pvc-1": "" }, set: { "csi.volume.pvc-1": uuid } },
      ],
      [
        object,
        {
          object: "ensure",
          compare: { "csi.volname": "", "csi-rbd.maker": "" },
          set: { "csi.volname": "pvc-1", "csi.imagename": `csi-vol-${uuid}` },
        },
      ],
      [
        object,
        {
          object: "require",
          compare: { "csi.imageid": "", "csi-rbd.maker": "" },
          set: { "csi.imageid": cluster.image("rbd", `csi-vol-${uuid}`).id },
        },
      ],
    ]);
  });

  test("The attributes are written while the image is made", async () => {
    const begun = Promise.withResolvers<void>();
    const ceph = intercepted(cephMemoryService(aCluster()), ({ method, subject }, act) => {
      if (method === "imageCreate") begun.resolve();
      const waits = method === "omapWrite" && subject.includes("csi.volume.");
      return waits
        ? Effect.andThen(
            Effect.promise(() => begun.promise),
            act,
          )
        : act;
    });
    await using driver = aDriver(aCluster(), { ceph });
    await driver.createVolume(creation());
  });

  test("The attributes are written before the image is made if only they tell its name", async () => {
    const order: string[] = [];
    const ceph = intercepted(cephMemoryService(aCluster()), ({ method, subject }, act) => {
      if (method === "imageCreate") order.push("image begun");
      const writes = method === "omapWrite" && subject.includes("csi.volume.");
      return writes ? Effect.tap(act, () => Effect.sync(() => order.push("attributes written"))) : act;
    });
    await using driver = aDriver(aCluster(), { ceph });
    await driver.createVolume(creation({ parameters: { ...PARAMETERS, volumeNamePrefix: "t-" } }));
    expect(order.slice(0, 2)).toEqual(["attributes written", "image begun"]);
  });

  test("An image that a crash left without attributes is used under its name, whatever prefix the class has now", async () => {
    const cluster = aCluster();
    seed(cluster, { [DIRECTORY]: NAME_KEY });
    const id = await seedImage(cluster, IMAGE);
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation({ parameters: { ...PARAMETERS, volumeNamePrefix: "t-" } }));
    expect(uuidOf(volume.volumeId)).toBe(UUID);
    expect(poolDump(cluster).objects).toEqual(complete(id));
    expect(Object.keys(poolDump(cluster).images)).toEqual([IMAGE]);
  });

  test("The driver reads the journal by its keys, never by listing", async () => {
    const cluster = aCluster();
    const names = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`csi.volume.old-${n}`, OTHER]));
    seed(cluster, { [DIRECTORY]: names });
    const asked: string[] = [];
    const attributes: (readonly string[])[] = [];
    const inner = cephMemoryService(cluster);
    await using driver = aDriver(cluster, {
      ceph: {
        ...inner,
        omapGet: (pool, object, keys) => {
          attributes.push(keys);
          return inner.omapGet(pool, object, keys);
        },
        omapFollow: (pool, object, key, to, parts) => {
          asked.push(key);
          attributes.push(to.keys);
          return inner.omapFollow(pool, object, key, to, parts);
        },
        omapList: () => Effect.die("a directory is listed"),
      },
    });
    await driver.createVolume(creation());
    await driver.createVolume(creation());
    expect(asked).toEqual(["csi.volume.pvc-1", "csi.volume.pvc-1"]);
    expect(Math.max(...attributes.map((keys) => keys.length))).toBeLessThan(10);
  });

  test("DeleteVolume leaves an empty directory and nothing else", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    await driver.deleteVolume(deletion(volume.volumeId));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual({ ...NOTHING, objects: { [DIRECTORY]: {} } });
  });
});

describe("a directory that is split", () => {
  const PART = `${DIRECTORY}.7`;
  const withNameInPart = async () => {
    const cluster = aCluster();
    const id = await seedImage(cluster, IMAGE);
    seed(cluster, {
      [PART]: { ...NAME_KEY, "csi.volume.pvc-2": OTHER },
      [OBJECT]: { "csi.volname": "pvc-1", "csi.imagename": IMAGE, "csi.imageid": id },
    });
    return cluster;
  };

  test("A volume whose name is in a part is found by CreateVolume, and nothing is written", async () => {
    const cluster = await withNameInPart();
    const before = poolDump(cluster);
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    expect(uuidOf(volume.volumeId)).toBe(UUID);
    expect(poolDump(cluster)).toEqual(before);
  });

  test("DeleteVolume frees the name in its part, and other names stay", async () => {
    const cluster = await withNameInPart();
    seed(cluster, { [DIRECTORY]: { "csi-rbd.nodes.pvc-1": "[]", "csi.volume.pvc-3": OTHER } });
    await using driver = aDriver(cluster);
    await driver.deleteVolume(deletion(idIn(2)));
    await settled(cluster);
    expect(poolDump(cluster).objects).toEqual({
      [PART]: { "csi.volume.pvc-2": OTHER },
      [DIRECTORY]: { "csi.volume.pvc-3": OTHER },
    });
  });

  test("DeleteVolume leaves a name in a part that has been given to another volume", async () => {
    const cluster = await withNameInPart();
    seed(cluster, { [PART]: { "csi.volume.pvc-1": OTHER, "csi.volume.pvc-2": OTHER } });
    await using driver = aDriver(cluster);
    await driver.deleteVolume(deletion(idIn(2)));
    await settled(cluster);
    expect(poolDump(cluster).objects).toEqual({ [PART]: { "csi.volume.pvc-1": OTHER, "csi.volume.pvc-2": OTHER } });
  });

  test("A new name goes to the directory itself", async () => {
    const cluster = await withNameInPart();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation({ name: "pvc-9" }));
    expect(poolDump(cluster).objects[DIRECTORY]).toEqual({ "csi.volume.pvc-9": uuidOf(volume.volumeId) });
  });
});

interface State {
  readonly what: string;
  readonly make: (cluster: MemoryCluster) => Promise<void> | void;
  /** What DeleteVolume of the UUID leaves of it. */
  readonly afterDelete: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

const attributes = { "csi.volname": "pvc-1", "csi.imagename": IMAGE };

const halfMade: readonly State[] = [
  {
    what: "a name without an object",
    make: (cluster) => seed(cluster, { [DIRECTORY]: NAME_KEY }),
    afterDelete: { [DIRECTORY]: NAME_KEY },
  },
  {
    what: "a name with an empty object",
    make: (cluster) => seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: {} }),
    afterDelete: { [DIRECTORY]: NAME_KEY },
  },
  {
    what: "a whole reservation without an image",
    make: (cluster) => seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: attributes }),
    afterDelete: { [DIRECTORY]: {} },
  },
  {
    what: "an image whose ID is not recorded",
    make: async (cluster) => {
      seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: attributes });
      await seedImage(cluster, IMAGE);
    },
    afterDelete: { [DIRECTORY]: {} },
  },
  {
    what: "the name of an image without its header",
    make: async (cluster) => {
      seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: attributes });
      await seedImage(cluster, IMAGE);
      cluster.cutShort("header", "rbd", IMAGE);
    },
    afterDelete: { [DIRECTORY]: {} },
  },
  {
    what: "an image without its object map",
    make: async (cluster) => {
      seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: attributes });
      await seedImage(cluster, IMAGE);
      cluster.cutShort("object-map", "rbd", IMAGE);
    },
    afterDelete: { [DIRECTORY]: {} },
  },
];

describe("a creation that was cut off", () => {
  for (const { what, make } of halfMade) {
    test(`CreateVolume finishes a creation that was cut off with its recorded UUID: ${what}`, async () => {
      const cluster = aCluster();
      await make(cluster);
      await using driver = aDriver(cluster);
      const { volume } = await driver.createVolume(creation());
      expect(volume.volumeId).toBe(idIn(2));
      const image = cluster.image("rbd", IMAGE);
      expect(image.objectMap).toBe("whole");
      expect(poolDump(cluster)).toMatchObject({ objects: complete(image.id), bareNames: {}, trash: {} });
      expect(Object.keys(poolDump(cluster).objects)).toHaveLength(2);
      expect(Object.keys(poolDump(cluster).images)).toEqual([IMAGE]);
      const before = cluster.dump();
      expect((await driver.createVolume(creation())).volume.volumeId).toBe(volume.volumeId);
      expect(cluster.dump()).toEqual(before);
      await driver.deleteVolume(deletion(volume.volumeId));
      await settled(cluster);
      expect(poolDump(cluster)).toEqual({ ...NOTHING, objects: { [DIRECTORY]: {} } });
    });
  }

  test("CreateVolume keeps the recorded owner and image name of a creation that was cut off", async () => {
    const cluster = aCluster();
    const recordedBefore = { ...attributes, "csi.imagename": `old-${UUID}`, "csi.volume.owner": "team-a" };
    seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: recordedBefore });
    await using driver = aDriver(cluster);
    const parameters = { ...PARAMETERS, "csi.storage.k8s.io/pvc/namespace": "team-b", volumeNamePrefix: "new-" };
    const { volume } = await driver.createVolume(creation({ parameters }));
    expect(volume.volumeContext["imageName"]).toBe(`old-${UUID}`);
    expect(poolDump(cluster).objects[OBJECT]).toEqual({
      ...recordedBefore,
      "csi.imageid": cluster.image("rbd", `old-${UUID}`).id,
    });
  });
});

describe("DeleteVolume of an unfinished volume", () => {
  for (const { what, make, afterDelete } of halfMade) {
    test(`DeleteVolume removes what an unfinished creation left: ${what}`, async () => {
      const cluster = aCluster();
      await make(cluster);
      await using driver = aDriver(cluster);
      await driver.deleteVolume(deletion(idIn(2)));
      await settled(cluster);
      expect(poolDump(cluster)).toEqual({ ...NOTHING, objects: afterDelete });
      // Whatever is left of the name still leads to one volume.
      const { volume } = await driver.createVolume(creation());
      expect(Object.keys(poolDump(cluster).images)).toEqual([`csi-vol-${uuidOf(volume.volumeId)}`]);
    });
  }

  test("DeleteVolume removes an image without a journal entry", async () => {
    const cluster = aCluster();
    await seedImage(cluster, IMAGE);
    await using driver = aDriver(cluster);
    await driver.deleteVolume(deletion(idIn(2)));
    await settled(cluster);
    expect(poolDump(cluster)).toEqual(NOTHING);
  });

  test("DeleteVolume removes an object whose name belongs to another volume, and that volume keeps the name", async () => {
    const cluster = aCluster();
    seed(cluster, { ...complete("0000000000aa", OTHER), [OBJECT]: { ...attributes, "csi.imageid": "0000000000bb" } });
    await using driver = aDriver(cluster);
    await driver.deleteVolume(deletion(idIn(2)));
    expect(poolDump(cluster)).toEqual({ ...NOTHING, objects: complete("0000000000aa", OTHER) });
  });
});

describe("an object without a name in the directory", () => {
  test("CreateVolume does not touch an object without a name, and takes another UUID", async () => {
    const cluster = aCluster();
    seed(cluster, { [OBJECT]: {} });
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    const uuid = uuidOf(volume.volumeId);
    expect(uuid).not.toBe(UUID);
    const imageId = cluster.image("rbd", `csi-vol-${uuid}`).id;
    expect(poolDump(cluster).objects).toEqual({ ...complete(imageId, uuid), [OBJECT]: {} });
  });
});

describe("an entry that names the image's pool", () => {
  const entry = `0000000000000003/${UUID}`;

  test("CreateVolume finds the volume in the pool that the entry names, and leaves the journal as it is", async () => {
    const cluster = aCluster();
    const imageId = await seedImage(cluster, IMAGE, "ssd");
    const journal = {
      [DIRECTORY]: { "csi.volume.pvc-1": entry },
      [OBJECT]: { ...attributes, "csi.imageid": imageId, "csi.journalpool": "0000000000000002" },
    };
    seed(cluster, journal);
    seed(cluster, { [OBJECT]: {} }, "ssd");
    await using driver = aDriver(cluster);
    const before = cluster.dump();
    const { volume } = await driver.createVolume(creation());
    expect(volume.volumeId).toBe(idIn(3));
    expect(volume.volumeContext["journalPool"]).toBe("rbd");
    expect(cluster.dump()).toEqual(before);
  });

  test("CreateVolume finishes a creation in the pool that the entry names", async () => {
    const cluster = aCluster();
    seed(cluster, { [DIRECTORY]: { "csi.volume.pvc-1": entry } });
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    expect(volume.volumeId).toBe(idIn(3));
    expect(Object.keys(poolDump(cluster).images)).toEqual([]);
    expect(poolDump(cluster).objects).toEqual({
      [DIRECTORY]: { "csi.volume.pvc-1": entry },
      [OBJECT]: { ...attributes, "csi.imageid": cluster.image("ssd", IMAGE).id },
    });
  });

  test("An entry that names a removed pool frees the name", async () => {
    const cluster = aCluster();
    cluster.removePool("ssd");
    seed(cluster, { [DIRECTORY]: { "csi.volume.pvc-1": entry }, [OBJECT]: { ...attributes, "csi.imageid": "1" } });
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    const uuid = uuidOf(volume.volumeId);
    expect(uuid).not.toBe(UUID);
    expect(poolDump(cluster).objects).toEqual(complete(cluster.image("rbd", `csi-vol-${uuid}`).id, uuid));
  });
});

describe("entries that no driver writes", () => {
  const entries = [
    "",
    "short",
    UUID.slice(1),
    `${UUID}0`,
    UUID.replace("b", "x"),
    "x".repeat(36),
    `3/${UUID}`,
    `000000000000000g/${UUID}`,
    `ffffffffffffffff/${UUID}`,
    `0000000000000003/${UUID.slice(1)}`,
    `0000000000000003/${"x".repeat(36)}`,
    `0000000000000003/${UUID}/`,
    `/${UUID}`,
    "\u0000\u{1f4a9}/".repeat(40),
  ];
  for (const entry of entries) {
    test(`CreateVolume answers INTERNAL to the entry ${JSON.stringify(entry).slice(0, 70)}, names it, and leaves it`, async () => {
      const cluster = aCluster();
      seed(cluster, { [DIRECTORY]: { "csi.volume.pvc-1": entry } });
      const before = cluster.dump();
      await using driver = aDriver(cluster);
      const failure = await failureOf(driver.createVolume(creation()));
      expect(failure?.code).toBe("INTERNAL");
      expect(failure?.message).toContain("csi.volumes.default in pool rbd maps pvc-1 to");
      expect(cluster.dump()).toEqual(before);
    });
  }

  test("CreateVolume answers INTERNAL to an object that belongs to another name, names it, and leaves it", async () => {
    const cluster = aCluster();
    seed(cluster, { [DIRECTORY]: NAME_KEY, [OBJECT]: { ...attributes, "csi.volname": "pvc-9" } });
    const before = cluster.dump();
    await using driver = aDriver(cluster);
    const failure = await failureOf(driver.createVolume(creation()));
    expect(failure?.code).toBe("INTERNAL");
    expect(failure?.message).toContain(`${OBJECT} in pool rbd belongs to pvc-9`);
    expect(cluster.dump()).toEqual(before);
  });
});

describe("two drivers that create one name", () => {
  test("Of two drivers that create one name the second gets ABORTED, and its retry gets the first one's volume", async () => {
    const cluster = aCluster();
    await using other = aDriver(cluster);
    let raced = false;
    // The other driver is done between our look and our write.
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (raced || call.method !== "omapWrite") return act;
      raced = true;
      return Effect.andThen(
        Effect.promise(() => other.createVolume(creation())),
        act,
      );
    });
    await using driver = aDriver(cluster, { ceph });
    expect(await codeOf(driver.createVolume(creation()))).toBe("ABORTED");
    const { volume } = await driver.createVolume(creation());
    expect(volume).toEqual((await other.createVolume(creation())).volume);
    expect(Object.keys(poolDump(cluster).images)).toHaveLength(1);
    expect(Object.keys(poolDump(cluster).objects)).toHaveLength(2);
  });

  test("The volume that one driver finished stays when the other fails at its end and undoes", async () => {
    const cluster = aCluster();
    await using other = aDriver(cluster);
    let writes = 0;
    // The other driver is done between our image and our last write, which then fails for good.
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "omapWrite" || ++writes !== 3) return act;
      return Effect.andThen(
        Effect.promise(() => other.createVolume(creation())),
        Effect.fail(new NoSpace({ op: "rados_write_op_operate", subject: call.subject })),
      );
    });
    await using driver = aDriver(cluster, { ceph });
    expect(await codeOf(driver.createVolume(creation()))).toBe("RESOURCE_EXHAUSTED");
    const { objects, images, trash } = poolDump(cluster);
    const uuid = objects[DIRECTORY]?.["csi.volume.pvc-1"] ?? "";
    expect(objects).toEqual(complete(cluster.image("rbd", `csi-vol-${uuid}`).id, uuid));
    expect(Object.keys(images)).toHaveLength(1);
    expect(trash).toEqual({});
    expect(driver.log.some((line) => line.startsWith('could not undo "create image"'))).toBe(true);
  });

  test("Two drivers finish together one creation that was cut off", async () => {
    for (const { make } of halfMade) {
      const cluster = aCluster();
      await make(cluster);
      const watched = recorded(cephMemoryService(cluster));
      await using first = aDriver(cluster, { ceph: watched.service });
      await using second = aDriver(cluster);
      const settled = await Promise.allSettled([first.createVolume(creation()), second.createVolume(creation())]);
      expect(settled.some(({ status }) => status === "fulfilled")).toBe(true);
      for (const driver of [first, second]) {
        expect((await driver.createVolume(creation())).volume.volumeId).toBe(idIn(2));
      }
      expect(Object.keys(poolDump(cluster).images)).toEqual([IMAGE]);
    }
  });
});
