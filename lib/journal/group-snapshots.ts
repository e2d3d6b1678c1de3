/**
 * What the journal keeps of a group snapshot besides its name: the RBD group that takes it, its point in time, and the
 * IDs of its members (format of ceph-csi).
 *
 * Not here: names and their UUIDs (lib/journal/journal.ts), and the members' own entries.
 *
 * 1. Name, RBD group and members are written in one step: who finds the one finds all.
 * 2. The creation time means that the point in time is safe. It is written once, by one driver.
 * 3. No key is added to ceph-csi's: it takes every other one for a member.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { GROUPS, uuidObject } from "./journal.ts";

export interface GroupEntry {
  readonly requestName: string | undefined;
  readonly groupName: string;
  /** Milliseconds since the epoch. `undefined`: there is no point in time yet. */
  readonly createdAt: number | undefined;
  /** IDs of its snapshots; of a volume group, which has entries of the same form, of its volumes. Sorted. */
  readonly members: readonly string[];
}

const CREATION_TIME = "csi.creationtime";
const OWN_KEYS = "csi.";
const PAGE = 1000;

/** `undefined`: the journal has nothing under that UUID. */
export const readGroup = (pool: PoolRef, uuid: string): Effect.Effect<GroupEntry | undefined, CephError, Rados> =>
  Effect.gen(function* () {
    const rados = yield* Rados;
    const all = new Map<string, string>();
    for (let after = ""; ; ) {
      const page = yield* rados.omapList(pool, uuidObject(GROUPS, uuid), { prefix: "", after, limit: PAGE });
      if (page === undefined) return undefined;
      for (const [key, value] of page) {
        all.set(key, value);
        after = key;
      }
      if (page.size < PAGE) break;
    }
    const entry: GroupEntry = {
      requestName: all.get(GROUPS.requestNameKey),
      groupName: all.get(GROUPS.imageNameKey) ?? GROUPS.defaultImagePrefix + uuid,
      createdAt: timeOf(all.get(CREATION_TIME)),
      members: [...all.keys()].filter((key) => !key.startsWith(OWN_KEYS)).toSorted(),
    };
    return entry;
  });

/** Fails with `Raced` when another driver has recorded one. */
export const recordPoint = (pool: PoolRef, uuid: string, createdAt: number): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    rados.omapWrite(pool, uuidObject(GROUPS, uuid), {
      object: "require",
      compare: { [CREATION_TIME]: "" },
      set: { [CREATION_TIME]: new Date(createdAt).toISOString() },
    }),
  );

/** RFC 3339, with up to nine digits of a second; ours has three. */
const timeOf = (text: string | undefined): number | undefined => {
  const time = Date.parse(text?.replace(/(\.\d{3})\d+/, "$1") ?? "");
  return Number.isNaN(time) ? undefined : time;
};
