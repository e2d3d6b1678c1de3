/** What imageStatus says of an image that is another cluster's copy: whether the mirror daemon here replays it. */
import { dlopen, FFIType as T, JSCallback } from "bun:ffi";
import { expect, test } from "bun:test";
import { check, cString, slot, valueOf } from "../../lib/ceph/cell/ffi.ts";
import { encode } from "../../lib/ceph/cell/encoder.ts";
import { execute } from "../../lib/ceph/cell/rados.ts";
import { status } from "../../lib/ceph/cell/status.ts";
import { GIB, LIMIT } from "../contract/harness.ts";
import { tool } from "./hands.ts";
import { cellPool, primitives } from "./primitives.ts";

const OBJECT = "rbd_mirroring";
const STATE = { stopped: 6, replaying: 4 } as const;

primitives("mirrored images", (world) => {
  const { session: at, rig } = world;
  const pooled = cellPool(world);

  test(
    "A non-primary image is replayed while a mirror daemon that runs says so",
    async () => {
      const { symbols: rados } = dlopen("librados.so.2", {
        rados_watch3: { args: [T.u64, T.ptr, T.ptr, T.ptr, T.ptr, T.u32, T.ptr], returns: T.i32 },
        rados_unwatch2: { args: [T.u64, T.u64], returns: T.i32 },
      });
      const { run, pool, fresh } = at();
      const name = fresh("image");
      const image = `${pool.pool}/${name}`;
      await run((ceph) => ceph.imageCreate(pool, name, { sizeBytes: GIB }));
      await tool.rbd(rig, "mirror", "pool", "enable", pool.pool, "image");
      await tool.rbd(rig, "mirror", "image", "enable", image, "snapshot");
      const told = async () => {
        const { mirror, mirrorReplays } = await run((ceph) => ceph.imageStatus(pool, name));
        return [mirror, mirrorReplays];
      };
      expect(await told()).toEqual(["primary", undefined]);
      await tool.rbd(rig, "mirror", "image", "demote", image);
      expect(await told()).toEqual(["non-primary", undefined]);

      const info = JSON.parse(await tool.rbd(rig, "info", "--format=json", image)) as {
        mirroring: { global_id: string };
      };
      /** As the daemon does, which is up while it watches the object. */
      const say = (io: bigint, state: number) => {
        const said = encode(
          { text: info.mirroring.global_id },
          { version: 1, of: [{ u8: state }, { text: "" }, { u64: 0n }, { u8: 1 }] },
        );
        execute(io, OBJECT, "mirror_image_status_set", said);
      };
      // librados wants one, and nobody notifies this watcher
      const notified = new JSCallback(() => {}, { returns: T.void, threadsafe: true });
      pooled((where, io) => {
        const cookie = slot();
        check("rados_watch3", rados.rados_watch3(io, cString(OBJECT), cookie, notified.ptr, null, 60, null));
        const now = () => status(where, io, name).mirrorReplays;
        say(io, STATE.stopped);
        expect(now()).toBeUndefined();
        say(io, STATE.replaying);
        expect(now()).toBe(true);
        check("rados_unwatch2", rados.rados_unwatch2(io, valueOf(cookie)));
        expect(now()).toBeUndefined();
      });
      notified.close();
      await tool.rbd(rig, "mirror", "image", "promote", image);
      await tool.rbd(rig, "mirror", "image", "disable", image);
      await tool.rbd(rig, "mirror", "pool", "disable", pool.pool);
    },
    LIMIT,
  );
});
