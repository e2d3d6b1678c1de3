/**
 * Snapshots, clones and flattening on a real cluster, with the bytes that are in them: what the contract suite, which
 * knows no bytes, can't ask.
 */
import { expect, test } from "bun:test";
import { LIMIT, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { primitives } from "./primitives.ts";

const KIB = 1024;

primitives("snapshots and clones", ({ session: at, bytes }) => {
  /** An image whose first 64 KiB are 1 in a snapshot and 2 since. */
  const snapshotted = async () => {
    const { run, pool, anImage } = at();
    const image = await anImage();
    bytes().write(pool, image, 0, 64 * KIB, 1);
    await run((ceph) => ceph.snapshotCreate(pool, image, "then"));
    bytes().write(pool, image, 0, 64 * KIB, 2);
    return { image, source: { pool, image, snapshot: "then" } };
  };

  const first = (image: string) => bytes().read(at().pool, image, 0, 1)[0];

  test(
    "A clone has the bytes of the snapshot and not those written later, by name and by id",
    async () => {
      const { run, pool, fresh } = at();
      const { image, source } = await snapshotted();
      const [byName, byId] = [fresh("clone"), fresh("clone")];
      const listed = await run((ceph) => ceph.snapshots(pool, image));
      expect(listed.map(({ name, kind, sizeBytes }) => ({ name, kind, sizeBytes }))).toEqual([
        { name: "then", kind: "user", sizeBytes: 16n * MIB },
      ]);
      expect(Math.abs(Date.now() - (listed[0]?.createdAt ?? 0))).toBeLessThan(60_000);
      await run((ceph) => ceph.imageClone(source, pool, byName, {}));
      await run((ceph) => ceph.imageClone({ ...source, snapshot: listed[0]?.id ?? 0n }, pool, byId, {}));
      for (const clone of [byName, byId]) {
        expect(first(clone)).toBe(1);
        const { parent } = await run((ceph) => ceph.imageStatus(pool, clone));
        expect(parent).toMatchObject({ pool: pool.pool, namespace: "", image, snapshot: "then", inTrash: false });
      }
      expect(first(image)).toBe(2);
    },
    LIMIT,
  );

  test(
    "A removed snapshot with a clone is in the snapshots' trash until the clone is flattened, and the bytes stay",
    async () => {
      const { run, pool, fresh } = at();
      const { image, source } = await snapshotted();
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone(source, pool, clone, {}));
      await run((ceph) => ceph.snapshotRemove(pool, image, "then"));
      const [trashed] = await run((ceph) => ceph.snapshots(pool, image));
      expect(trashed).toMatchObject({ kind: "trash", originalName: "then" });
      expect(first(clone)).toBe(1);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      expect(first(clone)).toBe(1);
      const status = await run((ceph) => ceph.imageStatus(pool, clone));
      expect(status.parent).toBeUndefined();
      expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
      await run((ceph) => ceph.imageFlatten(pool, clone));
    },
    LONG_LIMIT,
  );

  test(
    "The depth counts the parents of an image, over pools and namespaces, as librbd's own parents do",
    async () => {
      const { run, pool, inNamespace, world, anImage, fresh } = at();
      const places = [pool, inNamespace, { ...pool, pool: world.dataPool }, pool];
      let last = { pool, image: await anImage() };
      expect(await run((ceph) => ceph.cloneDepth(last.pool, last.image))).toBe(0);
      for (const [i, place] of places.entries()) {
        const source = { ...last, snapshot: "s" };
        await run((ceph) => ceph.snapshotCreate(source.pool, source.image, "s"));
        last = { pool: place, image: fresh("clone") };
        await run((ceph) => ceph.imageClone(source, last.pool, last.image, {}));
        const { parent } = await run((ceph) => ceph.imageStatus(last.pool, last.image));
        expect(parent).toMatchObject({
          pool: source.pool.pool,
          namespace: source.pool.namespace,
          image: source.image,
          imageId: (await run((ceph) => ceph.imageId(source.pool, source.image))) ?? "",
        });
        expect(await run((ceph) => ceph.cloneDepth(last.pool, last.image))).toBe(i + 1);
      }
    },
    LONG_LIMIT,
  );

  test(
    "An image without layering has no depth, and an image that does not exist is ImageNotFound",
    async () => {
      const { run, fails, pool, fresh } = at();
      const image = fresh("image");
      await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: MIB, features: 0n }));
      expect(await run((ceph) => ceph.cloneDepth(pool, image))).toBe(0);
      expect((await fails((ceph) => ceph.cloneDepth(pool, fresh("image"))))._tag).toBe("ImageNotFound");
    },
    LIMIT,
  );

  test(
    "The error of a clone names what is missing: snapshot, pool, namespace or data pool",
    async () => {
      const { fails, pool, nowhere, fresh } = at();
      const { image, source } = await snapshotted();
      const missing = [
        await fails((ceph) => ceph.imageClone({ ...source, snapshot: "never" }, pool, fresh("c"), {})),
        await fails((ceph) => ceph.imageClone({ ...source, snapshot: 987_654n }, pool, fresh("c"), {})),
        await fails((ceph) => ceph.imageClone({ ...source, pool: nowhere }, pool, fresh("c"), {})),
        await fails((ceph) => ceph.imageClone(source, nowhere, fresh("c"), {})),
        await fails((ceph) => ceph.imageClone(source, { ...pool, namespace: "never" }, fresh("c"), {})),
        await fails((ceph) => ceph.imageClone(source, pool, fresh("c"), { dataPool: "never" })),
        await fails((ceph) => ceph.imageClone(source, pool, image, {})),
      ];
      expect(missing.map(({ _tag }) => _tag)).toEqual([
        "ImageSnapshotNotFound",
        "ImageSnapshotNotFound",
        "PoolNotFound",
        "PoolNotFound",
        "PoolNotFound",
        "PoolNotFound",
        "Exists",
      ]);
      expect(missing.map(({ message }) => message).join("\n")).toMatch(
        new RegExp(
          `${image}@never .*\n.*@#987654 .*\n.*${nowhere.pool} .*\n.*${nowhere.pool} .*\n.*never.*\n.*never.*\n`,
        ),
      );
    },
    LIMIT,
  );

  test(
    "A clone has the features, objects, striping and data pool that the call asks for",
    async () => {
      const { run, pool, world, fresh } = at();
      const { source } = await snapshotted();
      const clone = fresh("clone");
      const spec = {
        features: 5n,
        objectSize: MIB,
        stripeUnit: 65_536n,
        stripeCount: 4n,
        dataPool: world.dataPool,
      };
      await run((ceph) => ceph.imageClone(source, pool, clone, { ...spec, features: 7n }));
      const status = await run((ceph) => ceph.imageStatus(pool, clone));
      expect(status).toMatchObject({ objectSize: MIB, stripeUnit: 65_536n, stripeCount: 4n, dataPool: world.dataPool });
      expect(status.features & 7n).toBe(7n);
      expect(first(clone)).toBe(1);
    },
    LIMIT,
  );
});
