/** Clones whose maker died on the way: what is seen of them, and that they can be got rid of. */
import { expect, test } from "bun:test";
import { LIMIT, MIB, type Session } from "./harness.ts";

export const halfCloneContract = (at: () => Session): void => {
  const cut = async (how: "parent" | "child" | "metadata") => {
    const { run, pool, world, fresh, aSource } = at();
    const source = await aSource();
    await run((ceph) => ceph.imageMetaSet(pool, source, { k: "v" }));
    const clone = fresh("clone");
    await world.cutCloneShort(how, pool, { image: source, snapshot: "s" }, clone);
    return { source, clone };
  };

  test(
    "A clone that was cut off before it has a parent is an empty image of the same size",
    async () => {
      const { run, fails, pool, world } = at();
      const { source, clone } = await cut("parent");
      const status = await run((ceph) => ceph.imageStatus(pool, clone));
      expect([status.sizeBytes, status.parent, status.features]).toEqual([16n * MIB, undefined, 61n]);
      expect(await run((ceph) => ceph.imageHasData(pool, clone, "any"))).toBe(false);
      expect(await world.metadata(pool, clone)).toEqual({});
      expect(await run((ceph) => ceph.imageMend(pool, clone))).toBe(true);
      const from = { pool, image: source, snapshot: "s" };
      expect((await fails((ceph) => ceph.imageClone(from, pool, clone, {})))._tag).toBe("Exists");
    },
    LIMIT,
  );

  test(
    "A clone that was cut off before its parent knows it looks whole, but is lost with the snapshot",
    async () => {
      const { run, fails, pool, world } = at();
      const { source, clone } = await cut("child");
      expect((await run((ceph) => ceph.imageStatus(pool, clone))).parent).toMatchObject({
        image: source,
        snapshot: "s",
      });
      expect(await run((ceph) => ceph.snapshotChildren(pool, source, "s"))).toEqual([]);
      expect(await world.content(pool, clone)).toBe(await world.content(pool, source, "s"));
      const { id } = await run((ceph) => ceph.imageStatus(pool, clone));
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      expect(await run((ceph) => ceph.snapshots(pool, source))).toEqual([]);
      expect((await fails((ceph) => ceph.imageStatus(pool, clone)))._tag).toBe("ParentLost");
      expect((await fails((ceph) => ceph.snapshotCreate(pool, clone, "s")))._tag).toBe("ParentLost");
      expect(await run((ceph) => ceph.imageId(pool, clone))).toBe(id);
      expect(await run((ceph) => ceph.cloneDepth(pool, clone))).toBe(1);
      expect(await run((ceph) => ceph.imageMend(pool, clone))).toBe(true);
      expect((await fails((ceph) => ceph.imageCreate(pool, clone, { sizeBytes: MIB })))._tag).toBe("Exists");
      const { objectSize, sizeBytes } = await run((ceph) => ceph.imageStatus(pool, source));
      expect(await run((ceph) => ceph.imageLost(pool, clone))).toEqual({ id, sizeBytes, objectSize, hasData: false });
      await run((ceph) => ceph.trashMove(pool, clone));
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "Only a clone whose parent is gone is lost, and its own data, and whoever has it open, are seen",
    async () => {
      const { run, pool, world, fresh } = at();
      const lost = (image: string) => run((ceph) => ceph.imageLost(pool, image));
      const { source, clone } = await cut("child");
      expect([await lost(source), await lost(clone), await lost(fresh("image"))]).toEqual([
        undefined,
        undefined,
        undefined,
      ]);
      const close = await world.watch(pool, clone);
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      expect(await lost(clone)).toBeUndefined();
      await close();
      expect(await lost(clone)).toMatchObject({ hasData: false });
      const other = await cut("child");
      await world.write(pool, other.clone);
      await run((ceph) => ceph.snapshotRemove(pool, other.source, "s"));
      expect(await lost(other.clone)).toMatchObject({ hasData: true });
      const third = await cut("child");
      await run((ceph) => ceph.snapshotCreate(pool, third.clone, "own"));
      await run((ceph) => ceph.snapshotRemove(pool, third.source, "s"));
      expect(await lost(third.clone)).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A lost clone can't be cloned or flattened, and ParentLost names it",
    async () => {
      const { run, fails, pool, fresh } = at();
      const { source, clone } = await cut("child");
      await run((ceph) => ceph.snapshotCreate(pool, clone, "own"));
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      const from = { pool, image: clone, snapshot: "own" };
      const target = fresh("clone");
      const refused = await fails((ceph) => ceph.imageClone(from, pool, target, {}));
      expect([refused._tag, refused.message]).toEqual([
        "ParentLost",
        expect.stringContaining(`${clone}@own`) as unknown as string,
      ]);
      expect(await run((ceph) => ceph.imageId(pool, target))).toBeUndefined();
      expect((await fails((ceph) => ceph.managerFlatten(pool, clone)))._tag).toBe("ParentLost");
    },
    LIMIT,
  );

  test(
    "A clone that was cut off before its parent knows it can be flattened or removed while the snapshot exists",
    async () => {
      const { run, pool, world } = at();
      const first = await cut("child");
      const content = await world.content(pool, first.clone);
      await run((ceph) => ceph.imageFlatten(pool, first.clone));
      expect((await run((ceph) => ceph.imageStatus(pool, first.clone))).parent).toBeUndefined();
      await run((ceph) => ceph.snapshotRemove(pool, first.source, "s"));
      expect(await world.content(pool, first.clone)).toBe(content);
      const second = await cut("child");
      const { id } = await run((ceph) => ceph.imageStatus(pool, second.clone));
      await run((ceph) => ceph.trashMove(pool, second.clone));
      await run((ceph) => ceph.trashRemove(pool, id));
      expect((await run((ceph) => ceph.snapshots(pool, second.source))).map(({ kind }) => kind)).toEqual(["user"]);
    },
    LIMIT,
  );

  test(
    "A clone that was cut off before its metadata is a whole clone without metadata",
    async () => {
      const { run, pool, world } = at();
      const { source, clone } = await cut("metadata");
      expect(await world.metadata(pool, clone)).toEqual({});
      const content = await world.content(pool, clone);
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      expect(await world.content(pool, clone)).toBe(content);
      expect((await run((ceph) => ceph.snapshots(pool, source))).map(({ kind }) => kind)).toEqual(["trash"]);
    },
    LIMIT,
  );
};
