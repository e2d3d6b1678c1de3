/** Groups on a real cluster, with the bytes of their members, and what librbd leaves behind that a caller must not see. */
import { expect, test } from "bun:test";
import { LIMIT, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { primitives } from "./primitives.ts";

const KIB = 1024;

primitives("groups", ({ session: at, bytes, rig }) => {
  const grouped = async (count: number) => {
    const { run, pool, fresh, anImage } = at();
    const group = fresh("group");
    await run((ceph) => ceph.groupCreate(pool, group));
    const images: string[] = [];
    for (let i = 0; i < count; i++) {
      const image = await anImage();
      await run((ceph) => ceph.groupAdd(pool, group, { pool, image }));
      images.push(image);
    }
    return { group, images };
  };

  const namesIn = async (group: string) => {
    const { pool, world } = at();
    return (await world.groups.members(pool, group))?.map((member) => member.split("/").at(-1));
  };

  test(
    "A group's snapshot is a snapshot of each member, and its id is found in each",
    async () => {
      const { run, pool, world } = at();
      const { group, images } = await grouped(2);
      for (const image of images) bytes().write(pool, image, 0, 64 * KIB, 1);
      await run((ceph) => ceph.groupSnapshotCreate(pool, group, "then"));
      for (const image of images) bytes().write(pool, image, 0, 64 * KIB, 2);
      expect(await world.groups.snapshots(pool, group)).toEqual(["then"]);
      const members = await run((ceph) => ceph.groupSnapshotMembers(pool, group, "then"));
      expect(members?.map(({ image }) => image).toSorted()).toEqual(images.toSorted());
      for (const { image, snapshotId, ...place } of members ?? []) {
        expect(place).toEqual({ pool: pool.pool, namespace: "" });
        const listed = await run((ceph) => ceph.snapshots(pool, image));
        expect(listed.map(({ id, kind }) => ({ id, kind }))).toEqual([{ id: snapshotId, kind: "group" }]);
      }
      expect(await run((ceph) => ceph.groupSnapshotMembers(pool, group, "never"))).toBeUndefined();
      expect(await run((ceph) => ceph.groupSnapshotMembers(pool, "never", "then"))).toBeUndefined();
      await world.groups.removeSnapshot(pool, group, "then");
      expect(await world.groups.snapshots(pool, group)).toEqual([]);
      expect(await run((ceph) => ceph.snapshots(pool, images[0] ?? ""))).toEqual([]);
    },
    LONG_LIMIT,
  );

  test(
    "A member's part can be cloned by its id, and the clone has the bytes of that time",
    async () => {
      const { run, pool, world, fresh } = at();
      const { group, images } = await grouped(1);
      const image = images[0] ?? "";
      bytes().write(pool, image, 0, 64 * KIB, 1);
      await run((ceph) => ceph.groupSnapshotCreate(pool, group, "then"));
      bytes().write(pool, image, 0, 64 * KIB, 2);
      const [member] = (await run((ceph) => ceph.groupSnapshotMembers(pool, group, "then"))) ?? [];
      const source = { pool, image, snapshot: member?.snapshotId ?? 0n };
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone(source, pool, clone, {}));
      expect(bytes().read(pool, clone, 0, 1)[0]).toBe(1);
      const status = await run((ceph) => ceph.imageStatus(pool, clone));
      expect(status.parent).toMatchObject({ pool: pool.pool, namespace: "", image });
      expect(await run((ceph) => ceph.cloneDepth(pool, clone))).toBe(1);

      await world.groups.removeSnapshot(pool, group, "then");
      expect((await run((ceph) => ceph.snapshots(pool, image))).map(({ kind }) => kind)).toEqual(["trash"]);
      expect(bytes().read(pool, clone, 0, 1)[0]).toBe(1);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      expect(bytes().read(pool, clone, 0, 1)[0]).toBe(1);
      expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
    },
    LONG_LIMIT,
  );

  test(
    "Members are added and dropped, and an image that is not a member stays out",
    async () => {
      const { run, fails, pool, world, fresh } = at();
      const { group, images } = await grouped(3);
      const other = fresh("group");
      const [first = "", second = "", third = ""] = images;
      await run((ceph) => ceph.groupCreate(pool, other));
      expect((await fails((ceph) => ceph.groupCreate(pool, other)))._tag).toBe("Exists");
      await run((ceph) => ceph.groupAdd(pool, group, { pool, image: first }));
      expect((await fails((ceph) => ceph.groupAdd(pool, other, { pool, image: first })))._tag).toBe("Busy");
      expect(await namesIn(other)).toEqual([]);
      expect(await namesIn(group)).toEqual(images.toSorted());
      await world.groups.drop(pool, group, { pool, image: second });
      await run((ceph) => ceph.groupAdd(pool, other, { pool, image: second }));
      expect(await namesIn(group)).toEqual([first, third].toSorted());
      if (rig.release >= 20) {
        expect((await fails((ceph) => ceph.trashMove(pool, third)))._tag).toBe("Busy");
        await world.groups.drop(pool, group, { pool, image: third });
      }
      await run((ceph) => ceph.trashMove(pool, third));
      expect(await namesIn(group)).toEqual([first]);
      expect(await namesIn("never")).toBeUndefined();
      const missing = [
        await fails((ceph) => ceph.groupAdd(pool, "never", { pool, image: first })),
        await fails((ceph) => ceph.groupAdd(pool, group, { pool, image: "never" })),
        await fails((ceph) => ceph.groupSnapshotCreate(pool, "never", "s")),
      ];
      expect(missing.map(({ _tag }) => _tag)).toEqual(["ObjectNotFound", "ImageNotFound", "ObjectNotFound"]);
    },
    LONG_LIMIT,
  );

  test(
    "Members may be in another pool of the same namespace, and a namespace has its own groups",
    async () => {
      const { run, fails, pool, inNamespace, world, anImage, fresh } = at();
      const group = fresh("group");
      const [elsewhere, inside] = [await anImage({ ...pool, pool: world.dataPool }), await anImage(inNamespace)];
      await run((ceph) => ceph.groupCreate(pool, group));
      await run((ceph) => ceph.groupAdd(pool, group, { pool: { ...pool, pool: world.dataPool }, image: elsewhere }));
      expect(await world.groups.members(pool, group)).toEqual([`${world.dataPool}//${elsewhere}`]);
      expect((await fails((ceph) => ceph.groupAdd(pool, group, { pool: inNamespace, image: inside })))._tag).toBe(
        "InvalidCall",
      );
      expect(await world.groups.members(inNamespace, group)).toBeUndefined();
      await run((ceph) => ceph.groupCreate(inNamespace, group));
      await run((ceph) => ceph.groupAdd(inNamespace, group, { pool: inNamespace, image: inside }));
      await run((ceph) => ceph.groupSnapshotCreate(inNamespace, group, "s"));
      expect(await world.groups.members(inNamespace, group)).toEqual([`${pool.pool}/${world.namespace}/${inside}`]);
      await run((ceph) => ceph.groupRemove(inNamespace, group));
      expect(await run((ceph) => ceph.snapshots(inNamespace, inside))).toEqual([]);
      expect(await world.groups.members(pool, group)).toHaveLength(1);
    },
    LONG_LIMIT,
  );

  test(
    "The removal of a group removes its snapshots, and none of its images",
    async () => {
      const { run, pool } = at();
      const { group, images } = await grouped(2);
      await run((ceph) => ceph.groupSnapshotCreate(pool, group, "s"));
      await run((ceph) => ceph.groupRemove(pool, group));
      await run((ceph) => ceph.groupRemove(pool, group));
      for (const image of images) {
        expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
        expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(16n * MIB);
      }
    },
    LIMIT,
  );
});
