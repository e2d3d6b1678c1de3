/** Images that are there: growth, content, metadata, watchers; and the same calls where no image is. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { LIMIT, MIB, type Session } from "./harness.ts";

export const imageUseContract = (at: () => Session): void => {
  test(
    "Every call on an image that does not exist is ImageNotFound",
    async () => {
      const { fails, pool, fresh } = at();
      const image = fresh("image");
      const failures = [
        await fails((ceph) => ceph.imageStatus(pool, image)),
        await fails((ceph) => ceph.imageGrow(pool, image, MIB)),
        await fails((ceph) => ceph.imageHasData(pool, image, "any")),
        await fails((ceph) => ceph.imageMetaSet(pool, image, { k: "v" })),
        await fails((ceph) => ceph.trashMove(pool, image)),
      ];
      expect(failures.map((error) => error._tag)).toEqual(failures.map(() => "ImageNotFound"));
      expect(failures[0]?.message).toContain(`${pool.pool}/${image}`);
    },
    LIMIT,
  );

  test(
    "An image grows and never shrinks, and the answer is the size that it has",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const grow = (size: bigint) => run((ceph) => ceph.imageGrow(pool, image, size));
      expect(await grow(20n * MIB + 1n)).toBe(20n * MIB + 1n);
      expect(await grow(20n * MIB + 1n)).toBe(20n * MIB + 1n);
      expect(await grow(16n * MIB)).toBe(20n * MIB + 1n);
      expect(await grow(0n)).toBe(20n * MIB + 1n);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(20n * MIB + 1n);
    },
    LIMIT,
  );

  test(
    "Growers side by side leave the largest size",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const sizes = [24n, 48n, 32n, 40n].map((n) => n * MIB);
      await run((ceph) =>
        Effect.forEach(sizes, (size) => ceph.imageGrow(pool, image, size), { concurrency: "unbounded" }),
      );
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(48n * MIB);
    },
    LIMIT,
  );

  test(
    "A new or grown image holds no data, and an image that was written to does",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(false);
      await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB));
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(false);
      await world.write(pool, image);
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(true);
    },
    LIMIT,
  );

  test(
    "Data is found without object-map, with a data pool, and in a namespace",
    async () => {
      const { run, pool, inNamespace, world, fresh } = at();
      const cases = [
        { ref: pool, spec: { sizeBytes: 16n * MIB, features: 1n } },
        { ref: pool, spec: { sizeBytes: 16n * MIB, dataPool: world.dataPool } },
        { ref: inNamespace, spec: { sizeBytes: 16n * MIB, stripeUnit: 65_536n, stripeCount: 4n } },
      ];
      for (const { ref, spec } of cases) {
        const image = fresh("image");
        await run((ceph) => ceph.imageCreate(ref, image, spec));
        expect(await run((ceph) => ceph.imageHasData(ref, image, "any"))).toBe(false);
        await world.write(ref, image);
        expect(await run((ceph) => ceph.imageHasData(ref, image, "any"))).toBe(true);
      }
    },
    LIMIT,
  );

  test(
    "Metadata is set, read, overwritten and removed, and removal of an absent key succeeds",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const get = async (key: string) => (await world.metadata(pool, image))[key];
      expect(await get("csi.storage.k8s.io/pvc/name")).toBeUndefined();
      await run((ceph) =>
        ceph.imageMetaSet(pool, image, {
          "csi.storage.k8s.io/pvc/name": "data ü 🗝️",
          ".rbd.csi.ceph.com/cluster": "",
          long: "x".repeat(8192),
        }),
      );
      expect(await get("csi.storage.k8s.io/pvc/name")).toBe("data ü 🗝️");
      expect(await get(".rbd.csi.ceph.com/cluster")).toBe("");
      expect((await get("long"))?.length).toBe(8192);
      await run((ceph) => ceph.imageMetaSet(pool, image, { long: undefined, absent: undefined, a: "1" }));
      expect([await get("long"), await get("a")]).toEqual([undefined, "1"]);
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: "2" }));
      expect(await get("a")).toBe("2");
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: undefined }));
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: undefined }));
      await run((ceph) => ceph.imageMetaSet(pool, image, {}));
      expect(await get("a")).toBeUndefined();
      expect(await get("csi.storage.k8s.io/pvc/name")).toBe("data ü 🗝️");
    },
    LIMIT,
  );

  test(
    "The status lists other clients that have the image open, and not its own client",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const watchers = async () => (await run((ceph) => ceph.imageStatus(pool, image))).watchers;
      expect(await watchers()).toEqual([]);
      const close = await world.watch(pool, image);
      try {
        const open = await watchers();
        expect(open).toHaveLength(1);
        expect(open[0]).toMatch(/^\S+\/client\.\d+$/);
        // an image in use can still grow: that is what online expansion does
        expect(await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB))).toBe(32n * MIB);
      } finally {
        await close();
      }
      expect(await watchers()).toEqual([]);
    },
    LIMIT,
  );
};
