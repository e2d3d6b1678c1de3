/** Snapshots of images: what they are, whose names they block, and what happens to them when they are removed. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { LIMIT, LONG_LIMIT, MIB, type Session } from "./harness.ts";

export const snapshotContract = (at: () => Session): void => {
  const listed = (image: string, pool = at().pool) => at().run((ceph) => ceph.snapshots(pool, image));

  test(
    "Every call on the snapshots of an image that does not exist is ImageNotFound",
    async () => {
      const { fails, pool, fresh } = at();
      const image = fresh("image");
      const failures = [
        await fails((ceph) => ceph.snapshotCreate(pool, image, "s")),
        await fails((ceph) => ceph.snapshotRemove(pool, image, "s")),
        await fails((ceph) => ceph.snapshots(pool, image)),
        await fails((ceph) => ceph.diff({ pool, image, snapshot: "s" }, undefined, 0n, 10)),
        await fails((ceph) => ceph.cloneDepth(pool, image)),
        await fails((ceph) => ceph.imageFlatten(pool, image)),
        await fails((ceph) => ceph.managerFlatten(pool, image)),
      ];
      expect(failures.map((error) => error._tag)).toEqual(failures.map(() => "ImageNotFound"));
      expect(failures.filter((error) => !error.message.includes(`${pool.pool}/${image}`))).toEqual([]);
    },
    LIMIT,
  );

  test(
    "Snapshots are listed in the order of their creation, each with the image's size at that time",
    async () => {
      const { run, pool, inNamespace, anImage } = at();
      for (const ref of [pool, inNamespace]) {
        const image = await anImage(ref);
        expect(await listed(image, ref)).toEqual([]);
        const before = Date.now();
        await run((ceph) => ceph.snapshotCreate(ref, image, "z first"));
        await run((ceph) => ceph.imageGrow(ref, image, 20n * MIB));
        await run((ceph) => ceph.snapshotCreate(ref, image, "a-second-ü"));
        const both = await listed(image, ref);
        expect(both.map(({ name, kind, sizeBytes, originalName }) => [name, kind, sizeBytes, originalName])).toEqual([
          ["z first", "user", 16n * MIB, undefined],
          ["a-second-ü", "user", 20n * MIB, undefined],
        ]);
        expect((both[0]?.id ?? 0n) < (both[1]?.id ?? 0n)).toBe(true);
        for (const { createdAt } of both) {
          expect(createdAt).toBeGreaterThan(before - 2_000);
          expect(createdAt).toBeLessThan(Date.now() + 2_000);
        }
        const status = await run((ceph) => ceph.imageStatus(ref, image));
        expect([status.snapshotCount, status.sizeBytes]).toEqual([2, 20n * MIB]);
        expect(status.namedSnapshots).toEqual(both.map(({ name }) => name));
      }
    },
    LIMIT,
  );

  test(
    "A taken snapshot name is Exists and the snapshot stays as it was, and on another image the name is free",
    async () => {
      const { run, fails, pool, world, anImage, aSource } = at();
      const image = await aSource();
      const before = await listed(image);
      const content = await world.content(pool, image, "s");
      const error = await fails((ceph) => ceph.snapshotCreate(pool, image, "s"));
      expect(error._tag).toBe("Exists");
      expect(error.message).toContain(`${pool.pool}/${image}@s`);
      expect(await listed(image)).toEqual(before);
      expect(await world.content(pool, image, "s")).toBe(content);
      const other = await anImage();
      await run((ceph) => ceph.snapshotCreate(pool, other, "s"));
    },
    LIMIT,
  );

  test(
    "A snapshot has what was written before it, and nothing of what was written later",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      await world.write(pool, image);
      const first = await world.content(pool, image);
      await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
      await world.write(pool, image);
      await world.write(pool, image, { offset: 8n * MIB, length: 8192n });
      expect(await world.content(pool, image, "s")).toBe(first);
      expect(await world.content(pool, image)).not.toBe(first);
    },
    LIMIT,
  );

  test(
    "A snapshot of an image without a lock is the same whether its clients are asked or not",
    async () => {
      const { run, fails, pool, inNamespace, world, fresh } = at();
      for (const ref of [pool, inNamespace]) {
        for (const clients of ["asked", "unasked"] as const) {
          const [image, clone] = [fresh("image"), fresh("clone")];
          await run((ceph) => ceph.imageCreate(ref, image, { sizeBytes: 16n * MIB, features: 33n }));
          await world.write(ref, image);
          const first = await world.content(ref, image);
          await run((ceph) => ceph.snapshotCreate(ref, image, "ü s", clients));
          await world.write(ref, image);
          expect(await world.content(ref, image, "ü s")).toBe(first);
          await run((ceph) => ceph.imageClone({ pool: ref, image, snapshot: "ü s" }, ref, clone, { features: 33n }));
          await run((ceph) => ceph.snapshotCreate(ref, clone, "ü s", clients));
          for (const each of [image, clone]) {
            expect((await fails((ceph) => ceph.snapshotCreate(ref, each, "ü s", clients)))._tag).toBe("Exists");
            const found = await listed(each, ref);
            expect(found.map(({ name, kind, sizeBytes }) => [name, kind, sizeBytes])).toEqual([
              ["ü s", "user", 16n * MIB],
            ]);
            expect(Math.abs(Date.now() - (found[0]?.createdAt ?? 0))).toBeLessThan(60_000);
          }
          expect(await world.content(ref, clone, "ü s")).toBe(first);
        }
      }
    },
    LONG_LIMIT,
  );

  test(
    "A removed snapshot is gone, its name is free, and a second removal succeeds",
    async () => {
      const { run, pool, aSource } = at();
      const image = await aSource();
      const [first] = await listed(image);
      await run((ceph) => ceph.snapshotRemove(pool, image, "absent"));
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      expect(await listed(image)).toEqual([]);
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
      const [second] = await listed(image);
      expect(second?.id).not.toBe(first?.id);
    },
    LIMIT,
  );

  test(
    "Creates of one name side by side leave one snapshot, though all may report success; other names leave one each",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const create = (name: string) =>
        run((ceph) =>
          ceph.snapshotCreate(pool, image, name).pipe(
            Effect.as("made"),
            Effect.catch((error) => Effect.succeed(error._tag)),
          ),
        );
      const answers = await Promise.all(["x", "x", "x"].map(create));
      expect(answers).toContain("made");
      expect(answers.filter((answer) => answer !== "made" && answer !== "Exists")).toEqual([]);
      expect(await create("x")).toBe("Exists");
      expect(await Promise.all(["a", "b", "c", "d"].map(create))).toEqual(["made", "made", "made", "made"]);
      expect((await listed(image)).map(({ name }) => name).toSorted()).toEqual(["a", "b", "c", "d", "x"]);
    },
    LIMIT,
  );

  test(
    "An image's hundreds of snapshots are listed whole",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const names = Array.from({ length: 70 }, (_, i) => `s${i}`);
      await run((ceph) => Effect.forEach(names, (name) => ceph.snapshotCreate(pool, image, name)));
      expect((await listed(image)).map(({ name }) => name)).toEqual(names);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).snapshotCount).toBe(70);
    },
    // each waits for the monitors
    4 * LIMIT,
  );

  test(
    "An image that somebody has open can be snapshotted",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const close = await world.watch(pool, image);
      try {
        await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
      } finally {
        await close();
      }
      expect((await listed(image)).map(({ name }) => name)).toEqual(["s"]);
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
    },
    LIMIT,
  );

  test(
    "An image with a snapshot can be moved to the trash, and its removal is HasSnapshots",
    async () => {
      const { run, fails, pool, aSource } = at();
      const image = await aSource();
      const { id } = await run((ceph) => ceph.imageStatus(pool, image));
      await run((ceph) => ceph.trashMove(pool, image));
      const error = await fails((ceph) => ceph.trashRemove(pool, id));
      expect(error._tag).toBe("HasSnapshots");
      expect(error.message).toContain(`${pool.pool}/${id}`);
      expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual({ id, name: image, source: "user" });
    },
    LIMIT,
  );
};
