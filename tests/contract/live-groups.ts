/**
 * Groups on the rig's cluster as another client sees and changes them, by Ceph's own tools. A group is read from its
 * objects: `rbd group image list` shows nothing at all of one that a member has left by way of the trash (Ceph 16).
 */
import { imageLabel } from "../../lib/ceph/label.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { GroupHands } from "./harness.ts";

export interface Tools {
  readonly tool: (...command: string[]) => Promise<string>;
  readonly rados: (pool: PoolRef, ...command: string[]) => Promise<string>;
  readonly poolName: (id: bigint) => string;
}

/** A text as Ceph encodes it, after its length. */
const textOf = (value: Uint8Array): string => new TextDecoder().decode(value.subarray(4));

/** Reads the output of `rados listomapvals`: a key, its length, a hex dump, an empty line. */
const textsIn = (dump: string): ReadonlyMap<string, string> => {
  const found = new Map<string, string>();
  for (const entry of dump.split("\n\n")) {
    const [key, ...lines] = entry.split("\n");
    const hex = lines.flatMap((line) => /^[0-9a-f]{8}  ([0-9a-f ]{1,48})/.exec(line)?.[1] ?? []).join("");
    if (key !== undefined) found.set(key, textOf(Buffer.from(hex.replaceAll(" ", ""), "hex")));
  }
  return found;
};

export const liveGroups = ({ tool, rados, poolName }: Tools): GroupHands => {
  /** Empty for an object that does not exist. */
  const omapOf = (pool: PoolRef, command: "listomapkeys" | "listomapvals", object: string): Promise<string> =>
    rados(pool, command, object).catch((error: Error) => {
      if (error.message.includes("No such file or directory")) return "";
      throw error;
    });
  return {
    members: async (pool, group) => {
      const id = textsIn(await omapOf(pool, "listomapvals", "rbd_group_directory")).get(`name_${group}`);
      if (id === undefined) return undefined;
      const keys = (await omapOf(pool, "listomapkeys", `rbd_group_header.${id}`)).split("\n");
      const directories = new Map<string, ReadonlyMap<string, string>>();
      const found: string[] = [];
      for (const [, poolId, imageId] of keys.flatMap((key) => [/^image_([0-9a-f]{16})_(.+)$/.exec(key) ?? []])) {
        if (poolId === undefined || imageId === undefined) continue;
        const place = { ...pool, pool: poolName(BigInt(`0x${poolId}`)) };
        const names = directories.get(poolId) ?? textsIn(await omapOf(place, "listomapvals", "rbd_directory"));
        directories.set(poolId, names);
        const name = names.get(`id_${imageId}`);
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
