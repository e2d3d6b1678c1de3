/**
 * The journal's entry of a group snapshot besides its name: its RBD group, its point in time, and the IDs of its members
 * (format of ceph-csi).
 *
 * Not here: names and their UUIDs (./journal.ts), and the members' own entries.
 *
 * 1. Name, RBD group and members are written in one step: whoever finds one of them finds all. ceph-csi writes the members
 *    after it has made them, so an entry of its own without members is half made, and nobody was told of it.
 * 2. The creation time means that the point in time is safe. It is written once, by one driver, and only while the RBD
 *    group in the entry is its own. From then on the group stays the same.
 *    ceph-csi writes it with the name: it counts once there are members.
 * 3. No key is added to those of ceph-csi, because it takes every other key for a member.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { GROUPS, uuidObject, writeEntry } from "./journal.ts";

export interface GroupEntry {
  readonly requestName: string | undefined;
  readonly groupName: string;
  /** Milliseconds since the epoch. Absent: there is no point in time yet. */
  readonly createdAt: number | undefined;
  /** IDs of its snapshots, or of its volumes for a volume group, whose entry has the same form. Sorted. */
  readonly members: readonly string[];
}

const CREATION_TIME = "csi.creationtime";
const OWN_KEYS = "csi.";
const PAGE = 1000;

/** `undefined`: the journal has nothing under that UUID. */
export const readGroup = Effect.fn("journal.readGroup")(function* (
  pool: PoolRef,
  uuid: string,
): Effect.fn.Return<GroupEntry | undefined, CephError, Rados> {
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
  const members = [...all.keys()].filter((key) => !key.startsWith(OWN_KEYS)).toSorted();
  return {
    requestName: all.get(GROUPS.requestNameKey),
    groupName: all.get(GROUPS.imageNameKey) ?? GROUPS.defaultImagePrefix + uuid,
    createdAt: members.length === 0 ? undefined : timeOf(all.get(CREATION_TIME)),
    members,
  };
});

/** Fails with `Raced` when another driver has recorded one, or has put another RBD group into the entry. */
export const recordPoint = Effect.fn("journal.recordPoint")(function* (
  pool: PoolRef,
  uuid: string,
  groupName: string,
  createdAt: number,
): Effect.fn.Return<void, CephError, Rados> {
  yield* writeUnrecorded(pool, uuid, groupName, { [CREATION_TIME]: new Date(createdAt).toISOString() });
});

/**
 * Puts another RBD group into the entry, so that nobody records the point in time of the one before. Fails with `Raced`
 * when that is recorded, or the entry has yet another group.
 */
export const replaceGroup = Effect.fn("journal.replaceGroup")(function* (
  pool: PoolRef,
  uuid: string,
  groupName: string,
  next: string,
): Effect.fn.Return<void, CephError, Rados> {
  yield* writeUnrecorded(pool, uuid, groupName, { [GROUPS.imageNameKey]: next });
});

const writeUnrecorded = (pool: PoolRef, uuid: string, groupName: string, set: Readonly<Record<string, string>>) =>
  writeEntry(GROUPS, pool, uuid, { compare: { [CREATION_TIME]: "", [GROUPS.imageNameKey]: groupName }, set });

/**
 * Puts another RBD group, and members, into an entry that has no members yet. Fails with `Raced` when another driver has put
 * a group into it.
 */
export const replaceHalfMade = (
  pool: PoolRef,
  uuid: string,
  groupName: string,
  next: string,
  members: Readonly<Record<string, string>>,
): Effect.Effect<void, CephError, Rados> =>
  writeEntry(GROUPS, pool, uuid, {
    compare: { [GROUPS.imageNameKey]: groupName },
    set: { [GROUPS.imageNameKey]: next, ...members },
    remove: [CREATION_TIME],
  });

/**
 * Writes an entry of a name that has none yet, with a group that says that it is given up: nobody else writes one from then
 * on. Fails with `Raced` when another driver has.
 */
export const giveUpUnwritten = (
  pool: PoolRef,
  uuid: string,
  requestName: string,
  givenUp: string,
): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    rados.omapWrite(pool, uuidObject(GROUPS, uuid), {
      object: "ensure",
      compare: { [GROUPS.requestNameKey]: "" },
      set: { [GROUPS.requestNameKey]: requestName, [GROUPS.imageNameKey]: givenUp },
      // the object goes with the name, a moment later
      evenIfFull: true,
    }),
  );

/** RFC 3339, with up to nine digits of a second; this driver writes three. */
const timeOf = (text: string | undefined): number | undefined => {
  const time = Date.parse(text?.replace(/(\.\d{3})\d+/, "$1") ?? "");
  return Number.isNaN(time) ? undefined : time;
};
