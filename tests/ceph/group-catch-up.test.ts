/**
 * The two ways from a group's snapshot to an image of its own, with the bytes that are in it: a clone by the snapshot's
 * id where librbd can, and everywhere a clone of an older snapshot that is made to catch up.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { CephLive } from "../../lib/ceph/live.ts";
import { LIMIT, LONG_LIMIT, MIB, session } from "../contract/harness.ts";
import { liveWorld } from "../contract/live-world.ts";
import { hasRig, rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";

const KIB = 1024;
const SIZE = Number(16n * MIB);

describe.skipIf(!hasRig())("from a group's snapshot", () => {
  const at = session(() => liveWorld(rig(), CephLive({ cephConf: `${rig().dir}/absent.conf` })));
  let bytes: Bytes;
  beforeAll(() => void (bytes = bytesOf(rig())));
  afterAll(() => bytes?.close());

  /** Its snapshot's id, and what the image holds then. */
  const grouped = async (image: string) => {
    const { run, pool, fresh } = at();
    const group = fresh("group");
    await run((ceph) => ceph.groupCreate(pool, group));
    await run((ceph) => ceph.groupAdd(pool, group, { pool, image }));
    await run((ceph) => ceph.groupSnapshotCreate(pool, group, "point"));
    const members = await run((ceph) => ceph.groupSnapshotMembers(pool, group, "point"));
    expect(members).toMatchObject([{ pool: pool.pool, namespace: "", image }]);
    return { group, id: members?.[0]?.snapshotId ?? 0n };
  };

  test(
    "a clone catches up: writes, discards and growth up to the snapshot, nothing after it; twice is as once",
    async () => {
      const { run, pool, anImage, fresh } = at();
      const image = await anImage();
      const clone = fresh("clone");
      bytes.write(pool, image, 0, 4096 * KIB, 1);
      bytes.write(pool, image, 5 * 1024 * KIB, 3 * 1024 * KIB, 1);
      await run((ceph) => ceph.snapshotCreate(pool, image, clone));
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: clone }, pool, clone, { features: 33n }));
      bytes.write(pool, image, 100 * KIB, 64 * KIB, 2);
      bytes.discard(pool, image, 5 * 1024 * KIB, 1024 * KIB);
      bytes.discard(pool, image, 7 * 1024 * KIB + 4 * KIB, 8 * KIB);
      bytes.discard(pool, image, 0, 64 * KIB);
      bytes.write(pool, image, 3 * 4096 * KIB - 512, 1024, 2);
      await run((ceph) => ceph.imageGrow(pool, image, 24n * MIB));
      bytes.write(pool, image, SIZE + 8192, 4096, 2);
      const { group, id } = await grouped(image);
      const then = Buffer.from(bytes.read(pool, image, 0, SIZE + SIZE / 2));
      bytes.write(pool, image, 0, 256 * KIB, 3);
      bytes.write(pool, image, SIZE, 64 * KIB, 3);
      for (let times = 0; times < 2; times++) {
        await run((ceph) => ceph.imageCatchUp({ pool, image, snapshot: id }, clone, pool, clone));
        const now = Buffer.from(bytes.read(pool, clone, 0, SIZE + SIZE / 2));
        expect(now.equals(then)).toBe(true);
      }
      await run((ceph) => ceph.groupRemove(pool, group));
      await run((ceph) => ceph.snapshotRemove(pool, image, clone));
      expect(Buffer.from(bytes.read(pool, clone, 0, SIZE + SIZE / 2)).equals(then)).toBe(true);
      expect((await run((ceph) => ceph.snapshots(pool, image))).map(({ kind }) => kind)).toEqual(["trash"]);
    },
    LONG_LIMIT,
  );

  test(
    "what is missing is named",
    async () => {
      const { run, fails, pool, anImage, fresh } = at();
      const image = await anImage();
      const clone = fresh("clone");
      await run((ceph) => ceph.snapshotCreate(pool, image, "then"));
      await run((ceph) => ceph.imageClone({ pool, image, snapshot: "then" }, pool, clone, {}));
      const [then] = await run((ceph) => ceph.snapshots(pool, image));
      const snapshot = then?.id ?? 0n;
      const missing = [
        await fails((ceph) => ceph.imageCatchUp({ pool, image, snapshot }, "never", pool, clone)),
        await fails((ceph) => ceph.imageCatchUp({ pool, image, snapshot: 4_242n }, "then", pool, clone)),
        await fails((ceph) => ceph.imageCatchUp({ pool, image, snapshot }, "then", pool, fresh("clone"))),
      ];
      expect(missing.map(({ _tag }) => _tag)).toEqual(["SnapshotNotFound", "SnapshotNotFound", "ImageNotFound"]);
    },
    LIMIT,
  );

  test(
    "a clone by id, where it can be made, outlives the group and its snapshot; the group leaves nothing on the image",
    async () => {
      const { run, fails, pool, anImage, fresh, world } = at();
      const image = await anImage();
      const clone = fresh("clone");
      bytes.write(pool, image, 0, 64 * KIB, 1);
      const { group, id } = await grouped(image);
      bytes.write(pool, image, 0, 64 * KIB, 2);
      const source = { pool, image, snapshot: id };
      const can = await run((ceph) => ceph.groupClones(world.access));
      expect(can).toBe(rig().release >= 19);
      if (!can) {
        expect((await fails((ceph) => ceph.imageClone(source, pool, clone, { features: 33n })))._tag).toBe(
          "InvalidCall",
        );
        await run((ceph) => ceph.groupRemove(pool, group));
        expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
        return;
      }
      await run((ceph) => ceph.imageClone(source, pool, clone, { features: 33n }));
      expect(await run((ceph) => ceph.imageStatus(pool, clone))).toMatchObject({ parent: { image, inTrash: false } });
      await run((ceph) => ceph.groupRemove(pool, group));
      expect((await run((ceph) => ceph.snapshots(pool, image))).map(({ kind }) => kind)).toEqual(["trash"]);
      expect(bytes.read(pool, clone, 0, 1)[0]).toBe(1);
      await run((ceph) => ceph.imageFlatten(pool, clone));
      expect(bytes.read(pool, clone, 0, 1)[0]).toBe(1);
      expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
    },
    LONG_LIMIT,
  );
});
