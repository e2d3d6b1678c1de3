/** Making images: features and layouts, what the status tells of them, names and ids. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { GIB, LIMIT, LONG_LIMIT, MIB, type Session } from "./harness.ts";

const LAYERING = 1n;
const STRIPING = 2n;
const EXCLUSIVE_LOCK = 4n;
const OBJECT_MAP = 8n;
const FAST_DIFF = 16n;
const JOURNALING = 64n;
const DATA_POOL = 128n;
/** layering, exclusive-lock, object-map, fast-diff, deep-flatten: what Ceph makes when nobody says otherwise. */
const DEFAULT = 61n;

export const imageContract = (at: () => Session): void => {
  const created = async (spec: ImageSpec) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, spec));
    return run((ceph) => ceph.imageStatus(pool, image));
  };

  test(
    "An image made without options has the cluster's defaults",
    async () => {
      const before = Date.now();
      const { id, createdAt, ...status } = await created({ sizeBytes: GIB });
      expect(id).toMatch(/^[0-9a-z]+$/);
      // two clocks, and one of them may count in whole seconds
      expect(createdAt).toBeGreaterThan(before - 2_000);
      expect(createdAt).toBeLessThan(Date.now() + 2_000);
      expect(status).toEqual({
        sizeBytes: GIB,
        features: DEFAULT,
        objectSize: 4n * MIB,
        stripeUnit: 4n * MIB,
        stripeCount: 1n,
        dataPool: undefined,
        watchers: [],
        locks: [],
        mirror: "disabled",
        parent: undefined,
        snapshotCount: 0,
        namedSnapshots: [],
        groupSnapshotCount: 0,
        metadata: new Map(),
      });
    },
    LIMIT,
  );

  test(
    "An image has exactly the features that the call asks for",
    async () => {
      for (const features of [0n, LAYERING, LAYERING | EXCLUSIVE_LOCK, DEFAULT]) {
        expect((await created({ sizeBytes: GIB, features })).features).toBe(features);
      }
    },
    LIMIT,
  );

  test(
    "Features that need others are InvalidCall without them",
    async () => {
      const { fails, run, pool, fresh } = at();
      for (const features of [OBJECT_MAP, OBJECT_MAP | FAST_DIFF, LAYERING | JOURNALING]) {
        const image = fresh("image");
        const error = await fails((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB, features }));
        expect([features, error._tag]).toEqual([features, "InvalidCall"]);
        expect(await run((ceph) => ceph.imageId(pool, image))).toBeUndefined();
      }
    },
    LIMIT,
  );

  test(
    "An image without object-map has no fast-diff, and this is not an error",
    async () => {
      const { features } = await created({ sizeBytes: GIB, features: LAYERING | EXCLUSIVE_LOCK | FAST_DIFF });
      expect(features).toBe(LAYERING | EXCLUSIVE_LOCK);
    },
    LIMIT,
  );

  test(
    "An image with object-map has fast-diff",
    async () => {
      const asked = LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP;
      expect((await created({ sizeBytes: GIB, features: asked })).features).toBe(asked | FAST_DIFF);
    },
    LIMIT,
  );

  test(
    "An image of an odd or a huge size is exact to the byte",
    async () => {
      for (const sizeBytes of [0n, 1n, 4097n, GIB + 1n, 5_497_558_138_881n]) {
        expect((await created({ sizeBytes })).sizeBytes).toBe(sizeBytes);
      }
    },
    LIMIT,
  );

  test(
    "An image has the object size and striping that the call asks for",
    async () => {
      const objects = await created({ sizeBytes: GIB, objectSize: 8n * MIB });
      expect([objects.objectSize, objects.stripeUnit, objects.stripeCount]).toEqual([8n * MIB, 8n * MIB, 1n]);
      expect(objects.features).toBe(DEFAULT);
      const striped = await created({ sizeBytes: GIB, objectSize: 2n * MIB, stripeUnit: 65_536n, stripeCount: 4n });
      expect([striped.objectSize, striped.stripeUnit, striped.stripeCount]).toEqual([2n * MIB, 65_536n, 4n]);
      expect(striped.features).toBe(DEFAULT | STRIPING);
      const exact = await created({ sizeBytes: GIB, features: LAYERING, stripeUnit: 65_536n, stripeCount: 4n });
      expect([exact.objectSize, exact.features]).toEqual([4n * MIB, LAYERING | STRIPING]);
      const plain = await created({ sizeBytes: GIB, stripeUnit: 4n * MIB, stripeCount: 1n });
      expect([plain.stripeUnit, plain.stripeCount, plain.features]).toEqual([4n * MIB, 1n, DEFAULT]);
    },
    LIMIT,
  );

  test(
    "A layout that Ceph can't make is InvalidCall",
    async () => {
      const { fails, run, pool, fresh } = at();
      const layouts: Partial<ImageSpec>[] = [
        { objectSize: 2048n },
        { objectSize: 64n * MIB },
        { stripeUnit: 65_536n },
        { stripeCount: 4n },
        { stripeUnit: 65_537n, stripeCount: 4n },
        { stripeUnit: 8n * MIB, stripeCount: 4n },
      ];
      for (const layout of layouts) {
        const image = fresh("image");
        const error = await fails((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB, ...layout }));
        expect([layout, error._tag]).toEqual([layout, "InvalidCall"]);
        expect(await run((ceph) => ceph.imageId(pool, image))).toBeUndefined();
      }
    },
    LIMIT,
  );

  test(
    "The status names the data pool, and an absent data pool is PoolNotFound",
    async () => {
      const { fails, world, pool, nowhere, fresh } = at();
      const status = await created({ sizeBytes: GIB, dataPool: world.dataPool });
      expect(status.dataPool).toBe(world.dataPool);
      expect(status.features).toBe(DEFAULT | DATA_POOL);
      const spec = { sizeBytes: GIB, dataPool: nowhere.pool };
      const error = await fails((ceph) => ceph.imageCreate(pool, fresh("image"), spec));
      expect(error._tag).toBe("PoolNotFound");
    },
    LIMIT,
  );

  test(
    "The header says what the status says, whatever the image is made of, and nothing of one that is not there",
    async () => {
      const { run, fails, pool, inNamespace, world, fresh } = at();
      const images = await Promise.all(
        [
          { sizeBytes: 0n },
          { sizeBytes: GIB, features: LAYERING, objectSize: 8n * MIB },
          { sizeBytes: MIB + 1n, dataPool: world.dataPool },
          { sizeBytes: GIB, stripeUnit: 65_536n, stripeCount: 4n },
          { sizeBytes: GIB, features: DEFAULT | JOURNALING },
        ].map(async (spec) => {
          const image = fresh("image");
          await run((ceph) => ceph.imageCreate(pool, image, spec));
          return image;
        }),
      );
      const [cloned = "", full = ""] = images;
      const [clone, alone] = [fresh("clone"), fresh("clone")];
      const snapshot = { pool, image: full, snapshot: "s" };
      for (const name of ["s", "t"]) await run((ceph) => ceph.snapshotCreate(pool, full, name));
      for (const name of [clone, alone]) await run((ceph) => ceph.imageClone(snapshot, pool, name, {}));
      await run((ceph) => ceph.imageFlatten(pool, alone));
      await run((ceph) => ceph.snapshotRemove(pool, full, "s"));
      await run((ceph) => ceph.imageMetaSet(pool, cloned, { a: "ü", b: "", other: "1" }));
      await run((ceph) => ceph.imageGrow(pool, cloned, 3n * MIB));
      await run((ceph) => ceph.imageCreate(inNamespace, cloned, { sizeBytes: GIB }));
      const keys = ["a", "b", "absent"];
      for (const [where, name] of [
        ...[...images, clone, alone].map((each) => [pool, each] as const),
        [inNamespace, cloned] as const,
      ]) {
        const header = await run((ceph) => ceph.imageHeader(where, name, keys));
        const status = await run((ceph) => ceph.imageStatus(where, name, keys));
        expect(status, name).toMatchObject(header);
        // a Map is not compared by what is in it
        expect(header.metadata).toEqual(status.metadata);
        expect(Object.keys(header)).toContain("createdAt");
        // an image is opened only for its parent
        expect([name, "watchers" in header]).toEqual([name, name === clone && "watchers" in header]);
        expect(await run((ceph) => ceph.imageHeader(where, name))).toEqual({ ...header, metadata: new Map() });
      }
      const { metadata } = await run((ceph) => ceph.imageHeader(pool, cloned, keys));
      expect(metadata).toEqual(
        new Map([
          ["a", "ü"],
          ["b", ""],
        ]),
      );
      expect((await run((ceph) => ceph.imageHeader(pool, full))).snapshotCount).toBe(2);
      expect((await run((ceph) => ceph.imageHeader(pool, clone))).parent?.image).toBe(full);
      expect((await fails((ceph) => ceph.imageHeader(pool, fresh("image"))))._tag).toBe("ImageNotFound");
    },
    LONG_LIMIT,
  );

  test(
    "A taken image name is Exists, and the image stays as it was",
    async () => {
      const { run, fails, pool, anImage } = at();
      const image = await anImage();
      const before = await run((ceph) => ceph.imageStatus(pool, image));
      const error = await fails((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB }));
      expect(error._tag).toBe("Exists");
      expect(await run((ceph) => ceph.imageStatus(pool, image))).toEqual(before);
    },
    LIMIT,
  );

  test(
    "Of creates of one image name side by side exactly one succeeds",
    async () => {
      const { run, pool, fresh } = at();
      const image = fresh("image");
      const answers = await run((ceph) =>
        Effect.forEach(
          [1n, 2n, 3n, 4n],
          (n) =>
            ceph.imageCreate(pool, image, { sizeBytes: n * MIB }).pipe(
              Effect.as("won"),
              Effect.catch((error) => Effect.succeed(error._tag)),
            ),
          { concurrency: "unbounded" },
        ),
      );
      expect(answers.toSorted()).toEqual(["Exists", "Exists", "Exists", "won"]);
      const { sizeBytes } = await run((ceph) => ceph.imageStatus(pool, image));
      expect(sizeBytes).toBe(BigInt(answers.indexOf("won") + 1) * MIB);
    },
    LIMIT,
  );

  test(
    "The id by name is the id of the status, and undefined for no image",
    async () => {
      const { run, pool, fresh, anImage } = at();
      const image = await anImage();
      const id = await run((ceph) => ceph.imageId(pool, image));
      expect(id).toBe((await run((ceph) => ceph.imageStatus(pool, image))).id);
      expect(await run((ceph) => ceph.imageId(pool, fresh("image")))).toBeUndefined();
      const other = await anImage();
      expect(await run((ceph) => ceph.imageId(pool, other))).not.toBe(id);
    },
    LIMIT,
  );

  test(
    "Images of one name in two namespaces are two images",
    async () => {
      const { run, pool, inNamespace, anImage } = at();
      const image = await anImage();
      expect(await run((ceph) => ceph.imageId(inNamespace, image))).toBeUndefined();
      await run((ceph) => ceph.imageCreate(inNamespace, image, { sizeBytes: GIB }));
      expect((await run((ceph) => ceph.imageStatus(inNamespace, image))).sizeBytes).toBe(GIB);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(16n * MIB);
      await run((ceph) => ceph.trashMove(inNamespace, image));
      expect(await run((ceph) => ceph.imageId(pool, image))).toBeDefined();
    },
    LIMIT,
  );
};
