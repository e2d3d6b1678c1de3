/** Flattening: the end of being a clone, by this process or by the manager. */
import { expect, test } from "bun:test";
import { eventually, LIMIT, LONG_LIMIT, MIB, type Session } from "./harness.ts";

const LAYERING = 1n;
const DEFAULT = 61n;

export const flattenContract = (at: () => Session): void => {
  const cloned = async (source: string, features = DEFAULT, pool = at().pool): Promise<string> => {
    const { run, fresh } = at();
    const image = fresh("clone");
    await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, image, { features }));
    return image;
  };
  const statusOf = (image: string, pool = at().pool) => at().run((ceph) => ceph.imageStatus(pool, image));

  test(
    "A flattened clone has the same bytes and no parent, and its parent has no clone",
    async () => {
      const { run, pool, world, anImage, aSource } = at();
      const source = await aSource();
      const clone = await cloned(source);
      await world.write(pool, clone, { offset: 8n * MIB, length: 8192n });
      await run((ceph) => ceph.imageGrow(pool, clone, 20n * MIB));
      const before = await world.content(pool, clone);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      const status = await statusOf(clone);
      expect([status.parent, status.features, status.sizeBytes]).toEqual([undefined, DEFAULT, 20n * MIB]);
      expect(await world.content(pool, clone)).toBe(before);
      expect(await run((ceph) => ceph.imageHasData(pool, clone, "own"))).toBe(true);
      expect(await run((ceph) => ceph.cloneDepth(pool, clone))).toBe(0);
      expect((await statusOf(source)).features).toBe(DEFAULT);
      // what was discarded while it was a clone stays so
      const again = await cloned(source);
      await world.discard(pool, again, { offset: 0n, length: 4n * MIB });
      await run((ceph) => ceph.imageFlatten(pool, again));
      expect(await world.content(pool, again)).toBe(await world.content(pool, await anImage()));
    },
    LIMIT,
  );

  test(
    "Flattening an image without a parent changes nothing, by the client and by the manager",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const before = await statusOf(image);
      await run((ceph) => ceph.imageFlatten(pool, image));
      await run((ceph) => ceph.managerFlatten(pool, image));
      expect(await statusOf(image)).toEqual(before);
      expect((await run((ceph) => ceph.managerTasks(pool.access))).some((task) => task.image === image)).toBe(false);
    },
    LIMIT,
  );

  for (const [features, flat] of [
    [DEFAULT, true],
    [LAYERING, false],
  ] as const) {
    test(
      `The snapshots of a flattened clone ${flat ? "are flattened with it" : "keep its parent without deep-flatten"}`,
      async () => {
        const { run, pool, world, aSource } = at();
        const source = await aSource();
        const clone = await cloned(source, features);
        await run((ceph) => ceph.snapshotCreate(pool, clone, "in"));
        const content = await world.content(pool, clone, "in");
        await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
        await run((ceph) => ceph.imageFlatten(pool, clone));
        const trashed = async () => (await statusOf(source)).snapshotCount;
        expect((await statusOf(clone)).parent).toBeUndefined();
        expect(await world.content(pool, clone, "in")).toBe(content);
        if (!flat) {
          expect(await trashed()).toBe(1);
          expect((await statusOf(clone)).features).toBe(features | 256n);
          await run((ceph) => ceph.snapshotRemove(pool, clone, "in"));
        }
        expect(await trashed()).toBe(0);
        expect((await statusOf(clone)).features).toBe(features);
      },
      LIMIT,
    );
  }

  test(
    "A clone that has clones is flattened, and its clones stay as they are",
    async () => {
      const { run, pool, world, aSource } = at();
      const source = await aSource();
      const middle = await cloned(source);
      await run((ceph) => ceph.snapshotCreate(pool, middle, "s"));
      const last = await cloned(middle);
      const content = await world.content(pool, last);
      await run((ceph) => ceph.imageFlatten(pool, middle));
      expect(await run((ceph) => ceph.cloneDepth(pool, last))).toBe(1);
      expect((await statusOf(last)).parent?.image).toBe(middle);
      expect(await world.content(pool, last)).toBe(content);
    },
    LIMIT,
  );

  test(
    "The manager flattens a clone some time later, in a namespace too, and accepts the same task twice",
    async () => {
      const { run, pool, inNamespace, world, aSource } = at();
      for (const ref of [pool, inNamespace]) {
        const source = await aSource(ref);
        const clone = await cloned(source, DEFAULT, ref);
        const content = await world.content(ref, clone);
        await run((ceph) => ceph.managerFlatten(ref, clone));
        await run((ceph) => ceph.managerFlatten(ref, clone));
        expect(await eventually(async () => (await statusOf(clone, ref)).parent === undefined)).toBe(true);
        expect(await world.content(ref, clone)).toBe(content);
      }
    },
    LONG_LIMIT,
  );

  test(
    "The manager's tasks name what they are about, and are gone when they are done",
    async () => {
      const { run, pool, aSource } = at();
      const source = await aSource();
      const clones = [await cloned(source), await cloned(source), await cloned(source)];
      for (const clone of clones) await run((ceph) => ceph.managerFlatten(pool, clone));
      const ours = async () =>
        (await run((ceph) => ceph.managerTasks(pool.access))).filter(({ image }) => clones.includes(image));
      for (const task of await ours()) {
        expect(task).toMatchObject({ action: "flatten", pool: pool.pool, namespace: "", failure: undefined });
        expect(task.id).not.toBe("");
        expect(task.progress ?? 0).toBeWithin(0, 1.01);
      }
      expect(await eventually(async () => (await ours()).length === 0)).toBe(true);
      for (const clone of clones) expect((await statusOf(clone)).parent).toBeUndefined();
    },
    LONG_LIMIT,
  );

  test(
    "A user without mgr caps gets ManagerUnavailable",
    async () => {
      const { fails, pool, world, aSource } = at();
      const clone = await cloned(await aSource());
      const limited = { ...pool, access: world.limited };
      expect((await fails((ceph) => ceph.managerFlatten(limited, clone)))._tag).toBe("ManagerUnavailable");
      expect((await fails((ceph) => ceph.managerTasks(world.limited)))._tag).toBe("ManagerUnavailable");
      expect((await statusOf(clone)).parent).toBeDefined();
    },
    LONG_LIMIT,
  );
};
