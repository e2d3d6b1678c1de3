/** Snapshots that are removed and stay for their clones: what the driver writes without librbd is what librbd writes. */
import { expect, test } from "bun:test";
import { dlopen, FFIType as T } from "bun:ffi";
import { check } from "../../lib/ceph/cell/ffi.ts";
import { objectRemove } from "../../lib/ceph/cell/rados.ts";
import { withImage } from "../../lib/ceph/cell/rbd.ts";
import { keep, keepForClones, provenKept } from "../../lib/ceph/cell/snapshot-trash.ts";
import { remove as removeByLibrbd } from "../../lib/ceph/cell/snapshots.ts";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { LONG_LIMIT, MIB } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { headers } from "./header-look.ts";
import { cellPool, primitives } from "./primitives.ts";

const { symbols: rbd } = dlopen("librbd.so.1", { rbd_lock_acquire: { args: [T.u64, T.i32], returns: T.i32 } });

primitives("snapshots that stay for clones", (world) => {
  const { session: at, rig } = world;
  const inPool = cellPool(world);

  const { idIn, headerOf, lookOf: lookOfHeader } = headers(inPool);
  const kept = (image: string, snapshot: string) => inPool((where, io) => keepForClones(where, io, image, snapshot));
  const namesOf = async (image: string) =>
    (await at().run((ceph) => ceph.snapshots(at().pool, image))).map(({ kind, name, originalName }) =>
      kind === "trash" ? `${originalName} in the trash` : name,
    );

  /** Gives an image a snapshot `s`, and clones of it. */
  const withClones = async (image: string, clones: number) => {
    const { run, pool, fresh } = at();
    await run((ceph) => ceph.snapshotCreate(pool, image, "s"));
    const names = Array.from({ length: clones }, () => fresh("clone"));
    for (const name of names) await run((ceph) => ceph.imageClone({ pool, image, snapshot: "s" }, pool, name, {}));
    return { image, clones: names };
  };

  /** An image with a snapshot `s`, and clones of it. */
  const aSource = async (spec: Partial<ImageSpec> = {}, clones = 1) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, ...spec }));
    return withClones(image, clones);
  };

  /** A clone of an image's snapshot `s`, with a snapshot `s` of its own that has two clones. */
  const aClone = async (base: string, features: bigint) => {
    const { run, pool, fresh } = at();
    const image = fresh("image");
    await run((ceph) => ceph.imageClone({ pool, image: base, snapshot: "s" }, pool, image, { features }));
    return withClones(image, 2);
  };

  const RANDOM_NAME = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;
  /** The header of an image, without what differs from image to image: ids, times, random names. */
  const lookOf = async (image: string, clones: readonly string[]) => {
    const [snapshot] = await at().run((ceph) => ceph.snapshots(at().pool, image));
    const ids = clones.map((clone) => Buffer.from(idIn(clone)).toString("latin1"));
    return lookOfHeader(image, snapshot, (key, value) => {
      const text = value.replace(RANDOM_NAME, "UUID");
      // ids differ in length
      if (key.startsWith("snap_children_")) return `${ids.filter((id) => text.includes(id)).length} clones`;
      return ids.reduce((now, each) => now.replaceAll(each, "CLONE"), text);
    });
  };

  test(
    "The header is the same, byte for byte, as after librbd's removal, and the last clone takes the snapshot along",
    async () => {
      const { run, pool, world: live } = at();
      const { dataPool } = live;
      const specs = [{}, { features: 1n }, { features: 61n }, { dataPool }, { stripeUnit: 65_536n, stripeCount: 4n }];
      const base = await aSource({}, 0);
      const sources = [
        ...specs.map((spec) => () => aSource(spec, 2)),
        ...[1n, 33n, 61n].map((features) => () => aClone(base.image, features)),
        ...[1n, 33n].map((features) => async () => {
          const made = await aClone(base.image, features);
          await run((ceph) => ceph.imageFlatten(pool, made.image));
          return made;
        }),
      ];
      for (const make of sources) {
        const looks: unknown[] = [];
        for (const remove of ["ours", "librbd"] as const) {
          const { image, clones } = await make();
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
    "Clients that have the image open are told, also by a repeat",
    async () => {
      const { run, pool, world: live } = at();
      const { image } = await aSource();
      const listening = await live.listen(pool, image);
      const heard = async (least: number) => {
        // the client acknowledges before it counts
        for (let n = 0; n < 50 && listening.heard() < least; n++) await Bun.sleep(100);
        return listening.heard();
      };
      expect(kept(image, "s")).toBe(true);
      expect(await heard(1)).toBe(1);
      await run((ceph) => ceph.snapshotRemove(pool, image, "s"));
      expect(await heard(2)).toBeGreaterThan(1);
      await listening.close();
    },
    LONG_LIMIT,
  );

  test(
    "A client that writes keeps its lock",
    async () => {
      const { pool } = at();
      const { image } = await aSource({ features: 61n });
      const owner = () => tool.rbdNow(rig, "lock", "ls", `${pool.pool}/${image}`);
      const [before, after] = inPool((_, io) =>
        withImage(io, image, "write", (handle) => {
          check("rbd_lock_acquire", rbd.rbd_lock_acquire(handle, 0));
          const held = owner();
          expect(kept(image, "s")).toBe(true);
          return [held, owner()];
        }),
      );
      expect(before).toContain("auto");
      expect(after).toBe(before);
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

  const changes: ReadonlyArray<readonly [what: string, change: (image: string, clone: string) => Promise<unknown>]> = [
    ["loses its last clone", (_, clone) => at().run((ceph) => ceph.imageFlatten(at().pool, clone))],
    ["gets another clone", (image) => clonedAgain(image)],
    ["gets another name", (image) => renamed(`${at().pool.pool}/${image}`)],
    ["goes to the trash", (image) => at().run((ceph) => ceph.snapshotRemove(at().pool, image, "s"))],
    ["gets a journal", (image) => tool.rbd(rig, "feature", "enable", `${at().pool.pool}/${image}`, "journaling")],
  ];
  const renamed = (spec: string) => tool.rbd(rig, "snap", "rename", `${spec}@s`, `${spec}@t`);
  const clonedAgain = (image: string) =>
    at().run((ceph) => ceph.imageClone({ pool: at().pool, image, snapshot: "s" }, at().pool, at().fresh("clone"), {}));

  test.each(changes)(
    "A snapshot that %s after the proof is left to librbd, and nothing is done",
    async (_, change) => {
      const { image, clones } = await aSource({ features: 61n });
      const proven = inPool((where, io) => provenKept(where, io, image, "s"));
      if (proven === undefined) throw new Error("not proven");
      await change(image, clones[0] ?? "");
      const before = headerOf(image);
      expect(inPool((__, io) => keep(io, proven))).toBe(false);
      expect(headerOf(image)).toEqual(before);
    },
    LONG_LIMIT,
  );
});
