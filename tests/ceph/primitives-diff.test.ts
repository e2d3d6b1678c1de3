/** What differs between snapshots, held against the bytes that were written, on images of every make. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import { makeCephLive } from "../../lib/ceph/live/live.ts";
import type { Extent, ImageSpec } from "../../lib/ceph/rbd.ts";
import { LIMIT, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { timed } from "./hands.ts";
import { primitives } from "./primitives.ts";

const KIB = 1024;
const OBJECT = 4 * 1024 * KIB;

type Plain = readonly [number, number, boolean];
const plain = ({ offset, length, exists }: Extent): Plain => [Number(offset), Number(length), exists];

primitives("differences", ({ session: at, bytes, rig }) => {
  const anImageOf = async (spec: Partial<ImageSpec> = {}) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 32n * MIB, ...spec }));
    return image;
  };
  const snapshot = (image: string, name: string) => at().run((ceph) => ceph.snapshotCreate(at().pool, image, name));
  const idOf = async (image: string, name: string) => {
    const { run, pool } = at();
    return (await run((ceph) => ceph.snapshots(pool, image))).find((found) => found.name === name)?.id ?? 0n;
  };
  const diffOf = async (image: string, to: string | bigint, from?: string | bigint, offset = 0n, limit = 1000) => {
    const { run, pool } = at();
    const answer = await run((ceph) => ceph.diff({ pool, image, snapshot: to }, from, offset, limit));
    return { ...answer, extents: answer.extents.map(plain) };
  };

  test(
    "The content of a snapshot and the differences of two are exact to the byte, by name and by id",
    async () => {
      const { pool } = at();
      const image = await anImageOf();
      bytes().write(pool, image, 8 * KIB, 4 * KIB, 1);
      bytes().write(pool, image, OBJECT - 4 * KIB, 8 * KIB, 1);
      bytes().write(pool, image, 5 * OBJECT, 64 * KIB, 1);
      await snapshot(image, "a");
      bytes().write(pool, image, 8 * KIB, 4 * KIB, 2);
      bytes().write(pool, image, 3 * OBJECT + 512, 512, 2);
      bytes().discard(pool, image, 5 * OBJECT, OBJECT);
      await snapshot(image, "b");
      bytes().write(pool, image, 0, 4 * KIB, 3);
      // an object that was not there at the start, the OSDs tell as a whole: from its beginning to its last byte
      const inA: Plain[] = [
        [0, OBJECT + 4 * KIB, true],
        [5 * OBJECT, 64 * KIB, true],
      ];
      const between: Plain[] = [
        [8 * KIB, 4 * KIB, true],
        [3 * OBJECT, 1024, true],
        [5 * OBJECT, 64 * KIB, false],
      ];
      expect(await diffOf(image, "a")).toEqual({ sizeBytes: 32n * MIB, extents: inA });
      expect((await diffOf(image, await idOf(image, "a"))).extents).toEqual(inA);
      expect((await diffOf(image, "b", "a")).extents).toEqual(between);
      expect((await diffOf(image, await idOf(image, "b"), await idOf(image, "a"))).extents).toEqual(between);
      const inB = (await diffOf(image, "b")).extents;
      expect(inB).toEqual([
        [0, OBJECT + 4 * KIB, true],
        [3 * OBJECT, 1024, true],
      ]);
    },
    LIMIT,
  );

  test(
    "A clone has the content of its parents, and its differences are only what was written to it",
    async () => {
      const { run, pool, fresh } = at();
      const image = await anImageOf();
      bytes().write(pool, image, 0, 64 * KIB, 1);
      bytes().write(pool, image, 2 * OBJECT, 64 * KIB, 1);
      await snapshot(image, "s");
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, clone, {}));
      await snapshot(clone, "one");
      bytes().write(pool, clone, 3 * OBJECT, 4 * KIB, 2);
      await snapshot(clone, "two");
      expect((await diffOf(clone, "one")).extents).toEqual([
        [0, 64 * KIB, true],
        [2 * OBJECT, 64 * KIB, true],
      ]);
      expect((await diffOf(clone, "two")).extents).toEqual([
        [0, 64 * KIB, true],
        [2 * OBJECT, 64 * KIB, true],
        [3 * OBJECT, 4 * KIB, true],
      ]);
      expect((await diffOf(clone, "two", "one")).extents).toEqual([[3 * OBJECT, 4 * KIB, true]]);
    },
    LIMIT,
  );

  test(
    "Pages of any size make up all differences, on plain and on striped images",
    async () => {
      const { pool } = at();
      const striped = { objectSize: 1n * MIB, stripeUnit: 65_536n, stripeCount: 4n, features: 63n };
      for (const spec of [{}, { features: 1n }, striped]) {
        const image = await anImageOf(spec);
        const written = Array.from({ length: 60 }, (_, i) => i * 520 * KIB + 4096 * (i % 7));
        for (const offset of written) bytes().write(pool, image, offset, 12 * KIB, 1);
        bytes().write(pool, image, 20 * 1024 * KIB, 3 * 1024 * KIB, 1);
        await snapshot(image, "s");
        const whole = (await diffOf(image, "s")).extents;
        const sorted = whole.toSorted((a, b) => a[0] - b[0]);
        expect(whole).toEqual(sorted);
        for (const offset of written) {
          const holder = whole.find(([start, length]) => start <= offset && offset + 12 * KIB <= start + length);
          expect([offset, holder === undefined]).toEqual([offset, false]);
        }
        for (const limit of [1, 7, 1000]) {
          const paged: Plain[] = [];
          for (let offset = 0n; ; ) {
            const page = (await diffOf(image, "s", undefined, offset, limit)).extents;
            expect(page.length).toBeLessThanOrEqual(limit);
            paged.push(...page);
            const last = page.at(-1);
            if (last === undefined || page.length < limit) break;
            offset = BigInt(last[0] + last[1]);
          }
          expect([limit, paged]).toEqual([limit, whole]);
        }
      }
    },
    LONG_LIMIT,
  );

  test(
    "The differences since a snapshot without a name are complete, and exact where librbd takes ids",
    async () => {
      const { run, pool, fresh } = at();
      const image = await anImageOf();
      bytes().write(pool, image, 0, 64 * KIB, 1);
      bytes().write(pool, image, 2 * OBJECT, 64 * KIB, 1);
      bytes().write(pool, image, 4 * OBJECT, 64 * KIB, 1);
      await snapshot(image, "a");
      const a = await idOf(image, "a");
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: "a" }, pool, fresh("clone"), {}));
      await run((ceph) => ceph.snapshotRemove(pool, image, "a"));
      bytes().write(pool, image, 2 * OBJECT, 4 * KIB, 2);
      bytes().discard(pool, image, 4 * OBJECT, OBJECT);
      bytes().write(pool, image, 6 * OBJECT, 4 * KIB, 2);
      await snapshot(image, "b");
      const { extents } = await diffOf(image, "b", a);
      const exact: Plain[] = [
        [2 * OBJECT, 4 * KIB, true],
        [4 * OBJECT, 64 * KIB, false],
        [6 * OBJECT, 4 * KIB, true],
      ];
      const whole: Plain[] = [
        [0, 64 * KIB, true],
        [2 * OBJECT, 64 * KIB, true],
        [4 * OBJECT, 64 * KIB, false],
        [6 * OBJECT, 4 * KIB, true],
      ];
      expect(extents).toEqual(rig.release > 16 ? exact : whole);
      const paged: Plain[] = [];
      for (let offset = 0n; ; ) {
        const page = (await diffOf(image, "b", a, offset, 1)).extents;
        const last = page[0];
        if (last === undefined) break;
        paged.push(last);
        offset = BigInt(last[0] + last[1]);
      }
      expect(paged).toEqual(extents);
    },
    LIMIT,
  );

  test(
    "Pieces of an image that are read one after the other make up all differences",
    async () => {
      const { pool } = at();
      // pieces of 4096 objects each
      const piece = 4096 * OBJECT;
      const sizeBytes = BigInt(3 * piece + 5 * OBJECT);
      const image = await anImageOf({ sizeBytes, features: 1n });
      await snapshot(image, "empty");
      expect((await diffOf(image, "empty")).extents).toEqual([]);
      // over the end of a piece, in its last object, and in the last piece
      bytes().write(pool, image, piece - 4 * KIB, 8 * KIB, 1);
      bytes().write(pool, image, 2 * piece - 4 * KIB, 4 * KIB, 1);
      bytes().write(pool, image, 3 * piece + OBJECT, 4 * KIB, 1);
      await snapshot(image, "full");
      // objects that were not there at the start: from the beginning of each
      const whole: Plain[] = [
        [piece - OBJECT, OBJECT + 4 * KIB, true],
        [2 * piece - OBJECT, OBJECT, true],
        [3 * piece + OBJECT, 4 * KIB, true],
      ];
      expect((await diffOf(image, "full")).extents).toEqual(whole);
      expect((await diffOf(image, "full", "empty")).extents).toEqual(whole);
      expect((await diffOf(image, "full", undefined, BigInt(piece))).extents[0]).toEqual([piece, 4 * KIB, true]);
      expect((await diffOf(image, "full", undefined, 0n, 1)).extents).toEqual(whole.slice(0, 1));
    },
    LONG_LIMIT,
  );

  test(
    "A difference that nobody waits for any more frees its cell, long before all of the image is read",
    async () => {
      const { pool } = at();
      // minutes, if all of it is read
      const image = await anImageOf({ sizeBytes: 16n * 1024n * 1024n * MIB, features: 1n });
      await snapshot(image, "s");
      const used = Effect.gen(function* () {
        const { service, state } = yield* makeCephLive({ cephConf: `${rig.dir}/absent.conf` });
        const read = service.diff({ pool, image, snapshot: "s" }, undefined, 0n, 1000);
        const fiber = yield* Effect.forkChild(read, { startImmediately: true });
        while (state().slow.running.length === 0) yield* Effect.sleep("20 millis");
        yield* Effect.sleep("500 millis");
        expect(fiber.pollUnsafe()).toBeUndefined();
        const { ms } = yield* Effect.promise(() => timed(Effect.runPromise(Fiber.interrupt(fiber))));
        expect(state().slow.running).toEqual([]);
        return ms;
      });
      expect(await Effect.runPromise(used.pipe(Effect.scoped, Effect.orDie))).toBeLessThan(20_000);
    },
    LONG_LIMIT,
  );

  test(
    "The error of a missing snapshot names it, and beyond the end there is nothing",
    async () => {
      const { fails, pool, fresh } = at();
      const image = await anImageOf();
      await snapshot(image, "s");
      expect((await diffOf(image, "s", undefined, 64n * MIB)).extents).toEqual([]);
      const failures = [
        await fails((ceph) => ceph.diff({ pool, image, snapshot: "never" }, undefined, 0n, 1)),
        await fails((ceph) => ceph.diff({ pool, image, snapshot: 987_654n }, undefined, 0n, 1)),
        await fails((ceph) => ceph.diff({ pool, image, snapshot: "s" }, "before", 0n, 1)),
        await fails((ceph) => ceph.diff({ pool, image: fresh("image"), snapshot: "s" }, undefined, 0n, 1)),
      ];
      expect(failures.map(({ _tag }) => _tag)).toEqual([
        "ImageSnapshotNotFound",
        "ImageSnapshotNotFound",
        "ImageSnapshotNotFound",
        "ImageNotFound",
      ]);
      expect(failures[2]?.message).toContain("@before");
    },
    LIMIT,
  );

  test(
    "The differences of an image whose lock somebody holds are readable",
    async () => {
      const { pool, world } = at();
      const image = await anImageOf();
      bytes().write(pool, image, 0, 4 * KIB, 1);
      await snapshot(image, "s");
      const close = await world.watch(pool, image);
      expect((await diffOf(image, "s")).extents).toEqual([[0, 4 * KIB, true]]);
      await close();
    },
    LIMIT,
  );
});
