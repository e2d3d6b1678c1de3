/**
 * What a node tells of itself for listings: that it has a volume, from its staging to its unstaging.
 *
 * Not here: where it is written (lib/journal/published-nodes.ts).
 *
 * 1. It never fails a call and never holds one up for long: a node whose user may only read is listed nowhere.
 * 2. NodeUnstageVolume brings no credentials: those of the staging are kept, Redacted, until then. After a restart of
 *    the driver there are none, and the node stays in the list until the volume is staged elsewhere or deleted.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { publishNode, unpublishNode, type Volume } from "../journal/published-nodes.ts";

const LIMIT = "2 seconds";

export interface Announcer {
  /** `volume` absent: no journal knows it. */
  readonly staged: (
    volumeId: string,
    volume: Omit<Volume, "instanceId"> | undefined,
    shared: boolean,
  ) => Effect.Effect<void, never, Ceph>;
  readonly unstaged: (volumeId: string) => Effect.Effect<void, never, Ceph>;
}

const unharmed = (what: string, write: Effect.Effect<void, CephError, Ceph>): Effect.Effect<void, never, Ceph> =>
  write.pipe(
    Effect.timeoutOrElse({ duration: LIMIT, orElse: () => Effect.logDebug(`${what}: no answer within ${LIMIT}`) }),
    Effect.catch(({ message }) => Effect.logDebug(`${what}: ${message}`)),
  );

/** `instanceId` absent: the node tells nothing. */
export const makeAnnouncer = (nodeId: string, instanceId: string | undefined): Announcer => {
  const known = new Map<string, Volume>();
  return {
    staged: (volumeId, volume, shared) =>
      Effect.suspend(() => {
        if (instanceId === undefined || volume === undefined) return Effect.void;
        const told = { ...volume, instanceId };
        known.set(volumeId, told);
        return unharmed(`listing ${volumeId} at ${nodeId}`, publishNode(told, nodeId, shared));
      }),
    unstaged: (volumeId) =>
      Effect.suspend(() => {
        const told = known.get(volumeId);
        if (told === undefined) return Effect.void;
        known.delete(volumeId);
        return unharmed(`listing ${volumeId} no more at ${nodeId}`, unpublishNode(told, nodeId));
      }),
  };
};
