/** Groups of images: who is in which, and what happens to them with their images. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { LIMIT, type Session } from "./harness.ts";

export const groupContract = (at: () => Session): void => {
  const aGroup = async (pool = at().pool): Promise<string> => {
    const { run, fresh } = at();
    const group = fresh("group");
    await run((ceph) => ceph.groupCreate(pool, group));
    return group;
  };
  const members = (group: string, pool = at().pool) => at().world.groups.members(pool, group);

  test(
    "A group that does not exist has no snapshots, and its removal succeeds",
    async () => {
      const { run, fails, pool, fresh, anImage } = at();
      const group = fresh("group");
      const image = await anImage();
      expect(await run((ceph) => ceph.groupExists(pool, group))).toBe(false);
      expect(await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g"))).toBeUndefined();
      await run((ceph) => ceph.groupRemove(pool, group));
      const failures = [
        await fails((ceph) => ceph.groupAdd(pool, group, { pool, image })),
        await fails((ceph) => ceph.groupSnapshotCreate(pool, group, "g")),
      ];
      expect(failures.map((error) => error._tag)).toEqual(["ObjectNotFound", "ObjectNotFound"]);
      expect(failures.filter((error) => !error.message.includes(`${pool.pool}/${group}`))).toEqual([]);
      expect(await members(group)).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A new group is empty, its name is taken, and the name is free again when the group is removed",
    async () => {
      const { run, fails, pool, world, inNamespace } = at();
      const group = await aGroup();
      expect(await members(group)).toEqual([]);
      expect(await run((ceph) => ceph.groupExists(pool, group))).toBe(true);
      expect(await world.groups.snapshots(pool, group)).toEqual([]);
      const error = await fails((ceph) => ceph.groupCreate(pool, group));
      expect([error._tag, error.message.includes(`${pool.pool}/${group}`)]).toEqual(["Exists", true]);
      await run((ceph) => ceph.groupCreate(inNamespace, group));
      await run((ceph) => ceph.groupRemove(pool, group));
      expect(await members(group)).toBeUndefined();
      expect(await run((ceph) => ceph.groupExists(pool, group))).toBe(false);
      expect(await run((ceph) => ceph.groupExists(inNamespace, group))).toBe(true);
      expect(await members(group, inNamespace)).toEqual([]);
      await run((ceph) => ceph.groupCreate(pool, group));
    },
    LIMIT,
  );

  test(
    "Of creates of one group name side by side exactly one succeeds",
    async () => {
      const { run, pool, fresh } = at();
      const group = fresh("group");
      const answers = await run((ceph) =>
        Effect.forEach(
          [1, 2, 3],
          () =>
            ceph.groupCreate(pool, group).pipe(
              Effect.as("made"),
              Effect.catch((error) => Effect.succeed(error._tag)),
            ),
          { concurrency: "unbounded" },
        ),
      );
      expect(answers.toSorted()).toEqual(["Exists", "Exists", "made"]);
    },
    LIMIT,
  );

  test(
    "A group adds and drops images, of other pools too, and a repeated call succeeds",
    async () => {
      const { run, pool, world, anImage } = at();
      const elsewhere = { ...pool, pool: world.dataPool };
      const group = await aGroup();
      const one = { pool, image: await anImage() };
      const two = { pool: elsewhere, image: await anImage(elsewhere) };
      for (const image of [one, two, one]) await run((ceph) => ceph.groupAdd(pool, group, image));
      const both = [`${pool.pool}//${one.image}`, `${world.dataPool}//${two.image}`];
      expect(await members(group)).toEqual(both.toSorted());
      expect((await run((ceph) => ceph.imageStatus(pool, one.image))).features).toBe(61n | 256n);
      await world.groups.drop(pool, group, one);
      expect(await members(group)).toEqual([`${world.dataPool}//${two.image}`]);
      expect((await run((ceph) => ceph.imageStatus(pool, one.image))).features).toBe(61n);
    },
    LIMIT,
  );

  test(
    "An image is in one group at most: another group gets Busy until the image is dropped or its group is removed",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const [first, second] = [await aGroup(), await aGroup()];
      const member = { pool, image: await anImage() };
      const add = (group: string) => run((ceph) => ceph.groupAdd(pool, group, member));
      await add(first);
      const error = await fails((ceph) => ceph.groupAdd(pool, second, member));
      expect([error._tag, error.message.includes(`${pool.pool}/${member.image}`)]).toEqual(["Busy", true]);
      expect(await members(second)).toEqual([]);
      expect(await members(first)).toHaveLength(1);
      await world.groups.drop(pool, first, member);
      await add(second);
      await run((ceph) => ceph.groupRemove(pool, second));
      await add(first);
      expect(await members(first)).toEqual([`${pool.pool}//${member.image}`]);
    },
    LIMIT,
  );

  test(
    "An image that does not exist is ImageNotFound, and one in a pool that does not exist is PoolNotFound",
    async () => {
      const { fails, pool, nowhere, fresh } = at();
      const group = await aGroup();
      const image = fresh("image");
      const absent = await fails((ceph) => ceph.groupAdd(pool, group, { pool, image }));
      expect([absent._tag, absent.message.includes(`${pool.pool}/${image}`)]).toEqual(["ImageNotFound", true]);
      const failures = [await fails((ceph) => ceph.groupAdd(pool, group, { pool: nowhere, image }))];
      expect(failures.map((error) => error._tag)).toEqual(["PoolNotFound"]);
      expect(await members(group)).toEqual([]);
    },
    LIMIT,
  );

  test(
    "A group and its images are in one namespace, and an image of another namespace is InvalidCall",
    async () => {
      const { run, fails, pool, inNamespace, anImage } = at();
      const group = await aGroup(inNamespace);
      const other = { pool, image: await anImage() };
      expect((await fails((ceph) => ceph.groupAdd(inNamespace, group, other)))._tag).toBe("InvalidCall");
      const member = { pool: inNamespace, image: await anImage(inNamespace) };
      await run((ceph) => ceph.groupAdd(inNamespace, group, member));
      expect(await members(group, inNamespace)).toEqual([`${inNamespace.pool}/other/${member.image}`]);
    },
    LIMIT,
  );

  test(
    "A member can't be moved to the trash; where it can, it is not listed, and its group prevents its removal",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const group = await aGroup();
      const [image, other] = [await anImage(), await anImage()];
      const { id } = await run((ceph) => ceph.imageStatus(pool, image));
      for (const member of [image, other]) {
        await run((ceph) => ceph.groupAdd(pool, group, { pool, image: member }));
      }
      if (!world.trashesMembers) {
        const error = await fails((ceph) => ceph.trashMove(pool, image));
        expect([error._tag, error.message.includes(`${pool.pool}/${image}`)]).toEqual(["Busy", true]);
        expect(error.message).toContain("rbd group image remove");
        expect(await run((ceph) => ceph.imageId(pool, image))).toBe(id);
        expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
        await world.groups.drop(pool, group, { pool, image });
        await run((ceph) => ceph.trashMove(pool, image));
        await run((ceph) => ceph.trashRemove(pool, id));
        return;
      }
      await run((ceph) => ceph.trashMove(pool, image));
      expect(await members(group)).toEqual([`${pool.pool}//${other}`]);
      expect(await fails((ceph) => ceph.trashRemove(pool, id))).toMatchObject({ _tag: "Busy", inGroup: true });
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeDefined();
      await run((ceph) => ceph.groupRemove(pool, group));
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A large group is listed whole",
    async () => {
      const { run, pool, anImage } = at();
      const group = await aGroup();
      const images: string[] = [];
      for (let i = 0; i < 40; i++) images.push(await anImage());
      await run((ceph) => Effect.forEach(images, (image) => ceph.groupAdd(pool, group, { pool, image })));
      expect(await members(group)).toEqual(images.map((image) => `${pool.pool}//${image}`).toSorted());
    },
    LIMIT,
  );
};
