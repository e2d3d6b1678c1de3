/** Clones that the driver makes without librbd: the same bytes as librbd's, on the clone and on its parent. */
import { expect, test } from "bun:test";
import { Errno } from "../../lib/cells/cell.ts";
import { linked } from "../../lib/ceph/cell/clone-links.ts";
import { ECANCELED, EINVAL, ENOENT } from "../../lib/ceph/cell/ffi.ts";
import { clonePlain } from "../../lib/ceph/cell/plain-clone.ts";
import { withLibrbd } from "../../lib/ceph/cell/clones.ts";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { changeAll } from "../../lib/ceph/cell/changes.ts";
import { exists, list } from "../../lib/ceph/cell/omaps.ts";
import { execute } from "../../lib/ceph/cell/rados.ts";
import { id as idOf } from "../../lib/ceph/cell/rbd.ts";
import type { CloneSpec, ImageSpec } from "../../lib/ceph/rbd.ts";
import { GIB, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { imageLook } from "./image-look.ts";
import { cellPool, primitives } from "./primitives.ts";

/** Of a snapshot and of the copies that the driver takes. */
const HOLDER = 33n;

primitives("clones without librbd", (world) => {
  const { session: at, rig } = world;
  const inPool = cellPool(world);
  const { lookOf } = imageLook(inPool);

  const aSource = async (spec: Partial<ImageSpec> = {}, metadata: Readonly<Record<string, string>> = {}) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, ...spec }));
    await run((ceph) => ceph.imageMetaSet(pool, image, metadata));
    return image;
  };
  const snapshot = (image: string, name: string) => at().run((ceph) => ceph.snapshotCreate(at().pool, image, name));
  const grow = (image: string, sizeBytes: bigint) => at().run((ceph) => ceph.imageGrow(at().pool, image, sizeBytes));
  const existingId = (image: string): string => {
    const id = inPool((_, io) => idOf(io, image));
    if (id === undefined) throw new Error(`no image ${image}`);
    return id;
  };
  const plainly = (image: string, name: string, clone: string, spec: CloneSpec = { features: HOLDER }, id?: string) =>
    inPool((where, io) => clonePlain({ where, io, image, snapshot: name }, { where, io, image: clone, spec }, id));
  const byLibrbd = (image: string, name: string, clone: string, spec: CloneSpec = { features: HOLDER }) =>
    inPool((where, io) => {
      const { pool, namespace } = where;
      withLibrbd(io, { pool, namespace, image, snapshot: name }, { where, io, image: clone, spec });
    });
  /** What the header of a parent says of its clones and snapshots, without times and ids. */
  const parentLook = (image: string, clones: readonly string[]) => {
    const id = existingId(image);
    const header = inPool((_, io) => list(io, `rbd_header.${id}`, { prefix: "", after: "", limit: 1000 }));
    const withoutIds = (text: string) => clones.reduce((now, clone, i) => now.replaceAll(clone, `CLONE ${i}`), text);
    return [...(header ?? [])]
      .filter(([key]) => !key.startsWith("snapshot_") && !key.endsWith("_timestamp"))
      .map(([key, value]) => [
        key,
        key.startsWith("snap_children_") ? withoutIds(Buffer.from(value).toString("latin1")) : "",
      ]);
  };

  const sources: readonly Partial<ImageSpec>[] = [
    {},
    { sizeBytes: 0n },
    { sizeBytes: 4n * MIB + 1n },
    { sizeBytes: GIB, objectSize: 8n * MIB },
    { features: 1n },
    { features: 5n },
    { features: 61n },
  ];
  /** One that has parents in two pools, and one that was flattened since and has not lost the parent of its snapshots. */
  const clones = async () => {
    const { run, pool, world: live, fresh } = at();
    const [first, middle, last, flattened] = [await aSource({}, metadata), fresh("c"), fresh("c"), fresh("c")];
    const other = { ...pool, pool: live.dataPool };
    await snapshot(first, "s");
    await run((ceph) => ceph.imageClone({ pool, image: first, snapshot: "s" }, other, middle, { features: 1n }));
    await run((ceph) => ceph.snapshotCreate(other, middle, "s"));
    const source = { pool: other, image: middle, snapshot: "s" };
    for (const image of [last, flattened]) await run((ceph) => ceph.imageClone(source, pool, image, { features: 5n }));
    await snapshot(flattened, "older");
    await run((ceph) => ceph.imageFlatten(pool, flattened));
    return [last, flattened];
  };
  const specs: readonly CloneSpec[] = [{ features: HOLDER }, {}, { features: 61n }, { features: 1n }];
  const metadata = { a: "1", "csi.storage.k8s.io/pv/name": "ü", ".rbdx": "never", conf_rbd_cache: "false" };

  test(
    "A clone is the same, byte for byte, as one that librbd makes",
    async () => {
      const images = await clones();
      for (const [i, source] of sources.entries()) images.push(await aSource(source, i % 2 === 0 ? metadata : {}));
      for (const image of images) {
        await snapshot(image, "old");
        const { sizeBytes } = await at().run((ceph) => ceph.imageStatus(at().pool, image));
        await grow(image, sizeBytes + 4n * MIB);
        await snapshot(image, "s");
        await grow(image, 2n * GIB);
        for (const spec of specs) {
          const [ours, theirs] = [at().fresh("clone"), at().fresh("clone")];
          byLibrbd(image, "s", theirs, spec);
          const theirId = existingId(theirs);
          // librbd's ids differ in length, and the header has the length of its id
          const id = Buffer.from(crypto.randomUUID()).toString("hex").slice(-theirId.length);
          expect(plainly(image, "s", ours, spec, id)).toBe(true);
          const look = lookOf(ours, existingId(ours));
          expect(existingId(ours)).toBe(id);
          expect(look).toEqual(lookOf(theirs, theirId));
          expect(look.header.map(([key]) => key)).toContain("parent");
          const status = (clone: string) => at().run((ceph) => ceph.imageStatus(at().pool, clone));
          expect((await status(ours)).parent).toEqual((await status(theirs)).parent);
        }
      }
    },
    LONG_LIMIT,
  );

  test(
    "The parent knows the clone as it knows one of librbd's",
    async () => {
      const looks = [];
      for (const clone of [byLibrbd, plainly]) {
        const image = await aSource();
        await snapshot(image, "s");
        const name = at().fresh("clone");
        clone(image, "s", name);
        const { run, pool } = at();
        expect(await run((ceph) => ceph.snapshotChildren(pool, image, "s"))).toEqual([existingId(name)]);
        looks.push(
          parentLook(image, [existingId(name)]).map(([key = "", value]) => [
            key.replace(/[0-9a-f]{16}$/, ""),
            value?.length,
          ]),
        );
        await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
        const [trashed] = await run((ceph) => ceph.snapshots(pool, image));
        expect(trashed).toMatchObject({ kind: "trash", originalName: "s" });
        await run((ceph) => ceph.imageFlatten(pool, name));
        expect(await run((ceph) => ceph.snapshots(pool, image))).toEqual([]);
      }
      expect(looks[1]?.map(([key]) => key)).toEqual(looks[0]?.map(([key]) => key));
    },
    LONG_LIMIT,
  );

  test(
    "What librbd has to decide is left to librbd, and nothing is done",
    async () => {
      const { run, fails, pool, world: live, inNamespace, fresh } = at();
      const image = await aSource();
      await snapshot(image, "older");
      await snapshot(image, "s");
      const left = fresh("clone");
      expect(plainly("absent", "s", left)).toBe(false);
      expect(plainly(image, "absent", left)).toBe(false);
      expect(plainly(image, "older", left)).toBe(false);
      for (const spec of [
        { features: HOLDER, dataPool: live.dataPool },
        { features: HOLDER, objectSize: 8n * MIB },
        { features: HOLDER, stripeUnit: 65_536n, stripeCount: 4n },
        { features: 77n },
        { features: 32n },
      ]) {
        expect(plainly(image, "s", left, spec)).toBe(false);
      }
      const clone = fresh("clone");
      byLibrbd(image, "s", clone);
      const odd = [
        await aSource({ features: 0n }),
        await aSource({ features: 77n }),
        await aSource({ dataPool: live.dataPool }),
        await aSource({ stripeUnit: 65_536n, stripeCount: 4n }),
        await aSource(),
      ];
      for (const each of odd.slice(0, -1)) {
        await snapshot(each, "s");
        expect(plainly(each, "s", left)).toBe(false);
      }
      expect(plainly(odd.at(-1) ?? "", "s", left)).toBe(false);
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      expect(plainly(image, "s", left)).toBe(false);
      const lost = fresh("clone");
      await snapshot(image, "s");
      await live.cutCloneShort("child", pool, { image, snapshot: "s" }, lost);
      await snapshot(lost, "own");
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      expect(plainly(lost, "own", left)).toBe(false);
      await snapshot(image, "s");
      await tool.rbd(rig, "config", "pool", "set", pool.pool, "rbd_default_order", "20");
      expect(plainly(image, "s", left)).toBe(false);
      await tool.rbd(rig, "config", "pool", "remove", pool.pool, "rbd_default_order");
      expect(await run((ceph) => ceph.imageId(pool, left))).toBeUndefined();
      expect((await fails((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, clone, {})))._tag).toBe(
        "Exists",
      );
      const inside = { pool: inNamespace, image: await aSource(), snapshot: "s" };
      await snapshot(inside.image, "s");
      await run((ceph) => ceph.imageClone({ ...inside, pool }, inNamespace, left, {}));
      expect(await run((ceph) => ceph.imageId(inNamespace, left))).toBeDefined();
    },
    LONG_LIMIT,
  );

  const GONE = 1n << 40n;
  /** Links the image with this id to a snapshot of the source; `named` is the name by which the clone is made. */
  const failureOfLink = (source: string, snapshotId: bigint, named: string, id: string) => {
    try {
      const parent = { id: existingId(source), snapshotId, sizeBytes: 64n * MIB };
      inPool((where, io) => linked({ where, io, ...parent }, { where, io, image: named }, () => id));
    } catch (error) {
      if (error instanceof Errno) return { op: error.op, errno: error.errno, midway: error.midway };
      throw error;
    }
    return undefined;
  };

  test(
    "A clone that fails leaves the image to which its name leads meanwhile",
    async () => {
      const { run, pool } = at();
      const [source, ready, ours] = [await aSource(), await aSource(), await aSource()];
      await snapshot(ready, "own");
      const [readyId, ourId] = [existingId(ready), existingId(ours)];
      await run((ceph) => ceph.trashMove(pool, ours));
      expect(failureOfLink(source, GONE, ready, ourId)).toEqual({ op: "rbd_snap_set", errno: ENOENT, midway: false });
      expect(existingId(ready)).toBe(readyId);
      expect((await run((ceph) => ceph.snapshots(pool, ready))).map(({ name }) => name)).toEqual(["own"]);
      expect(await run((ceph) => ceph.trashGet(pool, ourId))).toBeUndefined();
      expect(await run((ceph) => ceph.trashGet(pool, readyId))).toBeUndefined();
    },
    LONG_LIMIT,
  );

  /** No snapshot: the object class refuses it in a link. */
  const HEAD = (1n << 64n) - 2n;
  test.each([
    ["the snapshot goes meanwhile", GONE, { op: "rbd_snap_set", errno: ENOENT, midway: false }],
    ["an OSD refuses the link", HEAD, { op: "rbd_clone", errno: EINVAL, midway: false }],
  ] as const)(
    "A clone leaves nothing, and fails as if nothing was done, where %s",
    async (_, snapshotId, failure) => {
      const [source, clone] = [await aSource(), await aSource()];
      const id = existingId(clone);
      expect(failureOfLink(source, snapshotId, clone, id)).toEqual(failure);
      const left = inPool((__, io) => ({
        name: idOf(io, clone),
        header: exists(io, `rbd_header.${id}`),
        byName: execute(io, "rbd_directory", "dir_get_id", encode({ text: clone })),
        byId: execute(io, "rbd_directory", "dir_get_name", encode({ text: id })),
      }));
      expect(left).toEqual({ name: undefined, header: false, byName: undefined, byId: undefined });
      expect(await at().run((ceph) => ceph.trashGet(at().pool, id))).toBeUndefined();
    },
    LONG_LIMIT,
  );

  test(
    "A clone that another driver clears while it is made is raced, and its source can be removed",
    async () => {
      const { run, pool } = at();
      const [source, clone] = [await aSource(), await aSource()];
      await snapshot(source, "s");
      const [made] = await run((ceph) => ceph.snapshots(pool, source));
      const id = existingId(clone);
      const raced = { op: "rados_write_op_operate", errno: ECANCELED, midway: false };
      await run((ceph) => ceph.trashMove(pool, clone));
      expect(failureOfLink(source, made?.id ?? 0n, clone, id)).toEqual(raced);
      expect(await run((ceph) => ceph.snapshotChildren(pool, source, "s"))).toEqual([]);
      await run((ceph) => ceph.trashRemove(pool, id));
      expect(failureOfLink(source, made?.id ?? 0n, clone, id)).toEqual(raced);
      expect(await run((ceph) => ceph.snapshotChildren(pool, source, "s"))).toEqual([]);
      await run((ceph) => ceph.snapshotRemove(pool, source, "s"));
      expect(await run((ceph) => ceph.snapshots(pool, source))).toEqual([]);
    },
    LONG_LIMIT,
  );

  test(
    "A source whose parent's pool is gone is left to librbd",
    async () => {
      const image = await aSource();
      await snapshot(image, "s");
      const parent = { version: 1, of: [{ i64: 1n << 30n }, { text: "" }, { text: "gone" }, { u64: 1n }] };
      const input = encode(parent, { u64: 64n * MIB }, { u8: 0 });
      const object = `rbd_header.${existingId(image)}`;
      const calls = [{ method: "parent_attach", input }];
      expect(inPool((_, io) => changeAll(io, [{ object, state: "require", calls }]))).toEqual([0]);
      expect(plainly(image, "s", at().fresh("clone"))).toBe(false);
    },
    LONG_LIMIT,
  );
});
