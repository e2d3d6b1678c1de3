/** Images that the driver moves to the trash without librbd: the same bytes as librbd's, and nothing but plain images. */
import { expect, test } from "bun:test";
import { Errno } from "../../lib/cells/cell.ts";
import { thenWithoutBareParent } from "../../lib/ceph/cell/bare-headers.ts";
import { changeAll } from "../../lib/ceph/cell/changes.ts";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { exists, list } from "../../lib/ceph/cell/omaps.ts";
import { connect, execute, objectLock, objectRemove, shutdown, withLock, withPool } from "../../lib/ceph/cell/rados.ts";
import { id as idOf } from "../../lib/ceph/cell/rbd.ts";
import { byLibrbd, move } from "../../lib/ceph/cell/trash-move.ts";
import type { ImageSpec } from "../../lib/ceph/rbd.ts";
import { GIB, LIMIT } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { cellPool, primitives } from "./primitives.ts";

const notHere = (): never => {
  throw new Error("librbd was to move the image");
};

primitives("moves to the trash", (world) => {
  const { session: at, rig } = world;
  const pooled = cellPool(world);
  const inPool = <A>(use: (io: bigint) => A): A => pooled((_, io) => use(io));
  const image = async (spec: ImageSpec = { sizeBytes: GIB }) => {
    const { run, pool, fresh } = at();
    const name = fresh("image");
    await run((ceph) => ceph.imageCreate(pool, name, spec));
    return { name, id: inPool((io) => idOf(io, name)) ?? "" };
  };
  /** What the trash has of an image, with its id, its name and its times left out, and how long the trash protects it. */
  const entryOf = (id: string, name: string) => {
    const entries = inPool((io) => list(io, "rbd_trash", { prefix: `id_${id}`, after: "", limit: 2 }));
    const bytes = Buffer.from(entries?.get(`id_${id}`) ?? []);
    // version, oldest reader, length, source, name, then two times of eight bytes, then the state
    const times = 6 + 1 + 4 + Buffer.byteLength(name);
    const seconds = bytes.readUInt32LE(times + 8) - bytes.readUInt32LE(times);
    const nanoseconds = bytes.readUInt32LE(times + 12) - bytes.readUInt32LE(times + 4);
    bytes.fill(0, times, times + 16);
    // the lengths of the structure and of the name
    bytes.fill(0, 2, 6);
    bytes.fill(0, 7, 11);
    return { bytes: bytes.toString("latin1").replace(name, "NAME"), seconds, nanoseconds };
  };
  const named = (name: string, id: string) =>
    inPool((io) => ({
      name: exists(io, `rbd_id.${name}`),
      entry: execute(io, "rbd_directory", "dir_get_id", encode({ text: name })) !== undefined,
      reverse: execute(io, "rbd_directory", "dir_get_name", encode({ text: id })) !== undefined,
    }));
  const NOWHERE = { name: false, entry: false, reverse: false };

  test(
    "A plain image in the trash is the same, byte for byte, as one that librbd moved there",
    async () => {
      for (const seconds of [0, 3, 86_400]) {
        for (const spec of [{ sizeBytes: GIB }, { sizeBytes: GIB, features: 1n }, { sizeBytes: GIB, features: 0n }]) {
          const [ours, theirs] = [await image(spec), await image(spec)];
          inPool((io) => move(io, ours.name, seconds, notHere));
          inPool((io) => byLibrbd(io, theirs.name, seconds));
          const entry = entryOf(ours.id, ours.name);
          expect(entry).toEqual(entryOf(theirs.id, theirs.name));
          expect(entry.seconds).toBe(seconds);
          expect(named(ours.name, ours.id)).toEqual(NOWHERE);
          await tool.rbd(rig, "trash", "restore", `${at().pool.pool}/${ours.id}`);
          expect(inPool((io) => idOf(io, ours.name))).toBe(ours.id);
          inPool((io) => move(io, ours.name, 0, notHere));
          await at().run((ceph) => ceph.trashRemove(at().pool, ours.id));
          expect(inPool((io) => exists(io, `rbd_header.${ours.id}`))).toBe(false);
        }
      }
    },
    LIMIT,
  );

  test(
    "A clone and its parent are moved so, too",
    async () => {
      const { run, pool, fresh } = at();
      const parent = await image();
      const clone = fresh("clone");
      await run((ceph) => ceph.snapshotCreate(pool, parent.name, "point"));
      await run((ceph) => ceph.imageClone({ pool, image: parent.name, snapshot: "point" }, pool, clone, {}));
      await run((ceph) => ceph.snapshotRemove(pool, parent.name, "point"));
      const id = inPool((io) => idOf(io, clone)) ?? "";
      inPool((io) => move(io, parent.name, 0, notHere));
      inPool((io) => move(io, clone, 0, notHere));
      expect([named(clone, id), named(parent.name, parent.id)]).toEqual([NOWHERE, NOWHERE]);
      await run((ceph) => ceph.trashRemove(pool, id));
      await run((ceph) => ceph.trashRemove(pool, parent.id));
      expect(inPool((io) => exists(io, `rbd_header.${parent.id}`))).toBe(false);
    },
    LIMIT,
  );

  test(
    "An image on which somebody may have a hold is left to librbd",
    async () => {
      const { run, pool, fresh } = at();
      const isLeft = (name: string): boolean => {
        let left = false;
        inPool((io) => move(io, name, 0, () => void (left = true)));
        return left;
      };
      const locked = await image();
      const whileLocked = inPool((io) =>
        withLock(io, `rbd_header.${locked.id}`, "rbd_lock", () => isLeft(locked.name)),
      );
      expect(whileLocked).toBe(true);
      const grouped = await image();
      const group = fresh("group");
      await run((ceph) => ceph.groupCreate(pool, group));
      await run((ceph) => ceph.groupAdd(pool, group, { pool, image: grouped.name }));
      expect(isLeft(grouped.name)).toBe(true);
      const journaled = await image();
      await tool.rbd(rig, "feature", "enable", `${pool.pool}/${journaled.name}`, "journaling");
      expect(isLeft(journaled.name)).toBe(true);
      const mirrored = await image();
      await tool.rbd(rig, "mirror", "pool", "enable", pool.pool, "image");
      await tool.rbd(rig, "mirror", "image", "enable", `${pool.pool}/${mirrored.name}`, "snapshot");
      expect(isLeft(mirrored.name)).toBe(true);
      await tool.rbd(rig, "mirror", "image", "disable", `${pool.pool}/${mirrored.name}`);
      await tool.rbd(rig, "mirror", "pool", "disable", pool.pool);
      expect(isLeft(fresh("absent"))).toBe(true);
      for (const { name, id } of [locked, grouped, journaled, mirrored]) {
        expect(named(name, id)).toEqual({ name: true, entry: true, reverse: true });
      }
      await run((ceph) => ceph.groupRemove(pool, group));
      for (const { name } of [locked, grouped, mirrored]) expect(isLeft(name)).toBe(false);
    },
    LIMIT,
  );

  test(
    "A move that was cut off is finished, wherever it was",
    async () => {
      const { run, pool } = at();
      for (const gone of ["nothing", "the name", "the entry", "both"]) {
        const { name, id } = await image();
        inPool((io) => move(io, name, 0, notHere));
        await tool.rbd(rig, "trash", "restore", `${pool.pool}/${id}`);
        const entry = {
          version: 2,
          of: [{ u8: 0 }, { text: name }, { u32: 1 }, { u32: 0 }, { u32: 1 }, { u32: 0 }, { u8: 1 }],
        };
        inPool((io) => {
          execute(io, "rbd_trash", "trash_add", encode({ text: id }, entry));
          if (gone === "the name" || gone === "both") objectRemove(io, `rbd_id.${name}`);
          if (gone === "the entry" || gone === "both") {
            execute(io, "rbd_directory", "dir_remove_image", encode({ text: name }, { text: id }));
          }
        });
        await run((ceph) => ceph.trashMove(pool, name));
        expect([gone, named(name, id)]).toEqual([gone, NOWHERE]);
        await run((ceph) => ceph.trashRemove(pool, id));
        expect([gone, inPool((io) => exists(io, `rbd_header.${id}`))]).toEqual([gone, false]);
      }
    },
    LIMIT,
  );

  test(
    "A name that leads to another image stays",
    async () => {
      const [old, young] = [await image(), await image()];
      inPool((io) => {
        // the name of the old one was given to the young one between two writes of the move
        objectRemove(io, `rbd_id.${old.name}`);
        const give = { method: "set_id", input: encode({ text: young.id }) };
        changeAll(io, [{ object: `rbd_id.${old.name}`, state: "exclusive", calls: [give] }]);
        move(io, old.name, 0, notHere);
      });
      expect(inPool((io) => idOf(io, old.name))).toBe(young.id);
      expect(named(young.name, young.id)).toEqual({ name: true, entry: true, reverse: true });
    },
    LIMIT,
  );

  test(
    "A parent that is removed while its last clone is leaves no header behind",
    async () => {
      const { run, pool, fresh } = at();
      for (const kept of [false, true]) {
        const [parent, clone] = [await image(), fresh("clone")];
        await run((ceph) => ceph.snapshotCreate(pool, parent.name, clone));
        await run((ceph) => ceph.imageClone({ pool, image: parent.name, snapshot: clone }, pool, clone, {}));
        const [header, map] = [`rbd_header.${parent.id}`, `rbd_object_map.${parent.id}`];
        const left = pooled((where, io) => {
          const cloneId = idOf(io, clone) ?? "";
          const removal = () => {
            if (kept) return;
            for (const object of [header, map]) objectRemove(io, object);
            // what librbd does next with the parent that it has open
            objectLock(io, header, { name: "rbd_lock", cookie: "auto 1", seconds: 30 });
            expect(exists(io, header)).toBe(true);
            throw new Errno("rbd_trash_remove", 2);
          };
          try {
            thenWithoutBareParent(where, io, cloneId, removal);
          } catch (error) {
            expect(error).toMatchObject({ op: "rbd_trash_remove", errno: 2 });
          }
          return { header: exists(io, header), map: exists(io, map) };
        });
        expect(left).toEqual({ header: kept, map: kept });
      }
    },
    LIMIT,
  );

  test(
    "A header with nothing in it is removed, and the headers of images stay, also of one in the trash",
    async () => {
      const { run, pool } = at();
      const [kept, trashed] = [await image(), await image()];
      await run((ceph) => ceph.trashMove(pool, trashed.name));
      inPool((io) => objectLock(io, "rbd_header.abc", { name: "rbd_lock", cookie: "auto 1", seconds: 30 }));
      const ids = ["abc", kept.id, "absent", trashed.id];
      expect(await run((ceph) => ceph.imagesStillThere(pool, ids))).toEqual([kept.id, trashed.id]);
      expect(inPool((io) => exists(io, "rbd_header.abc"))).toBe(false);
      await run((ceph) => ceph.trashRemove(pool, trashed.id));
      expect(await run((ceph) => ceph.imagesStillThere(pool, ids))).toEqual([kept.id]);
    },
    LIMIT,
  );

  test(
    "A move that the OSDs refuse changes nothing",
    async () => {
      const { name, id } = await image();
      const user = at().fresh("reader");
      const { key } = await tool.userOf(rig, user, ["mon", "profile rbd", "osd", "profile rbd-read-only"]);
      const settings = [["mon_host", rig.monitors.join(",")] as const, ["key", key] as const];
      const reader = connect({ user, confFile: rig.conf, settings });
      const refused = (): unknown => {
        try {
          withPool({ cluster: reader, ...at().pool }, (io) => move(io, name, 0, notHere));
        } catch (error) {
          return error instanceof Errno ? { errno: error.errno, midway: error.midway } : error;
        } finally {
          shutdown(reader);
        }
        return "moved";
      };
      expect(refused()).toEqual({ errno: 1, midway: false });
      expect(named(name, id)).toEqual({ name: true, entry: true, reverse: true });
    },
    LIMIT,
  );

  /** The last byte of the entry. */
  const stateOf = (id: string) => {
    const entries = inPool((io) => list(io, "rbd_trash", { prefix: `id_${id}`, after: "", limit: 2 }));
    return entries?.get(`id_${id}`)?.at(-1);
  };
  const setState = (id: string, to: number, from: number) =>
    inPool((io) => {
      const set = { method: "trash_state_set", input: encode({ text: id }, { u8: to }, { u8: from }) };
      return changeAll(io, [{ object: "rbd_trash", state: "require", calls: [set] }]);
    });
  const REMOVING = 2;

  test(
    "Nobody takes an image out of the trash while its snapshot is removed, and a driver that dies in that keeps nobody from going on",
    async () => {
      const { run, fails, pool } = at();
      const { name, id } = await image();
      await run((ceph) => ceph.snapshotCreate(pool, name, "mine"));
      await run((ceph) => ceph.snapshotCreate(pool, name, "s"));
      inPool((io) => move(io, name, 3, notHere));
      expect(setState(id, REMOVING, 0)).toEqual([0]);
      const restore = tool.rbd(rig, "trash", "restore", `${pool.pool}/${id}`);
      expect(await restore.then(String, () => "refused")).toBe("refused");
      // as if a driver had died behind the mark: the next one goes on, and does not take the mark for its own
      await run((ceph) => ceph.trashSnapshotRemove(pool, id, "s", true));
      expect(await run((ceph) => ceph.trashSnapshots(pool, id))).toEqual([{ name: "mine", kind: "user" }]);
      expect(stateOf(id)).toBe(REMOVING);
      // librbd takes its own mark away when it cannot remove the image
      expect((await fails((ceph) => ceph.trashRemove(pool, id, true)))._tag).toBe("HasSnapshots");
      expect(stateOf(id)).toBe(0);
      await run((ceph) => ceph.trashSnapshotRemove(pool, id, "absent", true));
      expect(stateOf(id)).toBe(0);
      await tool.rbd(rig, "trash", "restore", `${pool.pool}/${id}`);
      expect((await run((ceph) => ceph.imageStatus(pool, name))).namedSnapshots).toEqual(["mine"]);
    },
    LIMIT,
  );

  test(
    "A snapshot stays of an image that somebody is just taking out of the trash, or that is just moved there",
    async () => {
      const { run, fails, pool } = at();
      for (const state of [1, 3]) {
        const { name, id } = await image();
        await run((ceph) => ceph.snapshotCreate(pool, name, "s"));
        inPool((io) => move(io, name, 3, notHere));
        setState(id, state, 0);
        expect((await fails((ceph) => ceph.trashSnapshotRemove(pool, id, "s", true)))._tag).toBe("Busy");
        expect(stateOf(id)).toBe(state);
        setState(id, 0, state);
        expect(await run((ceph) => ceph.trashSnapshots(pool, id))).toEqual([{ name: "s", kind: "user" }]);
      }
    },
    LIMIT,
  );

  test(
    "A move says which mark the image has: that of an interrupted move stays",
    async () => {
      const { run, pool, world: hands } = at();
      const whole = await image();
      expect(inPool((io) => move(io, whole.name, 4, notHere))).toBe("large");
      for (const how of ["trash-entered", "name-gone"] as const) {
        const { name, id } = await image();
        await hands.cutShort(how, pool, name);
        expect(await run((ceph) => ceph.trashMove(pool, name, 3, id))).toBeUndefined();
        expect(await run((ceph) => ceph.trashGet(pool, id))).toEqual({ id, name, source: "user" });
      }
    },
    LIMIT,
  );
});
