/** What is told of many at once: pools and their space, keys page by page, objects and images in one call. */
import { expect, test } from "bun:test";
import { eventually, LIMIT, MIB, type Session } from "./harness.ts";

export const listingContract = (at: () => Session): void => {
  const page = (object: string, prefix: string, after: string, limit: number, pool = at().pool) =>
    at().run((ceph) => ceph.omapList(pool, object, { prefix, after, limit }));
  const keysOf = (found: ReadonlyMap<string, string> | undefined) => found && [...found.keys()];
  const anObject = async (set: Readonly<Record<string, string>>, pool = at().pool): Promise<string> => {
    const { run, fresh } = at();
    const object = fresh("object");
    await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set }));
    return object;
  };

  test(
    "The list of pools has every pool with its id, a new one too",
    async () => {
      const { run, world } = at();
      const pools = () => run((ceph) => ceph.pools(world.access));
      for (const name of [world.pool, world.dataPool]) {
        const id = await run((ceph) => ceph.poolId(world.access, name));
        expect(await pools()).toContainEqual({ id, name });
      }
      const name = `${world.pool}-listed`;
      expect((await pools()).map((pool) => pool.name)).not.toContain(name);
      const id = await world.addPool(name);
      expect(await pools()).toContainEqual({ id, name });
      expect(await run((ceph) => ceph.pools(world.limited))).toContainEqual({ id, name });
    },
    LIMIT,
  );

  test(
    "An omap that is split is listed as one, page by page in the order of the bytes",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      const parts = ["1", "2", "3"].map((part) => `${object}.${part}`);
      const pageOf = (after: string, limit: number) =>
        run((ceph) => ceph.omapList(pool, object, { prefix: "k", after, limit }, parts));
      const write = (name: string, set: Readonly<Record<string, string>>) =>
        run((ceph) => ceph.omapWrite(pool, name, { object: "exclusive", set }));
      await write(`${object}.3`, { "k-c": "3", "k-ü": "4", other: "x" });
      await write(`${object}.1`, { "k-a": "1", "k-\u{10000}": "6" });
      expect(keysOf(await pageOf("", 10))).toEqual(["k-a", "k-c", "k-ü", "k-\u{10000}"]);
      await write(object, { "k-b": "2", "k-c": "of the first", "k-\uffff": "5" });
      const all = ["k-a", "k-b", "k-c", "k-ü", "k-\uffff", "k-\u{10000}"];
      expect(keysOf(await pageOf("", 10))).toEqual(all);
      expect(keysOf(await pageOf("", 2))).toEqual(all.slice(0, 2));
      expect((await pageOf("k-b", 2))?.get("k-c")).toBe("of the first");
      expect(keysOf(await pageOf("k-b", 2))).toEqual(all.slice(2, 4));
      expect(keysOf(await pageOf("k-b", 3))).toEqual(all.slice(2, 5));
      expect(await pageOf("k-\uffff", 3)).toEqual(new Map([["k-\u{10000}", "6"]]));
    },
    LIMIT,
  );

  test(
    "A pool has space, at most as much as its quota leaves",
    async () => {
      const { run, fails, world, nowhere } = at();
      const available = async (access = world.access) =>
        (await run((ceph) => ceph.poolSpace(access, world.dataPool))).availableBytes ?? 0n;
      const free = await available();
      expect(free).toBeGreaterThan(64n * MIB);
      expect(await available(world.limited)).toBeGreaterThan(64n * MIB);
      await world.setQuota(world.dataPool, 64n * MIB);
      expect(await eventually(async () => (await available()) <= 64n * MIB)).toBe(true);
      expect(await available()).toBeGreaterThan(0n);
      await world.setQuota(world.dataPool, 0n);
      expect(await eventually(async () => (await available()) > 64n * MIB)).toBe(true);
      expect((await fails((ceph) => ceph.poolSpace(world.access, nowhere.pool)))._tag).toBe("PoolNotFound");
    },
    LIMIT,
  );

  test(
    "Keys are listed in the order of their bytes, only those of the prefix, after the given key",
    async () => {
      const entries = {
        "csi.b": "2",
        "csi.a": "1",
        "csi.ä": "5",
        "csi.": "0",
        "csi.🗝": "7",
        "csi.～": "6",
        "csi.B": "3",
      };
      const object = await anObject({ ...entries, "csh.z": "x", csi: "x", "csj.a": "x", "": "x" });
      const inOrder = ["csi.", "csi.B", "csi.a", "csi.b", "csi.ä", "csi.～", "csi.🗝"];
      const whole = await page(object, "csi.", "", 100);
      expect(keysOf(whole)).toEqual(inOrder);
      expect(Object.fromEntries(whole ?? [])).toEqual(entries);
      expect(keysOf(await page(object, "csi.", "csi.a", 2))).toEqual(["csi.b", "csi.ä"]);
      // no key needs to be at the place
      expect(keysOf(await page(object, "csi.", "csi.aa", 1))).toEqual(["csi.b"]);
      expect(keysOf(await page(object, "csi.", "a", 1))).toEqual(["csi."]);
      expect(keysOf(await page(object, "csi.", "csi.🗝", 5))).toEqual([]);
      expect(keysOf(await page(object, "csi.", "z", 5))).toEqual([]);
      expect(keysOf(await page(object, "nothing", "", 5))).toEqual([]);
      expect((await page(object, "", "", 100))?.size).toBe(10);
    },
    LIMIT,
  );

  test(
    "An absent object is undefined, an object without keys is empty, and each namespace has its own objects",
    async () => {
      const { inNamespace, fresh } = at();
      expect(await page(fresh("object"), "", "", 5)).toBeUndefined();
      expect((await page(await anObject({}), "", "", 5))?.size).toBe(0);
      const object = await anObject({ k: "v" }, inNamespace);
      expect(await page(object, "", "", 5)).toBeUndefined();
      expect(Object.fromEntries((await page(object, "", "", 5, inNamespace)) ?? [])).toEqual({ k: "v" });
    },
    LIMIT,
  );

  test(
    "Pages of any size make up all keys, also beyond what one read of an OSD answers",
    async () => {
      const entries = Object.fromEntries(Array.from({ length: 2_500 }, (_, i) => [`key-${i}`, `value-${i}`]));
      const object = await anObject({ ...entries, other: "x" });
      const inOrder = Object.keys(entries).toSorted();
      for (const limit of [400, 1_024, 2_499, 2_500, 10_000]) {
        const found: string[] = [];
        for (let after = ""; ; ) {
          const keys = keysOf(await page(object, "key-", after, limit)) ?? [];
          found.push(...keys);
          // a page that is not full is the last one
          if (keys.length < limit) break;
          expect(keys).toHaveLength(limit);
          after = keys.at(-1) ?? "";
        }
        expect(found).toEqual(inOrder);
      }
    },
    LIMIT,
  );

  test(
    "Keys that come and go between two pages neither hide nor repeat another key",
    async () => {
      const { run, pool } = at();
      const object = await anObject({ b: "", d: "", f: "", h: "" });
      expect(keysOf(await page(object, "", "", 2))).toEqual(["b", "d"]);
      await run((ceph) => ceph.omapWrite(pool, object, { object: "require", set: { a: "", g: "" }, remove: ["d"] }));
      expect(keysOf(await page(object, "", "d", 10))).toEqual(["f", "g", "h"]);
    },
    LIMIT,
  );

  test(
    "One call reads many objects, in the requested order",
    async () => {
      const { run, pool, fresh } = at();
      expect(await run((ceph) => ceph.omapGetMany(pool, []))).toEqual([]);
      const objects: string[] = [];
      for (let i = 0; i < 30; i++) objects.push(await anObject({ n: `${i}`, other: "x" }));
      const names = [...objects.toReversed(), fresh("object"), objects[0] ?? ""];
      const wanted = names.map((object, i) => ({ object, keys: i === 3 ? [] : ["n", "absent"] }));
      const found = await run((ceph) => ceph.omapGetMany(pool, wanted));
      expect(found).toHaveLength(32);
      expect(found.slice(0, 3).map((omap) => omap && Object.fromEntries(omap))).toEqual([
        { n: "29" },
        { n: "28" },
        { n: "27" },
      ]);
      expect(found[3]?.size).toBe(0);
      expect(found[30]).toBeUndefined();
      expect(Object.fromEntries(found[31] ?? [])).toEqual({ n: "0" });
    },
    LIMIT,
  );

  test(
    "One call reads hundreds of objects, some of them absent",
    async () => {
      const { run, pool } = at();
      const object = await anObject({ k: "v" });
      const wanted = Array.from({ length: 1_500 }, (_, i) => ({
        object: i % 3 === 0 ? object : `no-such-object-${i}`,
        keys: ["k"],
      }));
      const found = await run((ceph) => ceph.omapGetMany(pool, wanted));
      expect(found.map((omap) => omap?.get("k"))).toEqual(wanted.map((_, i) => (i % 3 === 0 ? "v" : undefined)));
    },
    LIMIT,
  );

  test(
    "Image briefs have id, size and the requested metadata, and are undefined for an image that does not exist",
    async () => {
      const { run, pool, inNamespace, world, fresh, anImage, aSource } = at();
      const plain = await anImage();
      await run((ceph) => ceph.imageMetaSet(pool, plain, { a: "1", "b/c ü": "zwei 2", other: "x" }));
      await run((ceph) => ceph.imageGrow(pool, plain, 20n * MIB + 1n));
      const source = await aSource();
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image: source, snapshot: "s" }, pool, clone, {}));
      const elsewhere = await anImage(inNamespace);
      const trashed = await anImage();
      await run((ceph) => ceph.trashMove(pool, trashed));
      const bare = await anImage();
      await world.cutShort("header", pool, bare);
      const names = [clone, fresh("image"), plain, elsewhere, trashed, bare, plain];
      const briefs = await run((ceph) => ceph.imageBriefs(pool, names, ["a", "b/c ü", "absent"]));
      const idOf = (image: string) => run((ceph) => ceph.imageId(pool, image));
      const metadata = { a: "1", "b/c ü": "zwei 2" };
      for (const [i, name] of [
        [0, clone],
        [2, plain],
      ] as const) {
        const { createdAt } = await run((ceph) => ceph.imageStatus(pool, name));
        expect(briefs[i]?.createdAt).toBe(createdAt);
      }
      const told = briefs.map((brief) => {
        const { createdAt: _createdAt, ...rest } = brief ?? { createdAt: 0 };
        return brief && { ...rest, metadata: Object.fromEntries(brief.metadata) };
      });
      expect(told).toEqual([
        { id: (await idOf(clone)) ?? "", sizeBytes: 16n * MIB, metadata: {} },
        undefined,
        { id: (await idOf(plain)) ?? "", sizeBytes: 20n * MIB + 1n, metadata },
        undefined,
        undefined,
        undefined,
        { id: (await idOf(plain)) ?? "", sizeBytes: 20n * MIB + 1n, metadata },
      ]);
      const [there] = await run((ceph) => ceph.imageBriefs(inNamespace, [elsewhere], []));
      expect([there?.sizeBytes, there?.metadata.size]).toEqual([16n * MIB, 0]);
      expect(await run((ceph) => ceph.imageBriefs(pool, [], ["a"]))).toEqual([]);
    },
    LIMIT,
  );
};
