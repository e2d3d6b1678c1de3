/** Who may not, and where nobody answers. */
import { expect, test } from "bun:test";
import * as Redacted from "effect/Redacted";
import type { ClusterAccess } from "../../lib/ceph/rados.ts";
import { LIMIT, LONG_LIMIT, type Session } from "./harness.ts";

/** Well formed (type 1, a time, 16 bytes of secret), so that it is the cluster that refuses it. */
const wrongKey = Buffer.from([1, 0, 1, 2, 3, 4, 0, 0, 0, 0, 16, 0, ...Array<number>(16).fill(7)]).toString("base64");

export const accessContract = (at: () => Session): void => {
  const denied = async (access: ClusterAccess) => {
    const { fails, world } = at();
    const pool = { access, pool: world.pool, namespace: "" };
    return [
      await fails((ceph) => ceph.poolId(access, world.pool)),
      await fails((ceph) => ceph.omapGet(pool, "object", ["k"])),
      await fails((ceph) => ceph.imageStatus(pool, "image")),
      await fails((ceph) => ceph.managerTrashRemove(pool, "abc")),
      await fails((ceph) => ceph.managerTasks(access)),
      await fails((ceph) => ceph.pools(access)),
      await fails((ceph) => ceph.poolSpace(access, world.pool)),
    ];
  };

  test(
    "A wrong key is AccessDenied, and the message names the user and does not show the key",
    async () => {
      const { world } = at();
      const errors = await denied({ ...world.access, key: Redacted.make(wrongKey) });
      expect(errors.map((error) => error._tag)).toEqual(errors.map(() => "AccessDenied"));
      for (const error of errors) {
        expect(error.message).toContain(`client.${world.access.user}`);
        expect(JSON.stringify([error, error.message])).not.toContain(wrongKey);
      }
    },
    LONG_LIMIT,
  );

  test(
    "A user that does not exist is AccessDenied",
    async () => {
      const { world } = at();
      const errors = await denied({ ...world.access, user: "nobody-of-that-name" });
      expect(errors.map((error) => error._tag)).toEqual(errors.map(() => "AccessDenied"));
    },
    LONG_LIMIT,
  );

  test(
    "The right key connects after a wrong key was denied",
    async () => {
      const { run, world } = at();
      expect(await run((ceph) => ceph.poolId(world.access, world.pool))).toBeGreaterThan(0n);
    },
    LIMIT,
  );

  test(
    "A pool that the caps don't name is AccessDenied, and never counts as absent",
    async () => {
      const { run, fails, world } = at();
      const inside = { access: world.limited, pool: world.pool, namespace: "" };
      expect(await run((ceph) => ceph.omapGet(inside, "absent", ["k"]))).toBeUndefined();
      const outside = { ...inside, pool: world.dataPool };
      const errors = [
        await fails((ceph) => ceph.omapGet(outside, "absent", ["k"])),
        await fails((ceph) => ceph.omapWrite(outside, "absent", { object: "ensure" })),
        await fails((ceph) => ceph.objectRemove(outside, "absent")),
        await fails((ceph) => ceph.imageId(outside, "absent")),
        await fails((ceph) => ceph.imageStatus(outside, "absent")),
        await fails((ceph) => ceph.imageCreate(outside, "absent", { sizeBytes: 4096n })),
        await fails((ceph) => ceph.trashGet(outside, "abc")),
        await fails((ceph) => ceph.trashList(outside)),
        await fails((ceph) => ceph.snapshotCreate(outside, "absent", "s")),
        await fails((ceph) => ceph.snapshotRemove(outside, "absent", "s")),
        await fails((ceph) => ceph.snapshots(outside, "absent")),
        await fails((ceph) => ceph.cloneDepth(outside, "absent")),
        await fails((ceph) => ceph.imageFlatten(outside, "absent")),
        await fails((ceph) => ceph.diff({ pool: outside, image: "absent", snapshot: "s" }, undefined, 0n, 1)),
        await fails((ceph) => ceph.imageClone({ pool: outside, image: "absent", snapshot: "s" }, inside, "never", {})),
        await fails((ceph) => ceph.omapList(outside, "absent", { prefix: "", after: "", limit: 1 })),
        await fails((ceph) => ceph.omapFollow(outside, "absent", "k", { prefix: "", tail: 1, keys: [] })),
        await fails((ceph) => ceph.omapGetMany(outside, [{ object: "absent", keys: ["k"] }])),
        await fails((ceph) => ceph.imageBriefs(outside, ["absent"], [])),
        await fails((ceph) => ceph.imageLost(outside, "absent")),
        await fails((ceph) => ceph.groupCreate(outside, "absent")),
        await fails((ceph) => ceph.groupExists(outside, "absent")),
        await fails((ceph) => ceph.groupRemove(outside, "absent")),
        await fails((ceph) => ceph.groupSnapshotCreate(outside, "absent", "s")),
        await fails((ceph) => ceph.groupSnapshotMembers(outside, "absent", "s")),
      ];
      expect(errors.map((error) => error._tag)).toEqual(errors.map(() => "AccessDenied"));
    },
    LIMIT,
  );

  test(
    "Monitors that do not exist are Unreachable",
    async () => {
      const { fails, world } = at();
      const access = { ...world.access, monitors: ["127.0.0.1:1"] };
      const error = await fails((ceph) => ceph.poolId(access, world.pool));
      expect(error._tag).toBe("Unreachable");
      expect(error.message).toContain("127.0.0.1:1");
    },
    LONG_LIMIT,
  );
};
