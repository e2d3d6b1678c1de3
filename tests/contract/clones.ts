/** Clones: how they are made, what they have of their parent, and how far back their chain goes. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { CloneSpec } from "../../lib/ceph/rbd.ts";
import { LIMIT, LONG_LIMIT, MIB, type Session } from "./harness.ts";

const LAYERING = 1n;
const STRIPING = 2n;
const EXCLUSIVE_LOCK = 4n;
const OBJECT_MAP = 8n;
const DEEP_FLATTEN = 32n;
const DATA_POOL = 128n;
const OPERATIONS = 256n;
const DEFAULT = 61n;

export const cloneContract = (at: () => Session): void => {
  /** A clone of `source@s` -> its name. */
  const cloned = async (
    source: string,
    spec: CloneSpec = {},
    from: PoolRef = at().pool,
    to: PoolRef = at().pool,
  ): Promise<string> => {
    const { run, fresh } = at();
    const image = fresh("clone");
    await run((ceph) => ceph.imageClone({ pool: from, image: source, snapshot: "s" }, to, image, spec));
    return image;
  };
  const statusOf = (image: string, pool = at().pool) => at().run((ceph) => ceph.imageStatus(pool, image));

  test(
    "A clone names its parent, and has the parent's size at the time of the snapshot",
    async () => {
      const { run, pool, aSource } = at();
      const source = await aSource();
      await run((ceph) => ceph.imageGrow(pool, source, 32n * MIB));
      const clone = await statusOf(await cloned(source));
      const { id } = await statusOf(source);
      expect(clone.parent).toEqual({
        pool: pool.pool,
        namespace: "",
        image: source,
        imageId: id,
        snapshot: "s",
        inTrash: false,
      });
      expect([clone.sizeBytes, clone.snapshotCount, clone.watchers]).toEqual([16n * MIB, 0, []]);
      expect(clone.id).not.toBe(id);
    },
    LIMIT,
  );

  test(
    "A clone without options has its parent's features, object size and striping, but not its data pool",
    async () => {
      const { run, pool, world, fresh } = at();
      const source = fresh("image");
      const layout = { objectSize: 2n * MIB, stripeUnit: 65_536n, stripeCount: 4n, dataPool: world.dataPool };
      await run((ceph) => ceph.imageCreate(pool, source, { sizeBytes: 16n * MIB, ...layout }));
      await run((ceph) => ceph.snapshotCreate(pool, source, "s"));
      const clone = await statusOf(await cloned(source));
      expect(clone).toMatchObject({ objectSize: 2n * MIB, stripeUnit: 65_536n, stripeCount: 4n, dataPool: undefined });
      expect(clone.features).toBe(DEFAULT | STRIPING | OPERATIONS);
      expect((await statusOf(source)).features).toBe(DEFAULT | STRIPING | DATA_POOL | OPERATIONS);
    },
    LIMIT,
  );

  test(
    "A clone with options has exactly those and the feature operations, which its parent gets too",
    async () => {
      const { world, aSource } = at();
      const source = await aSource();
      expect((await statusOf(source)).features).toBe(DEFAULT);
      for (const features of [LAYERING, LAYERING | DEEP_FLATTEN, LAYERING | EXCLUSIVE_LOCK, DEFAULT]) {
        expect((await statusOf(await cloned(source, { features }))).features).toBe(features | OPERATIONS);
      }
      expect((await statusOf(source)).features).toBe(DEFAULT | OPERATIONS);
      const spec = { features: LAYERING, objectSize: 8n * MIB, stripeUnit: 65_536n, stripeCount: 2n };
      const clone = await statusOf(await cloned(source, { ...spec, dataPool: world.dataPool }));
      expect(clone).toMatchObject({ objectSize: 8n * MIB, stripeUnit: 65_536n, stripeCount: 2n });
      expect(clone.dataPool).toBe(world.dataPool);
      expect(clone.features).toBe(LAYERING | STRIPING | DATA_POOL | OPERATIONS);
    },
    LIMIT,
  );

  test(
    "A clone with another object size keeps the parent's stripe unit, and a smaller object size without a stripe unit is InvalidCall",
    async () => {
      const { fails, pool, fresh, aSource } = at();
      const source = await aSource();
      const larger = await statusOf(await cloned(source, { objectSize: 8n * MIB }));
      expect(larger).toMatchObject({ objectSize: 8n * MIB, stripeUnit: 4n * MIB, stripeCount: 1n });
      expect(larger.features).toBe(DEFAULT | STRIPING | OPERATIONS);
      const from = { pool, image: source, snapshot: "s" };
      const error = await fails((ceph) => ceph.imageClone(from, pool, fresh("clone"), { objectSize: MIB }));
      expect(error._tag).toBe("InvalidCall");
      const plain = await statusOf(await cloned(source, { objectSize: MIB, stripeUnit: MIB, stripeCount: 1n }));
      expect(plain).toMatchObject({ objectSize: MIB, stripeUnit: MIB, stripeCount: 1n });
      expect(plain.features).toBe(DEFAULT | OPERATIONS);
    },
    LIMIT,
  );

  test(
    "A clone that Ceph can't make is InvalidCall, and no image is made",
    async () => {
      const { run, fails, pool, fresh, aSource } = at();
      const source = await aSource();
      const flat = fresh("image");
      await run((ceph) => ceph.imageCreate(pool, flat, { sizeBytes: 16n * MIB, features: EXCLUSIVE_LOCK }));
      await run((ceph) => ceph.snapshotCreate(pool, flat, "s"));
      const cases: readonly (readonly [string, CloneSpec])[] = [
        [flat, { features: LAYERING }],
        [flat, {}],
        [source, { features: EXCLUSIVE_LOCK }],
        [source, { features: LAYERING | OBJECT_MAP }],
        [source, { objectSize: 2048n }],
        [source, { objectSize: 64n * MIB }],
        [source, { stripeUnit: 65_537n, stripeCount: 4n }],
        [source, { stripeUnit: 8n * MIB, stripeCount: 4n }],
      ];
      for (const [image, spec] of cases) {
        const clone = fresh("clone");
        const error = await fails((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, clone, spec));
        expect([image, spec, error._tag]).toEqual([image, spec, "InvalidCall"]);
        expect(await run((ceph) => ceph.imageId(pool, clone))).toBeUndefined();
      }
      expect((await statusOf(source)).features).toBe(DEFAULT);
    },
    LIMIT,
  );

  test(
    "A clone with a taken name is Exists, and the image of that name stays",
    async () => {
      const { fails, pool, anImage, aSource } = at();
      const source = await aSource();
      const image = await anImage();
      const before = await statusOf(image);
      const from = { pool, image: source, snapshot: "s" };
      expect((await fails((ceph) => ceph.imageClone(from, pool, image, {})))._tag).toBe("Exists");
      expect((await fails((ceph) => ceph.imageClone(from, pool, source, {})))._tag).toBe("Exists");
      expect(await statusOf(image)).toEqual(before);
    },
    LIMIT,
  );

  test(
    "A missing source of a clone is SnapshotNotFound, and a missing pool is PoolNotFound",
    async () => {
      const { run, fails, pool, nowhere, fresh, aSource } = at();
      const source = await aSource();
      const clone = fresh("clone");
      const failures = [
        await fails((ceph) => ceph.imageClone({ pool, image: source, snapshot: "absent" }, pool, clone, {})),
        await fails((ceph) => ceph.imageClone({ pool, image: source, snapshot: 987_654n }, pool, clone, {})),
        await fails((ceph) => ceph.imageClone({ pool, image: "absent", snapshot: "s" }, pool, clone, {})),
        await fails((ceph) => ceph.imageClone({ pool: nowhere, image: source, snapshot: "s" }, pool, clone, {})),
        await fails((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, nowhere, clone, {})),
        await fails((ceph) =>
          ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, clone, { dataPool: nowhere.pool }),
        ),
      ];
      expect(failures.map((error) => error._tag)).toEqual([
        "ImageSnapshotNotFound",
        "ImageSnapshotNotFound",
        "ImageSnapshotNotFound",
        "PoolNotFound",
        "PoolNotFound",
        "PoolNotFound",
      ]);
      expect(failures[0]?.message).toContain(`${pool.pool}/${source}@absent`);
      expect(failures[2]?.message).toContain(`${pool.pool}/absent@s`);
      expect(failures[3]?.message).toContain(nowhere.pool);
      expect(await run((ceph) => ceph.imageId(pool, clone))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A clone may be in another pool and in another namespace than its parent",
    async () => {
      const { pool, inNamespace, world, aSource } = at();
      const elsewhere = { ...pool, pool: world.dataPool };
      for (const [from, to] of [
        [pool, elsewhere],
        [inNamespace, pool],
        [pool, inNamespace],
      ] as const) {
        const source = await aSource(from);
        const clone = await cloned(source, {}, from, to);
        expect((await statusOf(clone, to)).parent).toMatchObject({
          pool: from.pool,
          namespace: from.namespace,
          image: source,
        });
        expect(await world.content(to, clone)).toBe(await world.content(from, source, "s"));
        expect(await at().run((ceph) => ceph.cloneDepth(to, clone))).toBe(1);
      }
    },
    LIMIT,
  );

  test(
    "A clone has the bytes of the snapshot, and later writes to either are not in the other",
    async () => {
      const { run, pool, world, aSource } = at();
      const source = await aSource();
      const clone = await cloned(source);
      const snapshot = await world.content(pool, source, "s");
      const later = await world.content(pool, source);
      expect(later).not.toBe(snapshot);
      expect(await world.content(pool, clone)).toBe(snapshot);
      await world.write(pool, clone, { offset: 5n * MIB, length: 4096n });
      expect(await world.content(pool, clone)).not.toBe(snapshot);
      expect(await world.content(pool, source)).toBe(later);
      expect(await world.content(pool, source, "s")).toBe(snapshot);
      expect((await run((ceph) => ceph.imageGrow(pool, clone, 32n * MIB))).sizeBytes).toBe(32n * MIB);
      expect((await statusOf(source)).sizeBytes).toBe(16n * MIB);
    },
    LIMIT,
  );

  test(
    "The data of a clone are its own or its parent's, and imageHasData tells which",
    async () => {
      const { run, pool, world, aSource } = at();
      const clone = await cloned(await aSource());
      const hasData = (whose: "own" | "any") => run((ceph) => ceph.imageHasData(pool, clone, whose));
      expect([await hasData("own"), await hasData("any")]).toEqual([false, true]);
      await world.write(pool, clone, { offset: 8n * MIB, length: 4096n });
      expect([await hasData("own"), await hasData("any")]).toEqual([true, true]);
    },
    LIMIT,
  );

  test(
    "A clone begins with its parent's metadata, except for keys that begin with .rbd",
    async () => {
      const { run, pool, world, aSource } = at();
      const source = await aSource();
      const list = (image: string) => world.metadata(pool, image);
      expect(await list(source)).toEqual({});
      const entries = { "csi.storage.k8s.io/pvc/name": "data ü", ".dot": "", "rbd.csi.ceph.com/encrypted": "", a: "1" };
      const own = { ".rbd.csi.ceph.com/encrypted": "encrypted", ".rbdx": "x" };
      await run((ceph) => ceph.imageMetaSet(pool, source, { ...entries, ...own }));
      expect(await list(source)).toEqual({ ...entries, ...own });
      const clone = await cloned(source);
      expect(await list(clone)).toEqual(entries);
      await run((ceph) => ceph.imageMetaSet(pool, source, { a: "2" }));
      await run((ceph) => ceph.imageMetaSet(pool, clone, { ".dot": undefined }));
      expect((await list(clone))["a"]).toBe("1");
      expect(await list(source)).toEqual({ ...entries, ...own, a: "2" });
    },
    LIMIT,
  );

  test(
    "A clone's metadata of many keys are listed whole",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const entries = Object.fromEntries(Array.from({ length: 150 }, (_, i) => [`key-${i}`, `${i}`]));
      await run((ceph) => ceph.imageMetaSet(pool, image, entries));
      expect(await world.metadata(pool, image)).toEqual(entries);
    },
    LIMIT,
  );

  test(
    "Many clones of one snapshot are made side by side",
    async () => {
      const { run, pool, fresh, aSource } = at();
      const source = await aSource();
      const names = Array.from({ length: 16 }, () => fresh("clone"));
      await run((ceph) =>
        Effect.forEach(names, (name) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, name, {}), {
          concurrency: "unbounded",
        }),
      );
      for (const name of names) expect((await statusOf(name)).parent?.image).toBe(source);
    },
    LONG_LIMIT,
  );

  test(
    "The depth is the number of parents, and an image without a parent has depth 0",
    async () => {
      const { run, pool, world, fresh, aSource } = at();
      const source = await aSource();
      const depth = (image: string) => run((ceph) => ceph.cloneDepth(pool, image));
      expect(await depth(source)).toBe(0);
      const bare = fresh("image");
      await run((ceph) => ceph.imageCreate(pool, bare, { sizeBytes: MIB, features: 0n }));
      expect(await depth(bare)).toBe(0);
      let image = source;
      for (const level of [1, 2, 3]) {
        image = await cloned(image);
        expect(await depth(image)).toBe(level);
        await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
      }
      expect(await world.content(pool, image)).toBe(await world.content(pool, source, "s"));
      // one in the middle can't be opened by name, and counts all the same
      const middle = (await statusOf(image)).parent?.image ?? "";
      await run((ceph) => ceph.trashMove(pool, middle));
      expect(await depth(image)).toBe(3);
    },
    LIMIT,
  );
};
