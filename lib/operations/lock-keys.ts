/**
 * What operations lock, as a type: the key names the thing in messages, and its rank fixes the order in which several
 * locks are taken. So no two operations wait for each other.
 *
 * Not here: who waits for whom (./locks.ts).
 *
 * 1. Two keys are equal exactly if they name the same thing.
 */

export type LockMode = "exclusive" | "shared";

export interface LockKey {
  /** The thing with its noun, as messages show it: `volume 0001-…`. */
  readonly text: string;
  readonly rank: number;
  readonly mode: LockMode;
}

/** In the order in which an operation takes them. */
const RANKS = ["group snapshot", "group snapshot name", "handle", "group membership", "name", "target path"] as const;

const key = (rank: (typeof RANKS)[number], text: string): LockKey => ({
  text,
  rank: RANKS.indexOf(rank),
  mode: "exclusive",
});

/** Exclusive ones; see `shared`. */
export const LockKey = {
  groupSnapshot: (id: string) => key("group snapshot", `group snapshot ${id}`),
  groupSnapshotName: (name: string) => key("group snapshot name", `group snapshot name ${name}`),
  volume: (id: string) => key("handle", `volume ${id}`),
  snapshot: (id: string) => key("handle", `snapshot ${id}`),
  /** An image can be in one RBD group at a time. */
  groupMembership: (volumeId: string) => key("group membership", `group membership of volume ${volumeId}`),
  volumeName: (clusterId: string, name: string) => key("name", `volume name ${name} in cluster ${clusterId}`),
  snapshotName: (name: string) => key("name", `snapshot name ${name}`),
  targetPath: (path: string) => key("target path", `target path ${path}`),
};

/** Held by several operations at once, but not beside an exclusive holder. */
export const shared = (held: LockKey): LockKey => ({ ...held, mode: "shared" });

/** Each key once, the exclusive one before the shared, in the order in which they are taken. */
export const inOrder = (keys: readonly LockKey[]): readonly LockKey[] => {
  const once = new Map<string, LockKey>();
  for (const wanted of keys) if (once.get(wanted.text)?.mode !== "exclusive") once.set(wanted.text, wanted);
  return [...once.values()].toSorted((a, b) => a.rank - b.rank || (a.text < b.text ? -1 : 1));
};
