/**
 * Groups on the rig's cluster as another client sees and changes them, by Ceph's own tools. A group is read from its
 * objects: `rbd group image list` shows nothing at all of one that a member has left by way of the trash (Ceph 16).
 */
import { imageLabel } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { GroupHands } from "./harness.ts";

export interface Tools {
  readonly tool: (...command: string[]) => Promise<string>;
  readonly rados: (pool: PoolRef, ...command: string[]) => Promise<string>;
  readonly omapValue: (pool: PoolRef, object: string, key: string) => Promise<Uint8Array>;
  readonly poolName: (id: bigint) => string;
}

/** A text as Ceph encodes it, after its length. */
const textOf = (value: Uint8Array): string => new TextDecoder().decode(value.subarray(4));

export const liveGroups = ({ tool, rados, omapValue, poolName }: Tools): GroupHands => {
  const keysOf = async (pool: PoolRef, object: string): Promise<readonly string[]> =>
    (
      await rados(pool, "listomapkeys", object).catch((error: Error) => {
        if (error.message.includes("No such file or directory")) return "";
        throw error;
      })
    ).split("\n");
  const textAt = async (pool: PoolRef, object: string, key: string): Promise<string | undefined> =>
    (await keysOf(pool, object)).includes(key) ? textOf(await omapValue(pool, object, key)) : undefined;

  return {
    members: async (pool, group) => {
      const id = await textAt(pool, "rbd_group_directory", `name_${group}`);
      if (id === undefined) return undefined;
      const keys = await keysOf(pool, `rbd_group_header.${id}`);
      const found: string[] = [];
      for (const [, poolId, imageId] of keys.flatMap((key) => [/^image_([0-9a-f]{16})_(.+)$/.exec(key) ?? []])) {
        if (poolId === undefined || imageId === undefined) continue;
        const place = { ...pool, pool: poolName(BigInt(`0x${poolId}`)) };
        const name = await textAt(place, "rbd_directory", `id_${imageId}`);
        if (name !== undefined) found.push(`${place.pool}/${place.namespace}/${name}`);
      }
      return found.toSorted();
    },
    drop: async (pool, group, member) => {
      await tool("rbd", "group", "image", "rm", imageLabel(pool, group), imageLabel(member.pool, member.image));
    },
    snapshots: async (pool, group) => {
      const listed = await tool("rbd", "group", "snap", "ls", imageLabel(pool, group), "--format=json");
      const all = JSON.parse(listed) as { readonly snapshot: string; readonly status?: string; state?: string }[];
      const complete = all.filter(({ status, state }) => ["ok", "complete"].includes(status ?? state ?? ""));
      return complete.map(({ snapshot }) => snapshot).toSorted();
    },
    removeSnapshot: async (pool, group, snapshot) => {
      await tool("rbd", "group", "snap", "rm", `${imageLabel(pool, group)}@${snapshot}`);
    },
  };
};
