/**
 * The record that this node has a volume, from its staging to its unstaging: for listings, and as a proof that another
 * node has had the volume since.
 *
 * Not here: where it is written (lib/journal/published-nodes.ts).
 *
 * 1. It fails no call, and holds none up for long. A node whose user may only read is not listed. A write that was given up
 *    may still come about; the next one of its volume waits for that (./late-writes.ts), for as long as it waits at all.
 * 2. NodeUnstageVolume brings no credentials, so those of the staging are kept until then, Redacted. After a restart of
 *    the driver there are none: the node stays in the list until the volume is staged elsewhere or deleted.
 * 3. The list of a volume that one node at a time may have is replaced by the next node. So the volume was elsewhere if
 *    the list names another node and not this one, or if this driver has written this node into it and it is not there
 *    any more. Anything else proves nothing: nodes may fail to record.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { Precondition } from "../csi/errors.ts";
import { publishedNodes, publishNode, unpublishNode, type JournalVolume } from "../journal/published-nodes.ts";
import { orSay } from "../operations/within.ts";
import { makeLateWrites } from "./late-writes.ts";

const LIMIT = "2 seconds";

export interface PublishedNodeRecordService {
  /** `volume` is absent if it has no entry in a journal. */
  readonly staged: (
    volumeId: string,
    volume: Omit<JournalVolume, "instanceId"> | undefined,
    shared: boolean,
  ) => Effect.Effect<void, never, Ceph>;
  /** Whether there is nothing left to record of a staged volume. */
  readonly isRecorded: (volumeId: string) => boolean;
  readonly unstaged: (volumeId: string) => Effect.Effect<void, never, Ceph>;
  /** Fails if the record shows that another node has had the volume since this node staged it. */
  readonly proveNotElsewhere: (
    volumeId: string,
    volume: Omit<JournalVolume, "instanceId"> | undefined,
  ) => Effect.Effect<void, CephError | Precondition, Ceph>;
}

export class PublishedNodeRecord extends Context.Service<PublishedNodeRecord, PublishedNodeRecordService>()(
  "csi-rbd/PublishedNodeRecord",
) {}

interface Staged {
  readonly volume: JournalVolume;
  /** Whether the record names this node for sure; `undefined`: no write of it has been answered. */
  written: boolean | undefined;
}

/** Without an `instanceId` it records nothing. */
export const makePublishedNodeRecord = (nodeId: string, instanceId: string | undefined): PublishedNodeRecordService => {
  const staged = new Map<string, Staged>();
  const writes = makeLateWrites();
  const harmless = (
    volumeId: string,
    what: string,
    write: Effect.Effect<unknown, CephError, Ceph>,
  ): Effect.Effect<void, never, Ceph> =>
    orSay(
      LIMIT,
      (why) => Effect.logDebug(`cannot ${what} volume ${volumeId}: ${why}`),
      (limit) => writes.write(volumeId, write, limit),
    );
  return {
    staged: (volumeId, entry, shared) =>
      Effect.suspend(() => {
        if (instanceId === undefined || entry === undefined) return Effect.void;
        const volume = { ...entry, instanceId };
        const kept: Staged = { volume, written: undefined };
        staged.set(volumeId, kept);
        const publish = Effect.map(publishNode(volume, nodeId, shared), (is) => void (kept.written = is));
        return harmless(volumeId, `record that ${nodeId} has`, publish);
      }),
    isRecorded: (volumeId) => instanceId === undefined || staged.get(volumeId)?.written !== undefined,
    unstaged: (volumeId) =>
      Effect.suspend(() => {
        const kept = staged.get(volumeId);
        if (kept === undefined) return Effect.void;
        staged.delete(volumeId);
        return harmless(volumeId, `record that ${nodeId} does not have`, unpublishNode(kept.volume, nodeId));
      }),
    proveNotElsewhere: Effect.fnUntraced(function* (volumeId, entry) {
      if (instanceId === undefined || entry === undefined) return;
      const [nodes = []] = yield* publishedNodes(entry.pool, instanceId, [entry]);
      if (nodes.includes(nodeId) || (nodes.length === 0 && staged.get(volumeId)?.written !== true)) return;
      const where = nodes.length === 0 ? "on another node" : `on ${nodes.join(", ")}`;
      return yield* new Precondition({
        subject: `volume ${volumeId}`,
        problem: `was staged ${where} after this node, so what this node has not written yet would damage newer data`,
        remedy: "End the pods that use it on this node",
      });
    }),
  };
};
