/** The way out of the pool: into the trash, and from there for good. */
import { DRIVERS_MARKS } from "../../lib/ceph/rbd.ts";
import { expect, test } from "bun:test";
import { LIMIT, type Session } from "./harness.ts";

export const trashContract = (at: () => Session): void => {
  /** An image in the trash -> its name and id. */
  const trashed = async (ref = at().pool) => {
    const { run, anImage } = at();
    const name = await anImage(ref);
    const { id } = await run((ceph) => ceph.imageStatus(ref, name));
    await run((ceph) => ceph.trashMove(ref, name));
    return { id, name };
  };

  test(
    "An image in the trash keeps its name there, and has none in the pool",
    async () => {
      const { run, fails, pool } = at();
      const { id, name } = await trashed();
      const entry = { id, name, source: "user" as const };
      expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual(entry);
      expect(await run((ceph) => ceph.trashList(pool))).toContainEqual(entry);
      expect(await run((ceph) => ceph.imageId(pool, name))).toBeUndefined();
      expect((await fails((ceph) => ceph.imageStatus(pool, name)))._tag).toBe("ImageNotFound");
      expect((await fails((ceph) => ceph.trashMove(pool, name)))._tag).toBe("ImageNotFound");
    },
    LIMIT,
  );

  test(
    "The name of an image in the trash can be used and trashed again",
    async () => {
      const { run, pool } = at();
      const { id, name } = await trashed();
      await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: 4096n }));
      const second = await run((ceph) => ceph.imageId(pool, name));
      expect(second).not.toBe(id);
      await run((ceph) => ceph.trashMove(pool, name));
      const listed = await run((ceph) => ceph.trashList(pool));
      const ids = listed.filter((entry) => entry.name === name).map((entry) => entry.id);
      expect(ids.toSorted()).toEqual([id, second ?? ""].toSorted());
    },
    LIMIT,
  );

  test(
    "An image that is not in the trash is undefined there, and its removal changes nothing",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const id = (await run((ceph) => ceph.imageId(pool, image))) ?? "";
      for (const absent of ["0123456789ab", id]) {
        expect(await run((ceph) => ceph.trashGet(pool, absent))).toBeUndefined();
        await run((ceph) => ceph.trashRemove(pool, absent));
      }
      expect(await run((ceph) => ceph.imageId(pool, image))).toBe(id);
    },
    LIMIT,
  );

  test(
    "Each namespace has a trash of its own",
    async () => {
      const { run, pool, inNamespace } = at();
      const { id, name } = await trashed(inNamespace);
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
      expect((await run((ceph) => ceph.trashList(pool))).some((entry) => entry.id === id)).toBe(false);
      expect(await run((ceph) => ceph.trashList(inNamespace))).toContainEqual({ id, name, source: "user" });
      await run((ceph) => ceph.trashRemove(inNamespace, id));
      expect(await run((ceph) => ceph.trashGet(inNamespace, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "An image that somebody watches can be moved to the trash, and its removal is Busy and leaves it",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const name = await anImage();
      const { id } = await run((ceph) => ceph.imageStatus(pool, name));
      const close = await world.watch(pool, name);
      try {
        await run((ceph) => ceph.trashMove(pool, name));
        const error = await fails((ceph) => ceph.trashRemove(pool, id));
        expect(error._tag).toBe("Busy");
        expect(error.message).toContain(`${pool.pool}/${id}`);
        expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual({ id, name, source: "user" });
      } finally {
        await close();
      }
      await run((ceph) => ceph.trashRemove(pool, id));
    },
    LIMIT,
  );

  test(
    "Of some images, those in the pool and in its trash are still there, in the order in which they are named",
    async () => {
      const { run, pool, inNamespace, anImage } = at();
      const name = await anImage();
      const { id } = await run((ceph) => ceph.imageStatus(pool, name));
      const [elsewhere, gone, there] = [await trashed(inNamespace), await trashed(), await trashed()];
      await run((ceph) => ceph.trashRemove(pool, gone.id));
      const ids = ["absent", there.id, gone.id, elsewhere.id, id];
      expect(await run((ceph) => ceph.imagesStillThere(pool, ids))).toEqual([there.id, id]);
      expect(await run((ceph) => ceph.imagesStillThere(inNamespace, ids))).toEqual([elsewhere.id]);
      expect(await run((ceph) => ceph.imagesStillThere(pool, []))).toEqual([]);
    },
    LIMIT,
  );

  test(
    "An image removed from the trash is gone with its data, and a second removal succeeds",
    async () => {
      const { run, pool, world, anImage } = at();
      const name = await anImage();
      await world.write(pool, name);
      const { id } = await run((ceph) => ceph.imageStatus(pool, name));
      await run((ceph) => ceph.trashMove(pool, name));
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
      expect((await run((ceph) => ceph.trashList(pool))).some((entry) => entry.id === id)).toBe(false);
      await run((ceph) => ceph.trashRemove(pool, id));
    },
    LIMIT,
  );

  test(
    "An image that the trash protects says until when, and its removal is denied and leaves it",
    async () => {
      const { run, fails, pool, anImage } = at();
      const name = await anImage();
      const id = (await run((ceph) => ceph.imageId(pool, name))) ?? "";
      const before = Date.now();
      await run((ceph) => ceph.trashMove(pool, name, 3600));
      const entry = await run((ceph) => ceph.trashGet(pool, id));
      expect(entry).toEqual({ id, name, source: "user", protectedUntil: expect.any(Number) });
      // whole seconds of Ceph's clock
      expect(entry?.protectedUntil).toBeWithin(before + 3_598_000, Date.now() + 3_602_000);
      expect(await run((ceph) => ceph.trashList(pool))).toContainEqual(entry ?? { id, name, source: "other" });
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("AccessDenied");
      expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual(entry);
    },
    LIMIT,
  );

  test(
    "An image with a driver's mark has no protection from the driver, and says that a driver moved it",
    async () => {
      const { run, pool, anImage } = at();
      for (const byDriver of ["small", "large"] as const) {
        const name = await anImage();
        const id = (await run((ceph) => ceph.imageId(pool, name))) ?? "";
        await run((ceph) => ceph.trashMove(pool, name, DRIVERS_MARKS[byDriver]));
        const entry = { id, name, source: "user", byDriver } as const;
        expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual(entry);
        expect(await run((ceph) => ceph.trashList(pool))).toContainEqual(entry);
        await run((ceph) => ceph.trashRemove(pool, id));
        expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
      }
    },
    LIMIT,
  );

  test(
    "An image is moved by its name only while the name leads to it",
    async () => {
      const { run, fails, pool } = at();
      const { id, name } = await trashed();
      await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: 4096n }));
      expect((await fails((ceph) => ceph.trashMove(pool, name, 0, id)))._tag).toBe("ImageNotFound");
      const second = (await run((ceph) => ceph.imageId(pool, name))) ?? "";
      expect(second).not.toBe("");
      await run((ceph) => ceph.trashMove(pool, name, 0, second));
      expect(await run((ceph) => ceph.imageId(pool, name))).toBeUndefined();
      expect((await fails((ceph) => ceph.trashMove(pool, name, 0, second)))._tag).toBe("ImageNotFound");
      for (const each of [id, second]) await run((ceph) => ceph.trashRemove(pool, each));
    },
    LIMIT,
  );

  test(
    "The trash is listed whole, however long the list is",
    async () => {
      const { run, pool } = at();
      const before = (await run((ceph) => ceph.trashList(pool))).length;
      const ids: string[] = [];
      for (let i = 0; i < 40; i++) ids.push((await trashed()).id);
      const listed = (await run((ceph) => ceph.trashList(pool))).map(({ id }) => id);
      expect(listed).toHaveLength(before + 40);
      expect(ids.filter((id) => !listed.includes(id))).toEqual([]);
    },
    LIMIT,
  );
};
