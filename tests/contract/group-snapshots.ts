/** Snapshots of groups: one point in time over all members, each of which can be read and cloned by its id. */
import { expect, test } from "bun:test";
import { LIMIT, MIB, type Session } from "./harness.ts";

export const groupSnapshotContract = (at: () => Session): void => {
  /** A group of so many images with data -> its name and theirs. */
  const aGroup = async (size: number, pool = at().pool) => {
    const { run, world, fresh, anImage } = at();
    const group = fresh("group");
    await run((ceph) => ceph.groupCreate(pool, group));
    const images: string[] = [];
    for (let i = 0; i < size; i++) {
      const image = await anImage(pool);
      await world.write(pool, image);
      await run((ceph) => ceph.groupAdd(pool, group, { pool, image }));
      images.push(image);
    }
    return { group, images };
  };
  const take = (group: string, snapshot: string, pool = at().pool) =>
    at().run((ceph) => ceph.groupSnapshotCreate(pool, group, snapshot));
  const names = (group: string, pool = at().pool) => at().world.groups.snapshots(pool, group);
  const kinds = async (image: string, pool = at().pool) =>
    (await at().run((ceph) => ceph.snapshots(pool, image))).map(({ kind }) => kind);

  test(
    "A group snapshot is a snapshot of each member, of the kind group",
    async () => {
      const { run, pool, inNamespace } = at();
      for (const ref of [pool, inNamespace]) {
        const { group, images } = await aGroup(3, ref);
        await take(group, "g1", ref);
        expect(await names(group, ref)).toEqual(["g1"]);
        const members = await run((ceph) => ceph.groupSnapshotMembers(ref, group, "g1"));
        expect(members?.map(({ image }) => image).toSorted()).toEqual(images.toSorted());
        for (const image of images) {
          const [snapshot] = await run((ceph) => ceph.snapshots(ref, image));
          expect([snapshot?.kind, snapshot?.sizeBytes]).toEqual(["group", 16n * MIB]);
          const member = members?.find((one) => one.image === image);
          expect(member).toEqual({
            pool: ref.pool,
            namespace: ref.namespace,
            image,
            snapshotId: snapshot?.id ?? 0n,
          });
        }
      }
    },
    LIMIT,
  );

  test(
    "A taken name is Exists; other names are other snapshots, each with its members of the time",
    async () => {
      const { run, fails, pool, anImage } = at();
      const { group, images } = await aGroup(1);
      await take(group, "g1");
      const error = await fails((ceph) => ceph.groupSnapshotCreate(pool, group, "g1"));
      expect([error._tag, error.message.includes(`${pool.pool}/${group}@g1`)]).toEqual(["Exists", true]);
      const joined = await anImage();
      await run((ceph) => ceph.groupAdd(pool, group, { pool, image: joined }));
      await take(group, "g2");
      expect(await names(group)).toEqual(["g1", "g2"]);
      const membersOf = async (snapshot: string) =>
        (await run((ceph) => ceph.groupSnapshotMembers(pool, group, snapshot)))?.map(({ image }) => image).toSorted();
      expect(await membersOf("g1")).toEqual(images);
      expect(await membersOf("g2")).toEqual([...images, joined].toSorted());
      expect(await membersOf("g3")).toBeUndefined();
      expect([await kinds(joined), await kinds(images[0] ?? "")]).toEqual([["group"], ["group", "group"]]);
    },
    LIMIT,
  );

  test(
    "A snapshot of an empty group has no members",
    async () => {
      const { run, pool } = at();
      const { group } = await aGroup(0);
      await take(group, "g1");
      expect(await names(group)).toEqual(["g1"]);
      expect(await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g1"))).toEqual([]);
    },
    LIMIT,
  );

  test(
    "A group snapshot that another client removed is gone from each member",
    async () => {
      const { run, pool, world } = at();
      const { group, images } = await aGroup(2);
      await take(group, "g1");
      await take(group, "g2");
      await world.groups.removeSnapshot(pool, group, "g1");
      expect(await names(group)).toEqual(["g2"]);
      for (const image of images) expect(await kinds(image)).toEqual(["group"]);
      await take(group, "g1");
      // the group takes what it has with it
      await run((ceph) => ceph.groupRemove(pool, group));
      for (const image of images) {
        expect(await kinds(image)).toEqual([]);
        expect((await run((ceph) => ceph.imageStatus(pool, image))).features).toBe(61n);
      }
    },
    LIMIT,
  );

  test(
    "A member that left the group keeps its part until the group's snapshot is removed",
    async () => {
      const { run, fails, pool, world } = at();
      const { group, images } = await aGroup(2);
      const [image = ""] = images;
      await take(group, "g1");
      await world.groups.drop(pool, group, { pool, image });
      expect(await kinds(image)).toEqual(["group"]);
      expect((await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g1")))?.length).toBe(2);
      const { id, groupSnapshotCount, namedSnapshots } = await run((ceph) => ceph.imageStatus(pool, image));
      expect([groupSnapshotCount, namedSnapshots]).toEqual([1, []]);
      await run((ceph) => ceph.trashMove(pool, image));
      expect((await fails((ceph) => ceph.trashRemove(pool, id)))._tag).toBe("HasSnapshots");
      await world.groups.removeSnapshot(pool, group, "g1");
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(await run((ceph) => ceph.trashGet(pool, id))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A member's part can't be removed or opened by the name that it is listed by",
    async () => {
      const { run, fails, pool } = at();
      const { group, images } = await aGroup(1);
      const [image = ""] = images;
      await take(group, "g1");
      const [snapshot] = await run((ceph) => ceph.snapshots(pool, image));
      const name = snapshot?.name ?? "";
      await run((ceph) => ceph.snapshotRemove(pool, image, name));
      expect(await kinds(image)).toEqual(["group"]);
      const failures = [
        await fails((ceph) => ceph.imageClone({ pool, image, snapshot: name }, pool, "never-made", {})),
        await fails((ceph) => ceph.diff({ pool, image, snapshot: name }, undefined, 0n, 10)),
      ];
      expect(failures.map((error) => error._tag)).toEqual(["ImageSnapshotNotFound", "ImageSnapshotNotFound"]);
    },
    LIMIT,
  );

  test(
    "A member's part, read by its id, has the content of its time and nothing later",
    async () => {
      const { run, pool, world } = at();
      const { group, images } = await aGroup(2);
      await take(group, "g1");
      for (const image of images) await world.write(pool, image, { offset: 8n * MIB, length: 4096n });
      for (const { image, snapshotId } of (await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g1"))) ?? []) {
        const { extents } = await run((ceph) => ceph.diff({ pool, image, snapshot: snapshotId }, undefined, 0n, 10));
        expect(extents[0]).toMatchObject({ offset: 0n, exists: true });
        expect(extents.every(({ offset, length }) => offset + length <= 4n * MIB)).toBe(true);
      }
    },
    LIMIT,
  );

  test(
    "A clone by id has the bytes of that time, and keeps the part in the snapshots' trash from then on",
    async () => {
      const { run, pool, world, fresh } = at();
      const { group, images } = await aGroup(2);
      const [image = ""] = images;
      const content = await world.content(pool, image);
      await take(group, "g1");
      await world.write(pool, image);
      const members = await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g1"));
      const snapshot = members?.find((member) => member.image === image)?.snapshotId ?? 0n;
      const clone = fresh("clone");
      await run((ceph) => ceph.imageMetaSet(pool, image, { ".rbd.a": "x", k: "z" }));
      await run((ceph) => ceph.imageClone({ pool, image, snapshot }, pool, clone, {}));
      expect(await world.metadata(pool, clone)).toEqual({ k: "z" });
      expect(await world.content(pool, clone)).toBe(content);
      expect((await run((ceph) => ceph.imageStatus(pool, clone))).parent?.image).toBe(image);
      await world.groups.removeSnapshot(pool, group, "g1");
      expect(await kinds(image)).toEqual(["trash"]);
      expect(await names(group)).toEqual([]);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      expect(await kinds(image)).toEqual([]);
      expect(await world.content(pool, clone)).toBe(content);
    },
    LIMIT,
  );

  test(
    "A user's snapshot can be cloned by its id as well",
    async () => {
      const { run, pool, world, fresh, aSource } = at();
      const image = await aSource();
      const [snapshot] = await run((ceph) => ceph.snapshots(pool, image));
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: snapshot?.id ?? 0n }, pool, clone, {}));
      expect(await world.content(pool, clone)).toBe(await world.content(pool, image, "s"));
    },
    LIMIT,
  );

  test(
    "A group snapshot that was not completed is not listed, blocks its name, and can be removed",
    async () => {
      const { run, fails, pool, world } = at();
      const { group, images } = await aGroup(2);
      await take(group, "g1");
      await world.cutGroupSnapshotShort(pool, group, "g1");
      expect(await names(group)).toEqual([]);
      expect(await run((ceph) => ceph.groupSnapshotMembers(pool, group, "g1"))).toBeUndefined();
      expect((await fails((ceph) => ceph.groupSnapshotCreate(pool, group, "g1")))._tag).toBe("Exists");
      await world.groups.removeSnapshot(pool, group, "g1");
      for (const image of images) expect(await kinds(image)).toEqual([]);
      await take(group, "g1");
      expect(await names(group)).toEqual(["g1"]);
    },
    LIMIT,
  );
};
