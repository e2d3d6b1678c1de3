/** Images that are there: growth, content, metadata, watchers; and the same calls where no image is. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { ImageCalls } from "../../lib/ceph/rbd.ts";
import { LIMIT, MIB, type Session } from "./harness.ts";

export const imageUseContract = (at: () => Session): void => {
  test(
    "Every call on an image that does not exist is ImageNotFound",
    async () => {
      const { fails, pool, fresh } = at();
      const image = fresh("image");
      const failures = [
        await fails((ceph) => ceph.imageStatus(pool, image)),
        await fails((ceph) => ceph.imageGrow(pool, image, MIB)),
        await fails((ceph) => ceph.imageHasData(pool, image, "any")),
        await fails((ceph) => ceph.imageMetaSet(pool, image, { k: "v" })),
        await fails((ceph) => ceph.imageMetaList(pool, image, "")),
        await fails((ceph) => ceph.trashMove(pool, image)),
      ];
      expect(failures.map((error) => error._tag)).toEqual(failures.map(() => "ImageNotFound"));
      expect(failures[0]?.message).toContain(`${pool.pool}/${image}`);
    },
    LIMIT,
  );

  test(
    "An image grows and never shrinks, and the answer is the size that it has",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const grow = async (size: bigint) => (await run((ceph) => ceph.imageGrow(pool, image, size))).sizeBytes;
      expect(await grow(20n * MIB + 1n)).toBe(20n * MIB + 1n);
      expect(await grow(20n * MIB + 1n)).toBe(20n * MIB + 1n);
      expect(await grow(16n * MIB)).toBe(20n * MIB + 1n);
      expect(await grow(0n)).toBe(20n * MIB + 1n);
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(20n * MIB + 1n);
    },
    LIMIT,
  );

  test(
    "Growers side by side leave the largest size",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      const sizes = [24n, 48n, 32n, 40n].map((n) => n * MIB);
      await run((ceph) =>
        Effect.forEach(sizes, (size) => ceph.imageGrow(pool, image, size), { concurrency: "unbounded" }),
      );
      expect((await run((ceph) => ceph.imageStatus(pool, image))).sizeBytes).toBe(48n * MIB);
    },
    LIMIT,
  );

  test(
    "A new or grown image holds no data, and an image that was written to does",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(false);
      await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB));
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(false);
      await world.write(pool, image);
      expect(await run((ceph) => ceph.imageHasData(pool, image, "any"))).toBe(true);
    },
    LIMIT,
  );

  test(
    "Data is looked for from an offset on, with objects of any size and stripes",
    async () => {
      const { run, pool, world, fresh } = at();
      const layouts = [
        {},
        { features: 1n },
        { objectSize: 32n * MIB },
        { objectSize: 4n * MIB, stripeUnit: 65_536n, stripeCount: 4n },
      ];
      for (const layout of layouts) {
        const image = fresh("offset");
        await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, ...layout }));
        const hasData = (from: bigint) => run((ceph) => ceph.imageHasData(pool, image, "any", from));
        await world.write(pool, image, { offset: 0n, length: 16n * MIB });
        expect([await hasData(0n), await hasData(16n * MIB), await hasData(64n * MIB)]).toEqual([true, false, false]);
        await world.write(pool, image, { offset: 24n * MIB, length: 4096n });
        expect([await hasData(16n * MIB), await hasData(32n * MIB)]).toEqual([true, false]);
      }
    },
    LIMIT,
  );

  test(
    "Data is found without object-map, with a data pool, and in a namespace",
    async () => {
      const { run, pool, inNamespace, world, fresh } = at();
      const cases = [
        { ref: pool, spec: { sizeBytes: 16n * MIB, features: 1n } },
        { ref: pool, spec: { sizeBytes: 16n * MIB, dataPool: world.dataPool } },
        { ref: inNamespace, spec: { sizeBytes: 16n * MIB, stripeUnit: 65_536n, stripeCount: 4n } },
      ];
      for (const { ref, spec } of cases) {
        const image = fresh("image");
        await run((ceph) => ceph.imageCreate(ref, image, spec));
        expect(await run((ceph) => ceph.imageHasData(ref, image, "any"))).toBe(false);
        await world.write(ref, image);
        expect(await run((ceph) => ceph.imageHasData(ref, image, "any"))).toBe(true);
      }
    },
    LIMIT,
  );

  test(
    "Metadata is set, read, overwritten and removed, and removal of an absent key succeeds",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const get = async (key: string) => (await world.metadata(pool, image))[key];
      expect(await get("csi.storage.k8s.io/pvc/name")).toBeUndefined();
      await run((ceph) =>
        ceph.imageMetaSet(pool, image, {
          "csi.storage.k8s.io/pvc/name": "data ü 🗝️",
          ".rbd.csi.ceph.com/cluster": "",
          long: "x".repeat(8192),
        }),
      );
      expect(await get("csi.storage.k8s.io/pvc/name")).toBe("data ü 🗝️");
      expect(await get(".rbd.csi.ceph.com/cluster")).toBe("");
      expect((await get("long"))?.length).toBe(8192);
      await run((ceph) => ceph.imageMetaSet(pool, image, { long: undefined, absent: undefined, a: "1" }));
      expect([await get("long"), await get("a")]).toEqual([undefined, "1"]);
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: "2" }));
      expect(await get("a")).toBe("2");
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: undefined }));
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: undefined }));
      await run((ceph) => ceph.imageMetaSet(pool, image, {}));
      expect(await get("a")).toBeUndefined();
      expect(await get("csi.storage.k8s.io/pvc/name")).toBe("data ü 🗝️");
    },
    LIMIT,
  );

  test(
    "A status and a growth tell the metadata that is asked for, and none besides",
    async () => {
      const { run, pool, anImage } = at();
      const image = await anImage();
      await run((ceph) => ceph.imageMetaSet(pool, image, { a: "1", ".rbd.csi.ceph.com/b": "ü", c: "3" }));
      const keys = ["a", ".rbd.csi.ceph.com/b", "absent"];
      const expected = { a: "1", ".rbd.csi.ceph.com/b": "ü" };
      const told = ({ metadata }: { readonly metadata: ReadonlyMap<string, string> }) => Object.fromEntries(metadata);
      expect(told(await run((ceph) => ceph.imageStatus(pool, image, keys)))).toEqual(expected);
      expect(told(await run((ceph) => ceph.imageGrow(pool, image, 20n * MIB, keys)))).toEqual(expected);
      expect(told(await run((ceph) => ceph.imageGrow(pool, image, MIB)))).toEqual({});
    },
    LIMIT,
  );

  test(
    "Settings of the client are set and removed as other metadata, and whoever opens the image takes them",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const key = "conf_rbd_qos_write_iops_limit";
      await run((ceph) => ceph.imageMetaSet(pool, image, { [key]: "7", other: "1" }));
      expect(await world.metadata(pool, image)).toMatchObject({ [key]: "7", other: "1" });
      expect((await run((ceph) => ceph.imageStatus(pool, image))).watchers).toEqual([]);
      await run((ceph) => ceph.imageMetaSet(pool, image, { [key]: undefined }));
      expect((await world.metadata(pool, image))[key]).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "Whoever has the image open is told of its settings, also of one that was set before, and of no other metadata",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const key = "conf_rbd_qos_write_iops_limit";
      const { heard, close } = await world.listen(pool, image);
      const told = async (entries: Record<string, string | undefined>, often: number) => {
        const before = heard();
        await run((ceph) => ceph.imageMetaSet(pool, image, entries));
        // The client acknowledges before it counts.
        for (let n = 0; n < 50 && heard() === before; n++) await Bun.sleep(often > 0 ? 100 : 10);
        expect([entries, heard() - before]).toEqual([entries, often]);
      };
      try {
        await told({ [key]: "7", other: "1" }, 1);
        await told({ [key]: "7" }, 1);
        await told({ other: "2", [key.replace("write", "read")]: undefined }, 0);
        await told({ [key]: undefined }, 1);
        await told({ [key]: undefined }, 0);
      } finally {
        await close();
      }
    },
    LIMIT,
  );

  test(
    "Metadata that is to be compared is set only where it is what the caller expects",
    async () => {
      const { run, fails, pool, world, anImage } = at();
      const image = await anImage();
      const get = async () => await world.metadata(pool, image);
      await run((ceph) => ceph.imageMetaSet(pool, image, { key: "one", state: "new" }, { key: "" }));
      expect(await get()).toMatchObject({ key: "one", state: "new" });
      const again = (expected: string) => (ceph: ImageCalls) =>
        ceph.imageMetaSet(pool, image, { key: "two", state: "newer" }, { key: expected });
      expect(await fails(again(""))).toMatchObject({ _tag: "Raced" });
      expect(await fails(again("on"))).toMatchObject({ _tag: "Raced" });
      expect(await get()).toMatchObject({ key: "one", state: "new" });
      await run(again("one"));
      expect(await get()).toMatchObject({ key: "two", state: "newer" });
      const same = { key: "two", state: "newer" };
      expect(await fails((ceph) => ceph.imageMetaSet(pool, image, same, { key: "one" }))).toMatchObject({
        _tag: "Raced",
      });
      await run((ceph) => ceph.imageMetaSet(pool, image, same, { key: "two" }));
      expect(await get()).toMatchObject(same);
    },
    LIMIT,
  );

  test(
    "The metadata of an image is listed by the beginning of its keys, and a clone has none that begins with .rbd",
    async () => {
      const { run, pool, fresh, aSource } = at();
      const image = await aSource();
      const list = async (name: string, prefix: string) =>
        Object.fromEntries(await run((ceph) => ceph.imageMetaList(pool, name, prefix)));
      expect(await list(image, "")).toEqual({});
      await run((ceph) => ceph.imageMetaSet(pool, image, { ".rbd.a/1": "x", ".rbd.a/2": "é", ".rbd.b": "y", k: "z" }));
      expect(await list(image, ".rbd.a/")).toEqual({ ".rbd.a/1": "x", ".rbd.a/2": "é" });
      expect(await list(image, "nothing")).toEqual({});
      expect(await list(image, "")).toEqual({ ".rbd.a/1": "x", ".rbd.a/2": "é", ".rbd.b": "y", k: "z" });
      const clone = fresh("clone");
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, clone, {}));
      expect(await list(clone, "")).toEqual({ k: "z" });
    },
    LIMIT,
  );

  test(
    "Of several clients that set one key of metadata at once, each expecting none, one succeeds",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const claim = (n: number) => run((ceph) => ceph.imageMetaSet(pool, image, { key: `${n}` }, { key: "" }));
      const results = await Promise.allSettled([1, 2, 3, 4, 5, 6].map(claim));
      const won = results.flatMap(({ status }, at) => (status === "fulfilled" ? [`${at + 1}`] : []));
      expect(won).toHaveLength(1);
      expect((await world.metadata(pool, image))["key"]).toBe(won[0]);
    },
    LIMIT,
  );

  test(
    "The status lists other clients that have the image open, and not its own client",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const watchers = async () => (await run((ceph) => ceph.imageStatus(pool, image))).watchers;
      expect(await watchers()).toEqual([]);
      const close = await world.watch(pool, image);
      try {
        const open = await watchers();
        expect(open).toHaveLength(1);
        expect(open[0]).toMatch(/^\S+\/client\.\d+$/);
        // an image in use can still grow: that is what online expansion does
        expect((await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB))).sizeBytes).toBe(32n * MIB);
      } finally {
        await close();
      }
      expect(await watchers()).toEqual([]);
    },
    LIMIT,
  );

  test(
    "A lock that somebody has put on an image is told, and taken away by its name and its client alone",
    async () => {
      const { run, fails, pool, world, fresh } = at();
      for (const features of [1n, 5n]) {
        const image = fresh("locked");
        await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 16n * MIB, features }));
        const locks = async () => (await run((ceph) => ceph.imageStatus(pool, image))).locks;
        expect(await locks()).toEqual([]);
        await world.lock(pool, image, "kubelet_lock_magic_node-1");
        const [lock] = await locks();
        expect(lock).toMatchObject({ id: "kubelet_lock_magic_node-1" });
        expect([lock?.client, lock?.address]).toEqual([
          expect.stringMatching(/^client\.\d+$/),
          expect.stringMatching(/:0\/\d+$/),
        ]);
        if (lock === undefined) throw new Error("no lock");
        if (features === 5n) {
          const failure = await fails((ceph) => ceph.imageGrow(pool, image, 32n * MIB));
          expect(failure).toMatchObject({ _tag: "CephFailed" });
        } else expect((await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB))).sizeBytes).toBe(32n * MIB);
        await run((ceph) => ceph.imageUnlock(pool, image, { ...lock, client: "client.1" }));
        await run((ceph) => ceph.imageUnlock(pool, image, { ...lock, id: "another" }));
        expect(await locks()).toEqual([lock]);
        await run((ceph) => ceph.imageUnlock(pool, image, lock));
        await run((ceph) => ceph.imageUnlock(pool, image, lock));
        expect(await locks()).toEqual([]);
        expect((await run((ceph) => ceph.imageGrow(pool, image, 32n * MIB))).sizeBytes).toBe(32n * MIB);
      }
      const gone = fresh("gone");
      const failure = await fails((ceph) => ceph.imageUnlock(pool, gone, { id: "a", client: "client.1", address: "" }));
      expect(failure._tag).toBe("ImageNotFound");
    },
    LIMIT,
  );

  test(
    "The lock that a client takes by itself to write is not told",
    async () => {
      const { run, pool, world, anImage } = at();
      const image = await anImage();
      const { heard, close } = await world.listen(pool, image);
      try {
        await world.write(pool, image);
        expect([heard() >= 0, (await run((ceph) => ceph.imageStatus(pool, image))).locks]).toEqual([true, []]);
      } finally {
        await close();
      }
    },
    LIMIT,
  );
};
