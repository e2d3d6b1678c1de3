/** Sparsifying: zeros that take space are freed, and nothing that one reads changes. */
import { expect, test } from "bun:test";
import { LIMIT, MIB, type Session } from "./harness.ts";

const OBJECT = 4n * MIB;

export const sparsifyContract = (at: () => Session): void => {
  test(
    "A sparsified image has lost its objects of zeros, and reads as before",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const held = () => run((ceph) => ceph.imageHasData(pool, image, "own"));
      await world.writeZeros(pool, image);
      expect(await held()).toBe(true);
      await run((ceph) => ceph.imageSparsify(pool, image));
      expect(await held()).toBe(false);

      await world.write(pool, image, { offset: OBJECT, length: 4096n });
      await world.writeZeros(pool, image);
      const before = await world.content(pool, image);
      await run((ceph) => ceph.imageSparsify(pool, image));
      expect(await world.content(pool, image)).toBe(before);
      expect(await held()).toBe(true);
    },
    LIMIT,
  );

  test(
    "Zeros that a clone has over the data of its parent stay zeros",
    async () => {
      const { run, pool, world, fresh, aSource } = at();
      const source = await aSource();
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, clone, {}));
      await world.writeZeros(pool, clone);
      const before = await world.content(pool, clone);
      await run((ceph) => ceph.imageSparsify(pool, clone));
      expect(await world.content(pool, clone)).toBe(before);
    },
    LIMIT,
  );

  test(
    "An image that does not exist cannot be sparsified",
    async () => {
      const { fails, pool, fresh } = at();
      expect((await fails((ceph) => ceph.imageSparsify(pool, fresh("nothing"))))._tag).toBe("ImageNotFound");
    },
    LIMIT,
  );
};
