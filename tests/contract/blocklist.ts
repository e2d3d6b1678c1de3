/** Clients that the OSDs refuse: who may put one on the list, what the list says, and what it does. */
import { expect, test } from "bun:test";
import type { Blocked } from "../../lib/ceph/blocklist.ts";
import { LIMIT, type Session } from "./harness.ts";

const DAY = 86_400;
const client = (address: string): Blocked => ({ kind: "client", address });
const range = (address: string): Blocked => ({ kind: "range", address });

export const blocklistContract = (at: () => Session): void => {
  const entries: readonly Blocked[] = [
    client("10.9.9.9:0/3412"),
    client("[fd00::9]:0/3412"),
    client("10.9.9.8:0/0"),
    range("10.9.8.0/24"),
    range("fd00:9::/64"),
  ];

  test(
    "An entry is on the list, and with every OSD, from the add on until the removal",
    async () => {
      const { run, pool, inNamespace } = at();
      const { access } = pool;
      for (const entry of entries) {
        expect(await run((ceph) => ceph.blocklistReached(pool, entry))).toBe(false);
        await run((ceph) => ceph.blocklistAdd(access, entry, DAY));
        await run((ceph) => ceph.blocklistAdd(access, entry, DAY));
        expect(await run((ceph) => ceph.blocklist(access))).toContainEqual(entry);
        for (const ref of [pool, inNamespace]) {
          expect(await run((ceph) => ceph.blocklistReached(ref, entry))).toBe(true);
        }
      }
      for (const entry of entries) {
        await run((ceph) => ceph.blocklistRemove(access, entry));
        await run((ceph) => ceph.blocklistRemove(access, entry));
        expect(await run((ceph) => ceph.blocklist(access))).not.toContainEqual(entry);
        expect(await run((ceph) => ceph.blocklistReached(pool, entry))).toBe(false);
      }
    },
    LIMIT * 2,
  );

  test(
    "A user with the profile rbd alone adds any entry, and removes none",
    async () => {
      const { run, fails, pool, world } = at();
      for (const entry of entries) {
        await run((ceph) => ceph.blocklistAdd(world.limited, entry, DAY));
        expect(await run((ceph) => ceph.blocklist(world.limited))).toContainEqual(entry);
        expect(await run((ceph) => ceph.blocklistReached({ ...pool, access: world.limited }, entry))).toBe(true);
        const error = await fails((ceph) => ceph.blocklistRemove(world.limited, entry));
        expect(error._tag).toBe("AccessDenied");
        expect(error.message).toContain(`mon 'profile rbd, allow command "osd blocklist"'`);
        await run((ceph) => ceph.blocklistRemove(world.access, entry));
      }
    },
    LIMIT,
  );

  test(
    "No entry reaches a pool that does not exist",
    async () => {
      const { run, fails, nowhere } = at();
      const entry = client("10.9.9.6:0/66");
      await run((ceph) => ceph.blocklistAdd(nowhere.access, entry, DAY));
      expect((await fails((ceph) => ceph.blocklistReached(nowhere, entry)))._tag).toBe("PoolNotFound");
      await run((ceph) => ceph.blocklistRemove(nowhere.access, entry));
    },
    LIMIT,
  );

  test(
    "The cluster says which one it is, and as which client the driver talks to it",
    async () => {
      const { run, pool } = at();
      const { fsid, address } = await run((ceph) => ceph.clusterIdentity(pool.access));
      expect(fsid).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
      expect(address).toMatch(/(\d+\.){3}\d+:0\/\d+/);
    },
    LIMIT,
  );
};
