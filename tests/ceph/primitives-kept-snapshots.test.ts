/** Snapshots that are removed and stay for their clones: what the driver writes without librbd is what librbd writes. */
import { expect, test } from "bun:test";
import { changeAll } from "../../lib/ceph/cell/changes.ts";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { ECANCELED } from "../../lib/ceph/cell/ffi.ts";
import { list } from "../../lib/ceph/cell/omaps.ts";
import { objectRemove } from "../../lib/ceph/cell/rados.ts";
import { id as idOf } from "../../lib/ceph/cell/rbd.ts";
import { keepForClones } from "../../lib/ceph/cell/snapshot-trash.ts";
import { removeByLibrbd } from "../../lib/ceph/cell/snapshots.ts";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { LONG_LIMIT, MIB } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { cellPool, primitives } from "./primitives.ts";

primitives("snapshots that stay for clones", (world) => {
  const { session: at, rig } = world;
  const inPool = cellPool(world);

  const idIn = (image: string): string => inPool((_, io) => idOf(io, image)) ?? "";
  const headerOf = (image: string) =>
    inPool((_, io) => list(io, `rbd_header.${idIn(image)}`, { prefix: "", after: "", limit: 1000 })) ?? new Map();
  const kept = (image: string, snapshot: string) => inPool((where, io) => keepForClones(where, io, image, snapshot));
  const namesOf = async (image: string) =>
    (await at().run((ceph) => ceph.snapshots(at().pool, image))).map(({ kind, name, originalName }) =>
      kind === "trash" ? `${originalName} in the trash` : name,
    );

  /** An image with a snapshot `s`, and clones of it. */
  const aSource = async (spec: Partial<ImageSpec> = {}, clones = 1) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, ...spec }));
    await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
    const names = Array.from({ length: clones }, () => fresh("clone"));
    for (const name of names) await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, name, {}));
    return { image, clones: names };
  };

  /** Bytes before the first field of a structure. */
  const HEAD = 6;
  const RANDOM_NAME = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;
  /** The header of an image, without what differs from image to image: ids, times, random names. */
  const lookOf = async (image: string, clones: readonly string[]) => {
    const [snapshot] = await at().run((ceph) => ceph.snapshots(at().pool, image));
    const { id = 0n, createdAt = 0 } = snapshot ?? {};
    const ids = clones.map((clone) => Buffer.from(idIn(clone)).toString("latin1"));
    const seconds = Buffer.from(encode({ u32: Math.floor(createdAt / 1000) })).toString("latin1");
    const masked = (key: string, bytes: Uint8Array): string => {
      const value = bytes.slice();
      // the snapshot's id: all of one key, and the first field of another
      if (key === "snap_seq") value.fill(0);
      if (key.startsWith("snapshot_")) value.fill(0, HEAD, HEAD + 8);
      const text = Buffer.from(value).toString("latin1").replace(RANDOM_NAME, "UUID");
      // ids differ in length
      if (key.startsWith("snap_children_")) return `${ids.filter((id) => text.includes(id)).length} clones`;
      const known = ids.reduce((now, each) => now.replaceAll(each, "CLONE"), text);
      const time = known.indexOf(seconds);
      return time < 0 ? known : `${known.slice(0, time)}TIME${known.slice(time + 8)}`;
    };
    const hex = id.toString(16).padStart(16, "0");
    return [...headerOf(image)]
      .filter(([key]) => !key.endsWith("_timestamp") && key !== "object_prefix")
      .map(([key, value]) => [key.replace(hex, "ID"), masked(key, value)]);
  };

  test(
    "The header is the same, byte for byte, as after librbd's removal, and the last clone takes the snapshot along",
    async () => {
      const { run, pool, world: live } = at();
      const { dataPool } = live;
      const sources = [{}, { features: 1n }, { features: 61n }, { dataPool }, { stripeUnit: 65_536n, stripeCount: 4n }];
      for (const spec of sources) {
        const looks: unknown[] = [];
        for (const remove of ["ours", "librbd"] as const) {
          const { image, clones } = await aSource(spec, 2);
          if (remove === "ours") expect(kept(image, "s")).toBe(true);
          else inPool((_, io) => removeByLibrbd(io, image, "s"));
          expect(await namesOf(image)).toEqual(["s in the trash"]);
          looks.push(await lookOf(image, clones));
          for (const clone of clones) {
            expect(await namesOf(image)).toEqual(["s in the trash"]);
            await run((ceph) => ceph.imageFlatten(pool, clone));
          }
          expect(await namesOf(image)).toEqual([]);
        }
        expect(looks[0]).toEqual(looks[1]);
      }
    },
    LONG_LIMIT,
  );

  test(
    "Clients that have the image open are told, and keep its lock",
    async () => {
      const { pool, world: live } = at();
      const { image } = await aSource();
      const lock = async () => (await tool.rbd(rig, "lock", "ls", `${pool.pool}/${image}`)).trim();
      await live.lock(pool, image, "theirs");
      const [before, listening] = [await lock(), await live.listen(pool, image)];
      expect(before).toContain("theirs");
      expect(kept(image, "s")).toBe(true);
      // the client acknowledges before it counts
      for (let n = 0; n < 50 && listening.heard() === 0; n++) await Bun.sleep(100);
      expect(listening.heard()).toBe(1);
      await listening.close();
      expect(await lock()).toBe(before);
    },
    LONG_LIMIT,
  );

  test(
    "What librbd has to decide is left to librbd, and nothing is done",
    async () => {
      const { run, pool, inNamespace, world: live, fresh } = at();
      expect(kept("absent", "s")).toBe(false);
      const [bare, cloned, journaled] = [await aSource({}, 0), await aSource(), await aSource({ features: 77n })];
      const older = await aSource();
      await run((ceph) => ceph.snapshotCreate(pool, older.image, "newer"));
      const elsewhere = [await aSource({}, 0), await aSource()];
      for (const [i, place] of [inNamespace, { ...pool, pool: live.dataPool }].entries()) {
        const { image = "" } = elsewhere[i] ?? {};
        await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, place, fresh("clone"), { features: 1n }));
      }
      const stale = await aSource({}, 2);
      inPool((_, io) => objectRemove(io, `rbd_header.${idIn(stale.clones[0] ?? "")}`));
      expect(kept(cloned.image, "absent")).toBe(false);
      for (const { image } of [bare, journaled, older, ...elsewhere, stale]) {
        const before = headerOf(image);
        expect(kept(image, "s")).toBe(false);
        expect(headerOf(image)).toEqual(before);
      }
      // two calls for one snapshot
      expect(kept(cloned.image, "s")).toBe(true);
      expect(kept(cloned.image, "s")).toBe(false);
      await run((ceph) => ceph.snapshotRemove(pool, cloned.image, "s"));
      expect(await namesOf(cloned.image)).toEqual(["s in the trash"]);
    },
    LONG_LIMIT,
  );

  test(
    "The operation that writes compares the clones as they were read",
    async () => {
      const { image } = await aSource();
      const object = `rbd_header.${idIn(image)}`;
      const [key = "", value = new Uint8Array()] =
        [...headerOf(image)].find(([each]) => each.startsWith("snap_children_")) ?? [];
      const attempt = (bytes: Uint8Array) =>
        inPool((_, io) => changeAll(io, [{ object, state: "require", compare: { [key]: bytes }, calls: [] }]));
      expect(attempt(value)).toEqual([0]);
      const other = value.slice();
      other[other.length - 1] = (other.at(-1) ?? 0) ^ 1;
      expect(attempt(other)).toEqual([-ECANCELED]);
      expect(attempt(value.slice(0, -1))).toEqual([-ECANCELED]);
    },
    LONG_LIMIT,
  );
});
