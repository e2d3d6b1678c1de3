/** What a person takes out of the trash: the driver removes neither it nor its snapshots, whatever was going to be removed. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { DRIVERS_MARKS } from "../../lib/ceph/rbd.ts";
import { LIMIT, type Session } from "./harness.ts";

export const restoredContract = (at: () => Session): void => {
  /** An image with the snapshot "s", in the trash with a driver's mark. */
  const discarded = async (ref = at().pool) => {
    const { run, anImage } = at();
    const name = await anImage(ref);
    await run((ceph) => ceph.snapshotCreate(ref, name, "s"));
    const { id } = await run((ceph) => ceph.imageStatus(ref, name));
    await run((ceph) => ceph.trashMove(ref, name, DRIVERS_MARKS.small));
    return { name, id };
  };
  const snapshotsOf = async (name: string, ref = at().pool) =>
    (await at().run((ceph) => ceph.imageStatus(ref, name))).namedSnapshots;

  test(
    "The snapshots of an image in the trash are listed, in each namespace for itself",
    async () => {
      const { run, pool, inNamespace } = at();
      const { id } = await discarded(inNamespace);
      const list = (ref: typeof pool, onlyMarked?: boolean) => run((ceph) => ceph.trashSnapshots(ref, id, onlyMarked));
      for (const onlyMarked of [undefined, true]) {
        expect(await list(inNamespace, onlyMarked)).toEqual([{ name: "s", kind: "user" }]);
        expect(await list(pool, onlyMarked)).toBeUndefined();
      }
      await run((ceph) => ceph.trashSnapshotRemove(inNamespace, id, "s", true));
      expect(await list(inNamespace)).toEqual([]);
      await run((ceph) => ceph.trashRemove(inNamespace, id, true));
      expect(await list(inNamespace)).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "An image that was taken out of the trash keeps its snapshot, and stays, and so does a new one of its name",
    async () => {
      const { run, fails, pool, world } = at();
      const { name, id } = await discarded();
      await world.restore(pool, id);
      for (const onlyMarked of [undefined, true]) {
        const error = await fails((ceph) => ceph.trashSnapshotRemove(pool, id, "s", onlyMarked));
        expect(error._tag).toBe("ImageNotFound");
        expect(await run((ceph) => ceph.trashSnapshots(pool, id, onlyMarked))).toBeUndefined();
        expect((await fails((ceph) => ceph.managerTrashRemove(pool, id, onlyMarked)))._tag).toBe("ImageNotFound");
        await run((ceph) => ceph.trashRemove(pool, id, onlyMarked));
      }
      expect(await snapshotsOf(name)).toEqual(["s"]);
      await run((ceph) => ceph.trashMove(pool, name));
      await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: 4096n }));
      await run((ceph) => ceph.snapshotCreate(pool, name, "s"));
      await run((ceph) => ceph.trashSnapshotRemove(pool, id, "s"));
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await snapshotsOf(name)).toEqual(["s"]);
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "An image that a person took out of the trash and moved there again is not taken for the one that a driver moved there",
    async () => {
      const { run, fails, pool, world } = at();
      const { name, id } = await discarded();
      await world.restore(pool, id);
      await run((ceph) => ceph.trashMove(pool, name));
      expect((await fails((ceph) => ceph.trashSnapshotRemove(pool, id, "s", true)))._tag).toBe("ImageNotFound");
      expect((await fails((ceph) => ceph.managerTrashRemove(pool, id, true)))._tag).toBe("ImageNotFound");
      await run((ceph) => ceph.trashRemove(pool, id, true));
      expect(await run((ceph) => ceph.trashSnapshots(pool, id, true))).toBeUndefined();
      expect(await run((ceph) => ceph.trashSnapshots(pool, id))).toEqual([{ name: "s", kind: "user" }]);
      await world.restore(pool, id);
      expect(await snapshotsOf(name)).toEqual(["s"]);
    },
    LIMIT,
  );

  test(
    "A snapshot of an image in the trash is not removed while somebody has the image open, and then the image can still be taken out",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const name = await anImage();
      await run((ceph) => ceph.snapshotCreate(pool, name, "s"));
      const { id } = await run((ceph) => ceph.imageStatus(pool, name));
      const close = await world.watch(pool, name);
      try {
        await run((ceph) => ceph.trashMove(pool, name, DRIVERS_MARKS.small));
        expect((await fails((ceph) => ceph.trashSnapshotRemove(pool, id, "s")))._tag).toBe("Busy");
        expect(await run((ceph) => ceph.trashSnapshots(pool, id))).toEqual([{ name: "s", kind: "user" }]);
      } finally {
        await close();
      }
      await run((ceph) => Effect.ignore(ceph.trashRemove(pool, id)));
      await world.restore(pool, id);
      expect(await snapshotsOf(name)).toEqual(["s"]);
    },
    LIMIT,
  );

  test(
    "A move is finished of an image that is on its way to the trash, and not begun of one that was taken out of there",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const { name, id } = await discarded();
      const finish = (image: string, only: string) => (ceph: CephCalls) => ceph.trashMove(pool, image, 3, only, true);
      expect((await fails(finish(name, id)))._tag).toBe("ImageNotFound");
      await world.restore(pool, id);
      expect((await fails(finish(name, id)))._tag).toBe("Raced");
      expect(await snapshotsOf(name)).toEqual(["s"]);
      const half = await anImage();
      const halfId = (await run((ceph) => ceph.imageId(pool, half))) ?? "";
      await world.cutShort("trash-entered", pool, half);
      await run(finish(half, halfId));
      expect(await run((ceph) => ceph.imageId(pool, half))).toBeUndefined();
      await run((ceph) => ceph.trashRemove(pool, halfId));
      expect(await run((ceph) => ceph.trashGet(pool, halfId))).toBeUndefined();
    },
    LIMIT,
  );
};
