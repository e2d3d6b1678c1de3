/**
 * Fences the client by which a lost node has a volume, and lifts the fence after the node has booted anew.
 *
 * Not here: when (./detach.ts, ./attach.ts).
 *
 * 1. A fence is for one client: address and nonce. Other clients on the same address, and those of the node's next boot,
 *    are not refused. Only a record of ceph-csi, which has no nonce, makes it all clients of the address.
 * 2. A client counts as fenced once each OSD to which it could write refuses it. Until then the call fails, and the record
 *    stays, so that the next call fences again. What is to be fenced is written down before the entry is made: no entry
 *    stays that nobody knows of.
 * 3. A fence is lifted only if the same machine is seen in service with a boot that is neither the one under which the client
 *    came to be nor the one that Kubernetes showed at the fence: then the client does not run any more. Both, because a pod
 *    and kubelet may see different boot IDs. A node that is away, was deleted or is another machine proves nothing.
 * 4. A fence of a whole address is never lifted here. The blocklist has one entry for all volumes and all boots of an address,
 *    and for every node that has it: what one image has recorded says nothing of the others.
 */
import * as Effect from "effect/Effect";
import { blockedClient, Blocklist, FENCE_SECONDS, poolsWritten } from "../ceph/blocklist.ts";
import type { CephError } from "../ceph/errors.ts";
import { poolLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import { NotReadyYet } from "../csi/errors.ts";
import {
  type ClientRecord,
  type FencedClient,
  forgetClient,
  forgetFence,
  isOfAnotherMachine,
  isOneClient,
  recordFence,
  type RecordedImage,
} from "../journal/client-records.ts";
import type { NodeState } from "../kube/node-state.ts";
import { stage } from "../operations/pipeline.ts";

/** Whether the client may run where nobody can stop it. Of a node that is gone its one client is meant, not its address. */
export const isLost = (record: ClientRecord, state: NodeState | undefined): boolean =>
  state === undefined ? record.exact : state.outOfService || isOfAnotherMachine(record, state);

/** `state`: the node's now, against which its state is compared later; `undefined`: it is gone. */
export const fence = Effect.fn("fencing.fence")(function* (
  image: RecordedImage,
  record: ClientRecord,
  state: NodeState | undefined,
): Effect.fn.Return<void, CephError | NotReadyYet, Blocklist | Rbd> {
  const { nodeId, client, exact } = record;
  const { pool, imageName, volumeId } = image;
  // Only the machine of the client itself can prove later that it has booted.
  const machine = record.machine === "" ? (state?.machine ?? "") : record.machine;
  const shown = { shownBootId: state?.bootId ?? "", machine };
  const blocklist = yield* Blocklist;
  const blocked = blockedClient(client);
  yield* stage("record fence", recordFence(image, record, shown));
  yield* stage("fence", blocklist.blocklistAdd(pool.access, blocked, FENCE_SECONDS));
  const { dataPool } = yield* stage("look at image", (yield* Rbd).imageStatus(pool, imageName));
  for (const written of poolsWritten(pool, dataPool)) {
    if (yield* stage("prove fence", blocklist.blocklistReached(written, blocked))) continue;
    return yield* new NotReadyYet({
      subject: `client ${client} of node ${nodeId}`,
      problem: `was fenced, and is not on the blocklist of ${poolLabel(written)}'s cluster any more`,
      remedy: 'Look for whoever removes it ("ceph osd blocklist ls"); the automatic retry fences it again',
    });
  }
  yield* stage("forget client", forgetClient(image, nodeId, record));
  const whom = exact ? `its client ${client}` : `all clients of its address, ${client}`;
  const until = exact ? "the node has booted anew" : "somebody lifts that by hand";
  if (state !== undefined && !state.outOfService && isOfAnotherMachine(record, state)) {
    return yield* Effect.logWarning(
      `node ${nodeId} is not proven to be the machine that had volume ${volumeId} under this name, and may still run: it was taken from that one, and Ceph refuses ${whom}`,
    );
  }
  yield* Effect.logWarning(
    state === undefined
      ? `node ${nodeId} does not exist any more: volume ${volumeId} was taken from it, and Ceph refuses ${whom}`
      : `node ${nodeId} is out of service: volume ${volumeId} was taken from it, and Ceph refuses ${whom} until ${until}`,
  );
});

/**
 * Whether the node runs, in service, under another boot than that of the client. That lifts nothing: the client may run on a
 * machine that had the node's name before.
 */
export const isOfAnotherBoot = ({ bootId }: FencedClient, state: NodeState | undefined): boolean =>
  state !== undefined && !state.outOfService && state.bootId !== "" && bootId !== "" && state.bootId !== bootId;

/** Whether the fence is for one client, which ran under an earlier boot of its node. What is not known proves nothing. */
export const isOver = ({ client, bootId, shownBootId, machine }: FencedClient, state: NodeState | undefined): boolean =>
  isOneClient(client) &&
  state !== undefined &&
  !state.outOfService &&
  state.bootId !== "" &&
  shownBootId !== "" &&
  ![bootId, shownBootId].includes(state.bootId) &&
  machine !== "" &&
  state.machine === machine;

/** A fence that cannot be lifted stays, with its record: a client that does not run any more has nothing to lose. */
export const lift = Effect.fn("fencing.lift")(function* (
  image: RecordedImage,
  { client, nodeId }: FencedClient,
): Effect.fn.Return<void, CephError, Blocklist | Rbd> {
  const remove = Effect.flatMap(Blocklist, ({ blocklistRemove }) =>
    blocklistRemove(image.pool.access, blockedClient(client)),
  );
  const lifted = yield* stage("lift fence", remove).pipe(
    Effect.as(true),
    Effect.catchTag("AccessDenied", ({ message }) =>
      Effect.as(
        Effect.logWarning(`node ${nodeId} has booted anew, and its old client ${client} stays fenced: ${message}`),
        false,
      ),
    ),
  );
  if (!lifted) return;
  yield* stage("forget fence", forgetFence(image, client));
  yield* Effect.logInfo(`node ${nodeId} has booted anew: the fence of its old client ${client} was lifted`);
});
