/** Images whose maker died on the way: what is seen of them, and how they are mended. */
import { expect, test } from "bun:test";
import { GIB, LIMIT, MIB, type Session } from "./harness.ts";

export const mendContract = (at: () => Session): void => {
  test(
    "A mend of a whole image changes nothing, and a mend of a missing image makes none",
    async () => {
      const { run, pool, world, fresh, anImage } = at();
      const image = await anImage();
      await world.write(pool, image);
      const before = await run((ceph) => ceph.imageStatus(pool, image));
      expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(true);
      expect(await run((ceph) => ceph.imageStatus(pool, image))).toEqual(before);
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(true);
      const absent = fresh("image");
      expect(await run((ceph) => ceph.imageMend(pool, absent))).toBe(false);
      expect(await run((ceph) => ceph.imageId(pool, absent))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A name that leads to no image stays taken until it is mended",
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
    "A mend rebuilds a lost object map",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await world.cutShort("object-map", pool, image);
      expect(await world.hasObjectMap(pool, image)).toBe(false);
      expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(true);
      expect(await world.hasObjectMap(pool, image)).toBe(true);
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(false);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(16n * MIB);
    },
    LIMIT,
  );

  for (const [cut, named] of [
    ["trash-entered", true],
    ["name-gone", false],
    ["entry-gone", false],
  ] as const) {
    test(
      `A move to the trash that was cut short (${cut}) is finished by a repeated move`,
      async () => {
        const { run, fails, pool, world, anImage } = at();
        const name = await anImage();
        const { id } = await run((ceph) => ceph.imageStatus(pool, name));
        await world.cutShort(cut, pool, name);
        expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual({ id, name, source: "user" });
        expect(await run((ceph) => ceph.imageId(pool, name))).toBe(named ? id : undefined);
        expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("CephFailed");
        await run((ceph) => ceph.trashMove(pool, name));
        expect(await run((ceph) => ceph.imageId(pool, name))).toBeUndefined();
        expect((await fails((ceph) => ceph.trashMove(pool, name)))._tag).toBe("ImageNotFound");
        await run((ceph) => ceph.trashRemove(pool, id));
        expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
        await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: MIB }));
      },
      LIMIT,
    );
  }

  test(
    "The name of an image that is half in the trash stays taken until it is mended",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const name = await anImage();
      await world.cutShort("name-gone", pool, name);
      expect((await fails((ceph) => ceph.imageStatus(pool, name)))._tag).toBe("ImageNotFound");
      expect((await fails((ceph) => ceph.imageCreate(pool, name, { sizeBytes: MIB })))._tag).toBe("Exists");
      expect(await run((ceph) => ceph.imageMend(pool, name))).toBe(false);
      await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: MIB }));
      expect((await run((ceph) => ceph.imageStatus(pool, name))).sizeBytes).toBe(MIB);
    },
    LIMIT,
  );
};
