/** What the manager takes off our hands, and what is said when it can't. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { eventually, LONG_LIMIT, type Session } from "./harness.ts";

export const managerContract = (at: () => Session): void => {
  const trashed = async (ref = at().pool) => {
    const { run, anImage } = at();
    const name = await anImage(ref);
    const { id } = await run((ceph) => ceph.imageStatus(ref, name));
    await run((ceph) => ceph.trashMove(ref, name));
    return id;
  };

  const gone = async (id: string, ref = at().pool): Promise<boolean> => {
    const { run } = at();
    return eventually(async () => (await run((ceph) => ceph.trashGet(ref, id))) === undefined);
  };

  test(
    "The manager removes an image from the trash some time later, in a namespace too",
    async () => {
      const { run, pool, inNamespace } = at();
      for (const ref of [pool, inNamespace]) {
        const id = await trashed(ref);
        await run((ceph) => ceph.managerTrashRemove(ref, id));
        expect(await gone(id, ref)).toBe(true);
      }
    },
    LONG_LIMIT,
  );

  test(
    "A repeated request to the manager succeeds, or finds that the image is gone",
    async () => {
      const { run, pool } = at();
      const id = await trashed();
      const answers = await run((ceph) =>
        Effect.forEach(
          [1, 2],
          () =>
            ceph.managerTrashRemove(pool, id).pipe(
              Effect.as("taken"),
              Effect.catchTag("ImageNotFound", () => Effect.succeed("gone")),
            ),
          { concurrency: "unbounded" },
        ),
      );
      expect(answers).toContain("taken");
      expect(await gone(id)).toBe(true);
    },
    LONG_LIMIT,
  );

  test(
    "An image that is not in the trash is ImageNotFound for the manager",
    async () => {
      const { run, fails, pool, anImage } = at();
      const image = await anImage();
      const id = (await run((ceph) => ceph.imageId(pool, image))) ?? "";
      for (const absent of ["0123456789ab", id]) {
        expect((await fails((ceph) => ceph.managerTrashRemove(pool, absent)))._tag).toBe("ImageNotFound");
      }
      expect(await run((ceph) => ceph.imageId(pool, image))).toBe(id);
    },
    LONG_LIMIT,
  );

  test(
    "A user without mgr caps gets ManagerUnavailable, and the image stays in the trash",
    async () => {
      const { run, fails, pool, world } = at();
      const id = await trashed();
      const limited = { ...pool, access: world.limited };
      expect((await fails((ceph) => ceph.managerTrashRemove(limited, id)))._tag).toBe("ManagerUnavailable");
      expect(await run((ceph) => ceph.trashGet(limited, id))).toBeDefined();
      await run((ceph) => ceph.trashRemove(limited, id));
    },
    LONG_LIMIT,
  );

  test(
    "A call without a manager is ManagerUnavailable, and the same call succeeds with a manager again",
    async () => {
      const { run, fails, pool, world, fresh, aSource } = at();
      const id = await trashed();
      const source = await aSource();
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, clone, {}));
      const parent = async () => (await run((ceph) => ceph.imageStatus(pool, clone))).parent?.image;
      await world.stopManager();
      try {
        expect((await fails((ceph) => ceph.managerTrashRemove(pool, id)))._tag).toBe("ManagerUnavailable");
        expect((await fails((ceph) => ceph.managerFlatten(pool, clone)))._tag).toBe("ManagerUnavailable");
        expect((await fails((ceph) => ceph.managerTasks(pool.access)))._tag).toBe("ManagerUnavailable");
        expect(await parent()).toBe(source);
        expect(await run((ceph) => ceph.trashGet(pool, id))).toBeDefined();
      } finally {
        await world.startManager();
      }
      // its first answers may take longer than whoever deletes a volume waits
      const awake = { onSuccess: () => true, onFailure: () => false };
      expect(await eventually(() => run((ceph) => Effect.match(ceph.managerTasks(pool.access), awake)))).toBe(true);
      await run((ceph) => ceph.managerTrashRemove(pool, id));
      await run((ceph) => ceph.managerFlatten(pool, clone));
      expect(await gone(id)).toBe(true);
      expect(await eventually(async () => (await parent()) === undefined)).toBe(true);
    },
    LONG_LIMIT,
  );
};
