/** Removed snapshots that have clones: where they go, what still leads to them, and when they are gone. */
import { expect, test } from "bun:test";
import { DRIVERS_MARKS } from "../../lib/ceph/rbd.ts";
import { eventually, LIMIT, LONG_LIMIT, type Session } from "./harness.ts";

export const snapshotTrashContract = (at: () => Session): void => {
  const cloned = async (source: string): Promise<string> => {
    const { run, pool, fresh } = at();
    const image = fresh("clone");
    await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, image, {}));
    return image;
  };
  const kinds = async (image: string) =>
    (await at().run((ceph) => ceph.snapshots(at().pool, image))).map(({ kind, originalName }) => [kind, originalName]);
  const removed = async (image: string): Promise<void> => {
    const { run, pool } = at();
    const { id } = await run((ceph) => ceph.imageStatus(pool, image));
    await run((ceph) => ceph.trashMove(pool, image));
    await run((ceph) => ceph.trashRemove(pool, id));
  };

  test(
    "A removed snapshot with clones moves to the trash under another name, and its own name is free",
    async () => {
      const { run, fails, pool, world, aSource } = at();
      const source = await aSource();
      const clone = await cloned(source);
      const content = await world.content(pool, clone);
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      const [trashed] = await run((ceph) => ceph.snapshots(pool, source));
      expect(trashed?.name).not.toBe("s");
      const status = await run((ceph) => ceph.imageStatus(pool, clone));
      expect(status.parent?.snapshot).toBe(trashed?.name ?? "");
      expect(await run((ceph) => ceph.imageStatus(pool, source))).toMatchObject({
        snapshotCount: 1,
        namedSnapshots: [],
        groupSnapshotCount: 0,
      });
      expect(await world.content(pool, clone)).toBe(content);
      // neither name leads to it any more
      for (const snapshot of ["s", trashed?.name ?? "", trashed?.id ?? 0n]) {
        const from = { pool, image: source, snapshot };
        const error = await fails((ceph) => ceph.imageClone(from, pool, "never-made", {}));
        expect([snapshot, error._tag]).toEqual([snapshot, "ImageSnapshotNotFound"]);
      }
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      await run((ceph) => ceph.snapshotRemove(pool, source, trashed?.name ?? ""));
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      await run((ceph) => ceph.snapshotCreate(pool, source, "s"));
      expect(await kinds(source)).toEqual([
        ["trash", "s"],
        ["user", undefined],
      ]);
    },
    LIMIT,
  );

  test(
    "A snapshot is kept for its clones, and one without clones, or without an image, is left as it is",
    async () => {
      const { run, pool, aSource } = at();
      const source = await aSource();
      const keep = (image: string, snapshot = "s") => run((ceph) => ceph.snapshotKeep(pool, image, snapshot));
      expect([await keep("absent"), await keep(source, "absent"), await keep(source)]).toEqual([false, false, false]);
      expect(await kinds(source)).toEqual([["user", undefined]]);
      const clone = await cloned(source);
      expect(await keep(source)).toBe(true);
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      expect(await keep(source)).toBe(false);
      await removed(clone);
    },
    LIMIT,
  );

  test(
    "An image goes to the trash with its snapshot, and leaves it when the snapshot is removed there",
    async () => {
      const { run, fails, pool, aSource } = at();
      const source = await aSource();
      const { id } = await run((ceph) => ceph.imageStatus(pool, source));
      await run((ceph) => ceph.trashMove(pool, source, DRIVERS_MARKS.small));
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      await run((ceph) => ceph.trashSnapshotRemove(pool, id, "absent"));
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      for (let i = 0; i < 2; i++) await run((ceph) => ceph.trashSnapshotRemove(pool, id, "s"));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toMatchObject({ name: source, byDriver: "small" });
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
      expect((await fails((ceph) => ceph.trashSnapshotRemove(pool, id, "s")))._tag).toBe("ImageNotFound");
    },
    LIMIT,
  );

  test(
    "A snapshot that got a clone stays for it, also when its image went to the trash with it, and goes with the clone",
    async () => {
      const { run, fails, pool, world, aSource } = at();
      const source = await aSource();
      const { id } = await run((ceph) => ceph.imageStatus(pool, source));
      const clone = await cloned(source);
      const content = await world.content(pool, clone);
      await run((ceph) => ceph.trashMove(pool, source, DRIVERS_MARKS.small));
      await run((ceph) => ceph.trashSnapshotRemove(pool, id, "s"));
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      expect(await world.content(pool, clone)).toBe(content);
      await removed(clone);
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A snapshot knows its clones by their ids, also those in the trash, until they are flattened or gone",
    async () => {
      const { run, fails, pool, aSource } = at();
      const source = await aSource();
      const known = async () => (await run((ceph) => ceph.snapshotChildren(pool, source, "s"))).toSorted();
      expect(await known()).toEqual([]);
      const clones = Array.from({ length: 20 }, () => "");
      for (const i of clones.keys()) clones[i] = await cloned(source);
      const ids = await Promise.all(
        clones.map(async (clone) => (await run((ceph) => ceph.imageStatus(pool, clone))).id),
      );
      expect(await known()).toEqual(ids.toSorted());
      const [flattened = "", trashed = "", gone = ""] = clones;
      await run((ceph) => ceph.imageFlatten(pool, flattened));
      await run((ceph) => ceph.trashMove(pool, trashed));
      await removed(gone);
      expect(await known()).toEqual([...ids.slice(1, 2), ...ids.slice(3)].toSorted());
      expect((await fails((ceph) => ceph.snapshotChildren(pool, source, "t")))._tag).toBe("ImageSnapshotNotFound");
      const before = await known();
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      const { parent } = await run((ceph) => ceph.imageStatus(pool, clones[3] ?? ""));
      const there = await run((ceph) => ceph.snapshotChildren(pool, source, parent?.snapshot ?? ""));
      expect(there.toSorted()).toEqual(before);
      expect((await fails((ceph) => ceph.snapshotChildren(pool, source, "s")))._tag).toBe("ImageSnapshotNotFound");
    },
    LONG_LIMIT,
  );

  test(
    "A snapshot in the trash is gone with its last clone, however the clone goes",
    async () => {
      const { run, pool, aSource } = at();
      const source = await aSource();
      const clones = [await cloned(source), await cloned(source), await cloned(source)] as const;
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      await removed(clones[0]);
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      await run((ceph) => ceph.imageFlatten(pool, clones[1]));
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      // in the trash it is a clone still
      const { id } = await run((ceph) => ceph.imageStatus(pool, clones[2]));
      await run((ceph) => ceph.trashMove(pool, clones[2]));
      expect(await kinds(source)).toEqual([["trash", "s"]]);
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await kinds(source)).toEqual([]);
      expect((await run((ceph) => ceph.imageStatus(pool, source))).features).toBe(61n);
    },
    LIMIT,
  );

  test(
    "A snapshot that was not removed stays when its clones go",
    async () => {
      const { aSource } = at();
      const source = await aSource();
      await removed(await cloned(source));
      expect(await kinds(source)).toEqual([["user", undefined]]);
    },
    LIMIT,
  );

  test(
    "An image in the trash can't be removed while a clone needs its snapshot: HasSnapshots",
    async () => {
      const { run, fails, pool, world, aSource } = at();
      const source = await aSource();
      const content = await world.content(pool, source, "s");
      const clone = await cloned(source);
      const { id } = await run((ceph) => ceph.imageStatus(pool, source));
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      await run((ceph) => ceph.trashMove(pool, source));
      const { parent } = await run((ceph) => ceph.imageStatus(pool, clone));
      expect(parent).toMatchObject({ pool: pool.pool, image: source, imageId: id, inTrash: true });
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeDefined();
      expect(await world.content(pool, clone)).toBe(content);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      expect((await run((ceph) => ceph.imageStatus(pool, clone))).parent).toBeUndefined();
      expect(await world.content(pool, clone)).toBe(content);
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A chain of clones is removed from its end: each parent can be removed once its clone is gone",
    async () => {
      const { run, fails, pool, aSource } = at();
      const first = await aSource();
      const second = await cloned(first);
      await run((ceph) => ceph.snapshotCreate(pool, second, "s"));
      const third = await cloned(second);
      const ids: string[] = [];
      for (const image of [first, second, third]) {
        const status = await run((ceph) => ceph.imageStatus(pool, image));
        ids.push(status.id);
        if (image !== third) await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
        await run((ceph) => ceph.trashMove(pool, image));
      }
      for (const id of ids.slice(0, 2)) {
        expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      }
      for (const id of ids.toReversed()) await run((ceph) => ceph.trashRemove(pool, id));
      for (const id of ids) expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "The manager keeps an image whose snapshot a clone needs, and says why",
    async () => {
      const { run, pool, aSource } = at();
      const source = await aSource();
      const clone = await cloned(source);
      const { id } = await run((ceph) => ceph.imageStatus(pool, source));
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      await run((ceph) => ceph.trashMove(pool, source));
      await run((ceph) => ceph.managerTrashRemove(pool, id));
      const task = async () => (await run((ceph) => ceph.managerTasks(pool.access))).find(({ image }) => image === id);
      expect(await eventually(async () => (await task())?.failure !== undefined)).toBe(true);
      const found = await task();
      expect(found).toMatchObject({ action: "trash remove", pool: pool.pool, namespace: "", image: id });
      expect(found?.progress).toBeUndefined();
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeDefined();
      await removed(clone);
      await run((ceph) => ceph.trashRemove(pool, id));
    },
    LONG_LIMIT,
  );
};
