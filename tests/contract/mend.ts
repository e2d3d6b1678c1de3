/** Images whose maker died on the way: what is seen of them, and how they are mended. */
import { expect, test } from "bun:test";
import { GIB, LIMIT, MIB, type Session } from "./harness.ts";

export const mendContract = (at: () => Session): void => {
  test(
    "an image that is whole is not touched, and one that is not there is not made",
    async () => {
      const { run, pool, world, fresh, anImage } = at();
      const image = await anImage();
      await world.write(pool, image);
      const before = await run((ceph) => ceph.imageStatus(pool, image));
      expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(true);
      expect(await run((ceph) => ceph.imageStatus(pool, image))).toEqual(before);
      expect(await run((ceph) => ceph.imageHasData(pool, image))).toBe(true);
      const absent = fresh("image");
      expect(await run((ceph) => ceph.imageMend(pool, absent))).toBe(false);
      expect(await run((ceph) => ceph.imageId(pool, absent))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "a name that leads to no image blocks its name until it is mended",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const image = await anImage();
      await world.cutShort("header", pool, image);
      expect(await run((ceph) => ceph.imageId(pool, image))).toBeDefined();
      expect((await fails((ceph) => ceph.imageStatus(pool, image)))._tag).toBe("ImageNotFound");
      expect((await fails((ceph) => ceph.imageGrow(pool, image, GIB)))._tag).toBe("ImageNotFound");
      expect((await fails((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB })))._tag).toBe("Exists");
      expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(false);
      expect(await run((ceph) => ceph.imageId(pool, image))).toBeUndefined();
      await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB }));
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(GIB);
    },
    LIMIT,
  );

  test(
    "a lost object map is rebuilt",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await world.cutShort("object-map", pool, image);
      expect(await world.hasObjectMap(pool, image)).toBe(false);
      expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(true);
      expect(await world.hasObjectMap(pool, image)).toBe(true);
      expect(await run((ceph) => ceph.imageHasData(pool, image))).toBe(false);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(16n * MIB);
    },
    LIMIT,
  );
};
