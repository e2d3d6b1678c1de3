/**
 * What snapshots differ in. Ceph may tell more than was changed, up to whole objects, never less: an object that nobody
 * touched is not in the answer.
 */
import { expect, test } from "bun:test";
import type { Extent } from "../../lib/ceph/rbd.ts";
import { LIMIT, MIB, type Session, type Stretch } from "./harness.ts";

const OBJECT = 4n * MIB;
/** Of images of 16 MiB. */
const OBJECTS = [0, 1, 2, 3];
const ALL = 1000;

const end = ({ offset, length }: Stretch): bigint => offset + length;
const covers = (extents: readonly Extent[], stretch: Stretch, exists: boolean): boolean =>
  extents.some((extent) => extent.exists === exists && extent.offset <= stretch.offset && end(extent) >= end(stretch));
/** The objects that any of the extents is in. */
const objectsIn = (extents: readonly Extent[]): readonly number[] =>
  OBJECTS.filter((n) => {
    const object = { offset: BigInt(n) * OBJECT, length: OBJECT };
    return extents.some((extent) => extent.offset < end(object) && end(extent) > object.offset);
  });
const areInOrder = (extents: readonly Extent[]): boolean =>
  extents.every((extent, i) => {
    const before = extents[i - 1];
    if (before === undefined) return extent.length > 0n;
    const joined = end(before) === extent.offset && before.exists === extent.exists;
    return extent.length > 0n && end(before) <= extent.offset && !joined;
  });

export const diffContract = (at: () => Session): void => {
  const snapshot = (image: string, name: string) => at().run((ceph) => ceph.snapshotCreate(at().pool, image, name));
  const diff = async (image: string, to: string | bigint, from?: string | bigint) => {
    const { run, pool } = at();
    const { extents, sizeBytes } = await run((ceph) => ceph.diff({ pool, image, snapshot: to }, from, 0n, ALL));
    expect(areInOrder(extents)).toBe(true);
    return { extents, sizeBytes };
  };
  const at8: Stretch = { offset: 8n * MIB + 8192n, length: 4096n };
  const across: Stretch = { offset: 4n * MIB - 65_536n, length: 131_072n };

  test(
    "The differences of an empty image are empty, and those of a written image are what was written",
    async () => {
      const { pool, world, anImage } = at();
      const image = await anImage();
      await snapshot(image, "empty");
      await world.write(pool, image, at8);
      await world.write(pool, image, across);
      await snapshot(image, "full");
      expect(await diff(image, "empty")).toEqual({ extents: [], sizeBytes: 16n * MIB });
      const { extents } = await diff(image, "full");
      expect(covers(extents, at8, true)).toBe(true);
      expect(covers(extents, across, true)).toBe(true);
      expect(objectsIn(extents)).toEqual([0, 1, 2]);
      expect(extents.every(({ exists }) => exists)).toBe(true);
    },
    LIMIT,
  );

  test(
    "The differences between two snapshots are what was written or discarded since the first",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await world.write(pool, image, across);
      await world.write(pool, image, at8);
      await snapshot(image, "one");
      await world.write(pool, image, at8);
      await world.discard(pool, image, { offset: 0n, length: OBJECT });
      await run((ceph) => ceph.imageGrow(pool, image, 20n * MIB));
      await snapshot(image, "two");
      await world.write(pool, image);
      const { extents, sizeBytes } = await diff(image, "two", "one");
      expect(sizeBytes).toBe(20n * MIB);
      expect(covers(extents, at8, true)).toBe(true);
      expect(covers(extents, { offset: 4n * MIB - 65_536n, length: 65_536n }, false)).toBe(true);
      expect(objectsIn(extents)).toEqual([0, 2]);
      const full = await diff(image, "two");
      expect(objectsIn(full.extents)).toEqual([1, 2]);
      expect((await diff(image, "one")).sizeBytes).toBe(16n * MIB);
    },
    LIMIT,
  );

  test(
    "The differences by snapshot id are the same as by name",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await snapshot(image, "one");
      await world.write(pool, image, at8);
      await snapshot(image, "two");
      const [one, two] = await run((ceph) => ceph.snapshots(pool, image));
      const named = await diff(image, "two", "one");
      expect(objectsIn(named.extents)).toEqual([2]);
      expect(await diff(image, two?.id ?? 0n, one?.id ?? 0n)).toEqual(named);
      expect(await diff(image, two?.id ?? 0n)).toEqual(await diff(image, "two"));
    },
    LIMIT,
  );

  test(
    "Pages of any size, each from the end of the last one, make up all differences",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      for (const n of OBJECTS) {
        await world.write(pool, image, { offset: BigInt(n) * OBJECT + 65_536n, length: 4096n });
        await world.write(pool, image, { offset: BigInt(n) * OBJECT + 2n * MIB, length: 4096n });
      }
      await snapshot(image, "s");
      const whole = await diff(image, "s");
      for (const limit of [1, 2, 3, ALL]) {
        const found: Extent[] = [];
        for (let offset = 0n; ; ) {
          const page = await run((ceph) => ceph.diff({ pool, image, snapshot: "s" }, undefined, offset, limit));
          expect(page.sizeBytes).toBe(16n * MIB);
          expect(page.extents.length).toBeLessThanOrEqual(limit);
          const last = page.extents.at(-1);
          if (last === undefined) break;
          found.push(...page.extents);
          offset = end(last);
        }
        expect([limit, found]).toEqual([limit, [...whole.extents]]);
      }
    },
    LIMIT,
  );

  test(
    "The differences from an offset begin at the offset inside an extent, and are empty past the end",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await world.write(pool, image, { offset: 4n * MIB, length: 8n * MIB });
      await snapshot(image, "s");
      const from = async (offset: bigint) =>
        (await run((ceph) => ceph.diff({ pool, image, snapshot: "s" }, undefined, offset, ALL))).extents;
      const exists = true;
      expect(await from(0n)).toEqual([{ offset: 4n * MIB, length: 8n * MIB, exists }]);
      expect(await from(4n * MIB)).toEqual([{ offset: 4n * MIB, length: 8n * MIB, exists }]);
      expect(await from(6n * MIB)).toEqual([{ offset: 6n * MIB, length: 6n * MIB, exists }]);
      expect(await from(6n * MIB + 1n)).toEqual([{ offset: 6n * MIB + 1n, length: 6n * MIB - 1n, exists }]);
      expect(await from(12n * MIB)).toEqual([]);
      expect(await from(16n * MIB)).toEqual([]);
      expect(await from(99n * MIB)).toEqual([]);
    },
    LIMIT,
  );

  test(
    "The differences of a striped image are in the order of offsets, with neighbours joined",
    async () => {
      const { run, pool, world, fresh } = at();
      const image = fresh("image");
      const layout = { objectSize: MIB, stripeUnit: 65_536n, stripeCount: 4n };
      await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 16n * MIB, ...layout }));
      await world.write(pool, image, { offset: 0n, length: 8n * MIB });
      await snapshot(image, "s");
      expect((await diff(image, "s")).extents).toEqual([{ offset: 0n, length: 8n * MIB, exists: true }]);
    },
    LIMIT,
  );

  test(
    "The whole content of a clone includes its parents', and a difference has only what was written to the clone",
    async () => {
      const { run, pool, world, fresh, anImage } = at();
      const source = await anImage();
      await world.write(pool, source, across);
      await snapshot(source, "s");
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, clone, {}));
      await snapshot(clone, "one");
      await world.write(pool, clone, at8);
      await snapshot(clone, "two");
      expect(objectsIn((await diff(clone, "one")).extents)).toEqual([0, 1]);
      const { extents } = await diff(clone, "two");
      expect(objectsIn(extents)).toEqual([0, 1, 2]);
      expect(covers(extents, across, true)).toBe(true);
      expect(objectsIn((await diff(clone, "two", "one")).extents)).toEqual([2]);
      // what covers a parent's bytes is a difference as well
      await world.write(pool, clone, { offset: across.offset, length: 4096n });
      await snapshot(clone, "three");
      const third = await diff(clone, "three", "two");
      expect(covers(third.extents, { offset: across.offset, length: 4096n }, true)).toBe(true);
      expect(objectsIn(third.extents)).toEqual([0]);
    },
    LIMIT,
  );

  test(
    "A snapshot has no differences from itself, and a difference from a newer to an older one is InvalidCall",
    async () => {
      const { fails, pool, world, aSource } = at();
      const image = await aSource();
      await world.write(pool, image);
      await snapshot(image, "later");
      expect((await diff(image, "s", "s")).extents).toEqual([]);
      const error = await fails((ceph) => ceph.diff({ pool, image, snapshot: "s" }, "later", 0n, ALL));
      expect(error._tag).toBe("InvalidCall");
    },
    LIMIT,
  );

  test(
    "A snapshot that does not exist is SnapshotNotFound, on either side of a difference",
    async () => {
      const { fails, pool, aSource } = at();
      const image = await aSource();
      const tries: readonly (readonly [string | bigint, string | bigint | undefined])[] = [
        ["absent", undefined],
        ["absent", "s"],
        ["s", "absent"],
        [987_654n, undefined],
        ["s", 987_654n],
      ];
      for (const [to, from] of tries) {
        const error = await fails((ceph) => ceph.diff({ pool, image, snapshot: to }, from, 0n, ALL));
        expect([to, from, error._tag]).toEqual([to, from, "ImageSnapshotNotFound"]);
        expect(error.message).toContain(`${pool.pool}/${image}@`);
      }
    },
    LIMIT,
  );

  test(
    "The differences of a snapshot in the snapshots' trash are read by its id; those since it are exact where the client is new enough",
    async () => {
      const { run, pool, world, fresh, anImage } = at();
      const image = await anImage();
      await world.write(pool, image, across);
      await snapshot(image, "s");
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, fresh("clone"), {}));
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      await world.write(pool, image, at8);
      await snapshot(image, "later");
      const [trashed] = await run((ceph) => ceph.snapshots(pool, image));
      expect(trashed?.kind).toBe("trash");
      const id = trashed?.id ?? 0n;
      expect(objectsIn((await diff(image, id)).extents)).toEqual([0, 1]);
      const { extents } = await diff(image, "later", id);
      expect(covers(extents, at8, true)).toBe(true);
      expect(objectsIn(extents)).toEqual(world.diffsFromIds ? [2] : [0, 1, 2]);
    },
    LIMIT,
  );

  test(
    "The differences of an image that somebody has open are readable, and the reader is not a watcher",
    async () => {
      const { run, pool, world, aSource } = at();
      const image = await aSource();
      const close = await world.watch(pool, image);
      try {
        expect(objectsIn((await diff(image, "s")).extents)).toEqual([0]);
        expect((await run((ceph) => ceph.imageStatus(pool, image))).watchers).toHaveLength(1);
      } finally {
        await close();
      }
    },
    LIMIT,
  );
};
