/** First snapshots of plain images: what the driver writes without librbd is what librbd writes. */
import { expect, test } from "bun:test";
import { ETIMEDOUT } from "../../lib/ceph/cell/ffi.ts";
import { provenFirst, take, takeFirst } from "../../lib/ceph/cell/first-snapshot.ts";
import { connect, objectRemove, shutdown, withPool } from "../../lib/ceph/cell/rados.ts";
import { createByLibrbd } from "../../lib/ceph/cell/snapshots.ts";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { LONG_LIMIT, MIB } from "../contract/harness.ts";
import { frozen, tool } from "./hands.ts";
import { headers } from "./header-look.ts";
import { cellPool, primitives } from "./primitives.ts";

primitives("first snapshots of plain images", (world) => {
  const { session: at, rig } = world;
  const inPool = cellPool(world);

  const { idIn, headerOf, lookOf: lookOfHeader } = headers(inPool);
  const taken = (image: string, snapshot: string) => inPool((where, io) => takeFirst(where, io, image, snapshot));
  const namesOf = async (image: string) =>
    (await at().run((ceph) => ceph.snapshots(at().pool, image))).map(({ kind, name }) => `${kind} ${name}`);

  const anImage = async (spec: Partial<ImageSpec> = { features: 33n }) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, ...spec }));
    return image;
  };

  /** A clone of an image's snapshot `base`, which is made where it is missing. */
  const aClone = async (of: string, features: bigint) => {
    const { run, pool, fresh } = at();
    const image = fresh("clone");
    if (!(await namesOf(of)).includes("user base")) await run((ceph) => ceph.snapshotCreate(pool, of, "base"));
    await run((ceph) => ceph.imageClone({ pool, image: of, snapshot: "base" }, pool, image, { features }));
    return image;
  };

  const lookOf = async (image: string) => {
    const [snapshot] = await at().run((ceph) => ceph.snapshots(at().pool, image));
    return lookOfHeader(image, snapshot);
  };

  test(
    "The header is the same, byte for byte, as after librbd's snapshot, which can be cloned and removed",
    async () => {
      const { run, pool } = at();
      const parent = await anImage({});
      const between = await aClone(parent, 33n);
      const images = [
        ...[1n, 33n].map((features) => () => anImage({ features })),
        ...[1n, 33n].map((features) => () => aClone(parent, features)),
        () => aClone(between, 33n),
        async () => {
          const image = await aClone(parent, 33n);
          await run((ceph) => ceph.imageFlatten(pool, image));
          return image;
        },
      ];
      for (const make of images) {
        const looks: unknown[] = [];
        for (const by of ["ours", "librbd"] as const) {
          const image = await make();
          if (by === "ours") expect(taken(image, "s")).toBe(true);
          else inPool((_, io) => createByLibrbd(io, image, "s", "unasked"));
          expect(await namesOf(image)).toEqual(["user s"]);
          looks.push(await lookOf(image));
          const clone = at().fresh("clone");
          await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, clone, { features: 33n }));
          expect((await run((ceph) => ceph.imageStatus(pool, clone))).parent).toMatchObject({ image, snapshot: "s" });
          await run((ceph) => ceph.imageFlatten(pool, clone));
          await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
          expect(await namesOf(image)).toEqual([]);
        }
        expect(looks[0]).toEqual(looks[1]);
      }
    },
    LONG_LIMIT,
  );

  test(
    "Clients that have the image open are told",
    async () => {
      const { pool, world: live } = at();
      const image = await anImage();
      const listening = await live.listen(pool, image);
      expect(taken(image, "s")).toBe(true);
      // the client acknowledges before it counts
      for (let n = 0; n < 50 && listening.heard() < 1; n++) await Bun.sleep(100);
      expect(listening.heard()).toBe(1);
      await listening.close();
    },
    LONG_LIMIT,
  );

  test(
    "What librbd has to decide is left to librbd, and nothing is done",
    async () => {
      const { run, pool, world: live } = at();
      expect(taken("absent", "s")).toBe(false);
      const older = await anImage();
      await run((ceph) => ceph.snapshotCreate(pool, older, "older"));
      const second = await anImage();
      await run((ceph) => ceph.snapshotCreate(pool, second, "gone"));
      await run((ceph) => ceph.snapshotRemove(pool, second, "gone"));
      const lost = await aClone(await anImage({}), 33n);
      const { parent } = await run((ceph) => ceph.imageStatus(pool, lost));
      inPool((_, io) => objectRemove(io, `rbd_header.${parent?.imageId}`));
      const odd = [
        await anImage({ features: 5n }),
        await anImage({ features: 61n }),
        await anImage({ features: 77n }),
        await anImage({ features: 33n, dataPool: live.dataPool }),
        await anImage({ features: 33n, stripeUnit: 65_536n, stripeCount: 4n }),
      ];
      for (const image of [older, second, lost, ...odd]) {
        const before = headerOf(image);
        expect(taken(image, "s")).toBe(false);
        expect(headerOf(image)).toEqual(before);
      }
      const plain = await anImage();
      for (const name of ["", "a@b", "a/b", "a\0b"]) expect(taken(plain, name)).toBe(false);
      expect(await namesOf(plain)).toEqual([]);
      // two calls for one snapshot
      expect([taken(plain, "s"), taken(plain, "s")]).toEqual([true, false]);
      expect((await at().fails((ceph) => ceph.snapshotCreate(pool, plain, "s", "unasked")))._tag).toBe("Exists");
      expect(await namesOf(plain)).toEqual(["user s"]);
    },
    LONG_LIMIT,
  );

  interface Dump {
    readonly pools: readonly { readonly pool: number; readonly pool_name: string; readonly snap_seq: number }[];
    readonly removed_snaps_queue: readonly {
      readonly pool: number;
      readonly snaps: readonly { readonly begin: number; readonly length: number }[];
    }[];
  }
  /** The newest id that the monitors gave out for the pool, and the ids that are on their way back. */
  const idsOfPool = async () => {
    const { pools, removed_snaps_queue: queue } = JSON.parse(
      await tool.ceph(rig, "osd", "dump", "--format=json"),
    ) as Dump;
    const { pool = -1, snap_seq: newest = -1 } = pools.find(({ pool_name: name }) => name === at().pool.pool) ?? {};
    return { newest, removed: queue.filter((each) => each.pool === pool).flatMap(({ snaps }) => snaps) };
  };

  const spec = (image: string) => `${at().pool.pool}/${image}`;
  const changes: ReadonlyArray<readonly [what: string, change: (image: string) => Promise<unknown>]> = [
    ["gets a feature", (image) => tool.rbd(rig, "feature", "enable", spec(image), "exclusive-lock")],
    ["gets another snapshot", (image) => at().run((ceph) => ceph.snapshotCreate(at().pool, image, "t"))],
    ["loses its parent", (image) => at().run((ceph) => ceph.imageFlatten(at().pool, image))],
    ["goes", async (image) => inPool((_, io) => objectRemove(io, `rbd_header.${idIn(image)}`))],
  ];

  test.each(changes)(
    "Of an image that %s after the proof librbd takes it, nothing is done, and the id goes back to the monitors",
    async (_, change) => {
      const image = await aClone(await anImage({}), 33n);
      const proven = inPool((where, io) => provenFirst(where, io, image));
      if (proven === undefined) throw new Error("not proven");
      await change(image);
      const before = headerOf(image);
      const { newest } = await idsOfPool();
      expect(inPool((__, io) => take(io, proven, "s"))).toBe(false);
      expect(headerOf(image)).toEqual(before);
      const { removed } = await idsOfPool();
      expect(removed.some(({ begin, length }) => begin <= newest + 1 && newest + 1 < begin + length)).toBe(true);
    },
    LONG_LIMIT,
  );

  test(
    "A write that the OSD does not answer may still come: the call fails as one midway, and the id stays given",
    async () => {
      const image = await anImage();
      const { pool, namespace } = at().pool;
      const { monitors, key, user, conf } = rig;
      const settings = { mon_host: monitors.join(","), key, rados_osd_op_timeout: "2" };
      const cluster = connect({ user, confFile: conf, settings: Object.entries(settings) });
      try {
        const where = { cluster, pool, namespace };
        const proven = withPool(where, (io) => provenFirst(where, io, image));
        if (proven === undefined) throw new Error("not proven");
        const { newest } = await idsOfPool();
        await frozen(rig, "osd.0", () => {
          const failure = thrown(() => withPool(where, (io) => take(io, proven, "s")));
          expect(failure).toMatchObject({ op: "rbd_snap_create", errno: ETIMEDOUT, midway: true });
          return Promise.resolve();
        });
        const { removed } = await idsOfPool();
        expect(removed.filter(({ begin, length }) => begin <= newest + 1 && newest + 1 < begin + length)).toEqual([]);
      } finally {
        shutdown(cluster);
      }
    },
    LONG_LIMIT,
  );
});

const thrown = (act: () => unknown): unknown => {
  try {
    return act();
  } catch (error) {
    return error;
  }
};
