/** Pool names and ids: what is there, what is not, what came later. */
import { expect, test } from "bun:test";
import { LIMIT, type Session } from "./harness.ts";

export const poolContract = (at: () => Session): void => {
  test(
    "A pool's id leads back to its name",
    async () => {
      const { run, world } = at();
      const id = await run((ceph) => ceph.poolId(world.access, world.pool));
      expect(id).toBeGreaterThan(0n);
      expect(await run((ceph) => ceph.poolName(world.access, id))).toBe(world.pool);
      expect(await run((ceph) => ceph.poolId(world.access, world.dataPool))).not.toBe(id);
    },
    LIMIT,
  );

  test(
    "A pool made after the connection is found",
    async () => {
      const { run, world } = at();
      const name = `${world.pool}-late`;
      const id = await world.addPool(name);
      expect(await run((ceph) => ceph.poolId(world.access, name))).toBe(id);
      expect(await run((ceph) => ceph.poolName(world.access, id))).toBe(name);
      const pool = { access: world.access, pool: name, namespace: "" };
      expect(await run((ceph) => ceph.omapGet(pool, "absent", ["k"]))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "An erasure-coded pool is refused for images, and for their data until it allows overwrites, without a word to an OSD",
    async () => {
      const { run, fails, world, nowhere } = at();
      const { access, pool, dataPool } = world;
      const coded = `${pool}-coded`;
      await world.addCodedPool(coded);
      const id = await run((ceph) => ceph.poolId(access, pool));
      const use = (data: string | undefined) => ({ dataPool: data });
      expect(await run((ceph) => ceph.poolId(access, pool, use(undefined)))).toBe(id);
      expect(await run((ceph) => ceph.poolId(access, pool, use(dataPool)))).toBe(id);
      const asPool = await fails((ceph) => ceph.poolId(access, coded, use(undefined)));
      expect(asPool.message).toStartWith(`pool ${coded} is erasure-coded, and`);
      const asData = await fails((ceph) => ceph.poolId(access, pool, use(coded)));
      expect(asData.message).toContain(`"ceph osd pool set ${coded} allow_ec_overwrites true"`);
      expect([asPool._tag, asData._tag]).toEqual(["PoolUnfit", "PoolUnfit"]);
      await world.allowOverwrites(coded);
      expect(await run((ceph) => ceph.poolId(access, pool, use(coded)))).toBe(id);
      expect((await fails((ceph) => ceph.poolId(access, coded, use(coded))))._tag).toBe("PoolUnfit");
      const absent = await fails((ceph) => ceph.poolId(access, pool, use(nowhere.pool)));
      expect(absent._tag).toBe("PoolNotFound");
      expect(absent.message).toContain(`data pool ${nowhere.pool} does not exist`);
      expect(absent.message).toContain('correct "dataPool"');
      expect((await fails((ceph) => ceph.poolId(access, nowhere.pool, use(undefined))))._tag).toBe("PoolNotFound");
    },
    LIMIT,
  );

  test(
    "A pool that does not exist is PoolNotFound, whatever the call",
    async () => {
      const { fails, world, nowhere } = at();
      const failures = await Promise.all([
        fails((ceph) => ceph.poolId(world.access, nowhere.pool)),
        fails((ceph) => ceph.poolName(world.access, 987_654n)),
        fails((ceph) => ceph.omapGet(nowhere, "object", ["k"])),
        fails((ceph) => ceph.omapWrite(nowhere, "object", { object: "ensure" })),
        fails((ceph) => ceph.objectRemove(nowhere, "object")),
        fails((ceph) => ceph.imageCreate(nowhere, "image", { sizeBytes: 4096n })),
        fails((ceph) => ceph.imageId(nowhere, "image")),
        fails((ceph) => ceph.imageStatus(nowhere, "image")),
        fails((ceph) => ceph.imageGrow(nowhere, "image", 4096n)),
        fails((ceph) => ceph.imageMend(nowhere, "image")),
        fails((ceph) => ceph.imageHasData(nowhere, "image", "any")),
        fails((ceph) => ceph.imageMetaSet(nowhere, "image", { k: "v" })),
        fails((ceph) => ceph.trashMove(nowhere, "image")),
        fails((ceph) => ceph.trashGet(nowhere, "abc")),
        fails((ceph) => ceph.trashList(nowhere)),
        fails((ceph) => ceph.trashRemove(nowhere, "abc")),
        fails((ceph) => ceph.managerTrashRemove(nowhere, "abc")),
        fails((ceph) => ceph.snapshotCreate(nowhere, "image", "s")),
        fails((ceph) => ceph.snapshotRemove(nowhere, "image", "s")),
        fails((ceph) => ceph.snapshots(nowhere, "image")),
        fails((ceph) => ceph.cloneDepth(nowhere, "image")),
        fails((ceph) => ceph.imageFlatten(nowhere, "image")),
        fails((ceph) => ceph.managerFlatten(nowhere, "image")),
        fails((ceph) => ceph.diff({ pool: nowhere, image: "image", snapshot: "s" }, undefined, 0n, 1)),
        fails((ceph) => ceph.poolSpace(world.access, nowhere.pool)),
        fails((ceph) => ceph.omapList(nowhere, "object", { prefix: "", after: "", limit: 1 })),
        fails((ceph) => ceph.omapFollow(nowhere, "object", "k", { prefix: "", tail: 1, keys: [] })),
        fails((ceph) => ceph.omapGetMany(nowhere, [{ object: "object", keys: ["k"] }])),
        fails((ceph) => ceph.imageBriefs(nowhere, ["image"], [])),
        fails((ceph) => ceph.imageLost(nowhere, "image")),
        fails((ceph) => ceph.groupCreate(nowhere, "group")),
        fails((ceph) => ceph.groupExists(nowhere, "group")),
        fails((ceph) => ceph.groupRemove(nowhere, "group")),
        fails((ceph) => ceph.groupAdd(nowhere, "group", { pool: nowhere, image: "image" })),
        fails((ceph) => ceph.groupSnapshotCreate(nowhere, "group", "s")),
        fails((ceph) => ceph.groupSnapshotMembers(nowhere, "group", "s")),
      ]);
      expect(failures.map((error) => error._tag)).toEqual(failures.map(() => "PoolNotFound"));
      expect(failures[0]?.message).toContain(nowhere.pool);
    },
    LIMIT,
  );
};
