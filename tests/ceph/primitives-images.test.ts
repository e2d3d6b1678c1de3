/** Images that the driver creates without librbd: the same bytes as librbd's, the same errors, and nothing left over. */
import { expect, test } from "bun:test";
import { Errno } from "../../lib/cells/cell.ts";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { EEXIST } from "../../lib/ceph/cell/ffi.ts";
import { create } from "../../lib/ceph/cell/image-create.ts";
import { exists } from "../../lib/ceph/cell/omaps.ts";
import { execute, objectRemove } from "../../lib/ceph/cell/rados.ts";
import { create as byLibrbd, id as idOf } from "../../lib/ceph/cell/rbd.ts";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { GIB, LIMIT, MIB } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { imageLook } from "./image-look.ts";
import { cellPool, primitives } from "./primitives.ts";

const notHere = (): never => {
  throw new Error("librbd was to create the image");
};

primitives("image creation", (world) => {
  const { session: at, rig } = world;
  const inPool = cellPool(world);
  const { bytesOf, lookOf } = imageLook(inPool);

  const specs: readonly ImageSpec[] = [
    { sizeBytes: GIB },
    { sizeBytes: 0n },
    { sizeBytes: 4n * MIB + 1n },
    { sizeBytes: 5_497_558_138_881n },
    { sizeBytes: GIB, objectSize: 8n * MIB },
    { sizeBytes: GIB, features: 0n },
    { sizeBytes: GIB, features: 1n },
    { sizeBytes: GIB, features: 5n },
    { sizeBytes: GIB, features: 61n },
  ];
  test(
    "An image is the same, byte for byte, as one that librbd creates",
    () => {
      for (const spec of specs) {
        const [ours, theirs] = [at().fresh("image"), at().fresh("image")];
        const theirId = inPool((where, io) => byLibrbd(where, io, theirs, spec)) ?? "";
        // librbd's ids differ in length, and the header has the length of its id
        const given = Buffer.from(crypto.randomUUID()).toString("hex").slice(-theirId.length);
        const id = inPool((where, io) => create(where, io, ours, spec, { otherwise: notHere, id: given })) ?? "";
        const look = lookOf(ours, id);
        expect(look).toEqual(lookOf(theirs, theirId));
        expect([look.idInName, look.idInDirectory, look.nameInDirectory]).toEqual([true, true, true]);
        expect(inPool((where, io) => create(where, io, at().fresh("image"), spec))).toMatch(/^[0-9a-f]{5,14}$/);
      }
    },
    LIMIT,
  );

  test(
    "What librbd has to decide is left to librbd",
    async () => {
      const { pool } = at();
      const left: readonly ImageSpec[] = [
        { sizeBytes: GIB, dataPool: at().world.dataPool },
        { sizeBytes: GIB, stripeUnit: 65_536n, stripeCount: 4n },
        { sizeBytes: GIB, features: 9n },
        { sizeBytes: GIB, features: 77n },
        { sizeBytes: GIB, objectSize: 2048n },
        { sizeBytes: 1n << 62n },
      ];
      const otherwise = () => "librbd";
      for (const spec of left) {
        expect(inPool((where, io) => create(where, io, at().fresh("image"), spec, { otherwise }))).toBe("librbd");
      }
      await tool.rbd(rig, "config", "pool", "set", pool.pool, "rbd_default_features", "1");
      const image = at().fresh("image");
      await at().run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB }));
      await tool.rbd(rig, "config", "pool", "remove", pool.pool, "rbd_default_features");
      expect((await at().run((ceph) => ceph.imageStatus(pool, image))).features).toBe(1n);
    },
    LIMIT,
  );

  const failing = (image: string, id?: string, sizeBytes = GIB): Errno => {
    try {
      inPool((where, io) =>
        create(where, io, image, { sizeBytes }, { otherwise: notHere, ...(id !== undefined && { id }) }),
      );
    } catch (error) {
      if (error instanceof Errno) return error;
      throw error;
    }
    throw new Error("the image was created");
  };
  const named = (image: string) =>
    inPool((_, io) => ({
      name: idOf(io, image),
      entry: execute(io, "rbd_directory", "dir_get_id", encode({ text: image })) !== undefined,
    }));

  test("A name that is taken in one place is not taken in the other one", async () => {
    const { fresh } = at();
    const image = fresh("image");
    const id = inPool((where, io) => create(where, io, image, { sizeBytes: GIB })) ?? "";
    expect(failing(image)).toMatchObject({ errno: EEXIST, midway: false });
    expect(named(image)).toEqual({ name: id, entry: true });
    inPool((_, io) => execute(io, "rbd_directory", "dir_remove_image", encode({ text: image }, { text: id })));
    expect(failing(image)).toMatchObject({ errno: EEXIST, midway: false });
    expect(named(image)).toEqual({ name: id, entry: false });
    inPool((_, io) => {
      execute(io, "rbd_directory", "dir_add_image", encode({ text: image }, { text: id }));
      objectRemove(io, `rbd_id.${image}`);
    });
    expect(failing(image)).toMatchObject({ errno: EEXIST, midway: false });
    expect(named(image)).toEqual({ name: undefined, entry: true });
  });

  test(
    "A creation with the id of another image fails, leaves nothing, and changes nothing of the other",
    async () => {
      const { run, pool, fresh } = at();
      const [first, second] = [fresh("image"), fresh("image")];
      const id = inPool((where, io) => create(where, io, first, { sizeBytes: GIB })) ?? "";
      const map = `rbd_object_map.${id}`;
      const look = () => ({ map: inPool((_, io) => exists(io, map)) ? bytesOf(map) : "none", ...named(second) });
      const untouched = look();
      expect(untouched).toMatchObject({ name: undefined, entry: false });
      const again = () => failing(second, id, 2n * GIB);
      expect(again().midway).toBe(false);
      expect(look()).toEqual(untouched);
      await run((ceph) => ceph.trashMove(pool, first));
      expect(again()).toMatchObject({ errno: EEXIST, midway: false });
      expect(look()).toEqual(untouched);
      inPool((_, io) => objectRemove(io, map));
      expect(again()).toMatchObject({ errno: EEXIST, midway: false });
      expect(look()).toEqual({ ...untouched, map: "none" });
      expect(inPool((_, io) => exists(io, `rbd_header.${id}`))).toBe(true);
    },
    LIMIT,
  );

  test(
    "A mend removes all that a creation leaves that was cut off before the header",
    async () => {
      const { run, pool, fresh } = at();
      for (const missing of ["nothing else", "the name", "the entry", "the object map"]) {
        const image = fresh("image");
        const id = inPool((where, io) => create(where, io, image, { sizeBytes: GIB })) ?? "";
        inPool((_, io) => {
          objectRemove(io, `rbd_header.${id}`);
          if (missing === "the name") objectRemove(io, `rbd_id.${image}`);
          if (missing === "the object map") objectRemove(io, `rbd_object_map.${id}`);
          if (missing === "the entry") {
            execute(io, "rbd_directory", "dir_remove_image", encode({ text: image }, { text: id }));
          }
        });
        expect(await run((ceph) => ceph.imageMend(pool, image))).toBe(false);
        expect(named(image)).toEqual({ name: undefined, entry: false });
        if (missing !== "the name") {
          expect([missing, inPool((_, io) => exists(io, `rbd_object_map.${id}`))]).toEqual([missing, false]);
        }
        await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: GIB }));
      }
    },
    LIMIT,
  );
});
