/**
 * The record that this node has a volume, for listings: from its staging to its unstaging.
 *
 * Not here: where it is written (lib/journal/published-nodes.ts).
 *
 * 1. It fails no call, and holds none up for long. A node whose user may only read is not listed.
 * 2. NodeUnstageVolume brings no credentials, so those of the staging are kept until then, Redacted. After a restart of
 *    the driver there are none: the node stays in the list until the volume is staged elsewhere or deleted.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { publishNode, unpublishNode, type JournalVolume } from "../journal/published-nodes.ts";

const LIMIT = "2 seconds";

export interface PublishedNodeRecordService {
  /** `volume` is absent if it has no entry in a journal. */
  readonly staged: (
    volumeId: string,
    volume: Omit<JournalVolume, "instanceId"> | undefined,
    shared: boolean,
  ) => Effect.Effect<void, never, Ceph>;
  readonly unstaged: (volumeId: string) => Effect.Effect<void, never, Ceph>;
}

export class PublishedNodeRecord extends Context.Service<PublishedNodeRecord, PublishedNodeRecordService>()(
  "csi-rbd/PublishedNodeRecord",
) {}

/** Without an `instanceId` it records nothing. */
export const makePublishedNodeRecord = (nodeId: string, instanceId: string | undefined): PublishedNodeRecordService => {
  const staged = new Map<string, JournalVolume>();
  return {
    staged: (volumeId, entry, shared) =>
      Effect.suspend(() => {
        if (instanceId === undefined || entry === undefined) return Effect.void;
        const volume = { ...entry, instanceId };
        staged.set(volumeId, volume);
        return harmless(`record that ${nodeId} has volume ${volumeId}`, publishNode(volume, nodeId, shared));
      }),
    unstaged: (volumeId) =>
      Effect.suspend(() => {
        const volume = staged.get(volumeId);
        if (volume === undefined) return Effect.void;
        staged.delete(volumeId);
        return harmless(`record that ${nodeId} does not have volume ${volumeId}`, unpublishNode(volume, nodeId));
      }),
  };
};

const harmless = (what: string, write: Effect.Effect<void, CephError, Ceph>): Effect.Effect<void, never, Ceph> =>
  write.pipe(
    Effect.timeoutOrElse({ duration: LIMIT, orElse: () => Effect.logDebug(`cannot ${what}: no answer in ${LIMIT}`) }),
    Effect.catch(({ message }) => Effect.logDebug(`cannot ${what}: ${message}`)),
  );
