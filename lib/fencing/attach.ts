/**
 * ControllerPublishVolume: gives a volume to a node. What a lost node still has of it is fenced before, and fences of nodes
 * that have booted anew are lifted.
 *
 * Not here: the fence itself (./fence.ts), and who else uses the image: NodeStageVolume finds that out.
 *
 * 1. Detaching fences, and so does attaching: the taint may have come between. Of the node itself, whose own client goes on,
 *    that of another machine is fenced which had its name before.
 * 2. A volume is given to no node that Kubernetes does not have: it could not be told when that is lost.
 * 3. A record that cannot be read keeps the volume only if its node may be lost.
 * 4. A node gets no volume from which it was fenced with its whole address while the blocklist has that: it would refuse the
 *    node's new client, too.
 * 5. A node whose own client is fenced gets no volume from which it was fenced before it boots: the kernel would map it by
 *    the fenced client, and all its I/O would fail. Any other boot than that of the client will do, also one before the fence
 *    or of another machine: the kernel's client is another one there. Whether the old one still runs is not asked, as its
 *    fence stays. A boot that Kubernetes shows wrongly is found by the node itself (lib/node/stage.ts).
 * 6. A volume of a cluster that is not configured is attached to no node: it may have been detached without a fence for that
 *    very reason (./detach.ts), and only with the cluster's configuration can the records say who else has it.
 */
import * as Effect from "effect/Effect";
import { Blocklist, FENCE_SECONDS } from "../ceph/blocklist.ts";
import { NodeNotFound, Precondition, VolumeNotFound } from "../csi/errors.ts";
import {
  type FencedClient,
  forgetFence,
  isOfAnotherMachine,
  isOneClient,
  readRecords,
  type RecordedImage,
} from "../journal/client-records.ts";
import { locateVolume } from "../journal/locate.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { remark } from "../operations/remark.ts";
import { attachCredentials, HOW_TO_GIVE_CREDENTIALS } from "./credentials.ts";
import type { FencingError, FencingNeeds } from "./detach.ts";
import { fence, isLost, isOfAnotherBoot, isOver, lift } from "./fence.ts";
import { Kubernetes } from "./kubernetes.ts";

export interface AttachRequest {
  readonly volumeId: string;
  readonly nodeId: string;
  readonly secrets: Readonly<Record<string, string>>;
  /** The volume is in no journal: nodes do not record themselves in its image. */
  readonly isStatic: boolean;
}

/** -> the ServiceAccounts that the image is restricted to; "": none, or nobody could look. */
export const attachVolume = Effect.fn("fencing.attachVolume")(function* ({
  volumeId,
  nodeId,
  secrets,
  isStatic,
}: AttachRequest): Effect.fn.Return<string, FencingError, FencingNeeds> {
  yield* proveNodeThere(nodeId);
  if (isStatic) return "";
  const credentials = yield* stage("get credentials", attachCredentials(volumeId, secrets));
  if (credentials === undefined) {
    const text = `volume ${volumeId} is attached, and cannot be fenced when node ${nodeId} is lost: there are no credentials for it. ${HOW_TO_GIVE_CREDENTIALS}`;
    yield* remark([text]);
    return "";
  }
  const locks = yield* Locks;
  const attached = Effect.gen(function* () {
    const { pool, imageName } = yield* stage("find", locateVolume(volumeId, credentials));
    const image: RecordedImage = { volumeId, pool, imageName };
    const { clients, fenced, unreadable, serviceAccounts } = yield* stage("read clients", readRecords(image));
    const { node } = yield* Kubernetes;
    for (const { nodeId: whose, error } of unreadable) {
      if (whose === nodeId) continue;
      const state = whose === undefined ? undefined : yield* stage("look at node", node(whose));
      if (whose !== undefined && (state === undefined || state.outOfService)) return yield* error;
      yield* remark([error.message]);
    }
    for (const client of clients) {
      const state = yield* stage("look at node", node(client.nodeId));
      const mayRun =
        client.nodeId === nodeId ? state !== undefined && isOfAnotherMachine(client, state) : isLost(client, state);
      if (mayRun) yield* fence(image, client, state);
    }
    for (const each of fenced) {
      const state = yield* stage("look at node", node(each.nodeId));
      const over = isOver(each, state);
      if (over) yield* lift(image, each);
      if (each.nodeId !== nodeId) continue;
      const isAnother = isOneClient(each.client) && (over || isOfAnotherBoot(each, state));
      if (!isAnother) yield* proveNotFenced(image, each);
    }
    return serviceAccounts;
  });
  return yield* locks
    .with([LockKey.volume(volumeId)], attached)
    .pipe(
      Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
    );
});

/** So that a node that is not there later is known to be gone, and not one that Kubernetes has under another name. */
const proveNodeThere = Effect.fnUntraced(function* (nodeId: string) {
  if ((yield* stage("look at node", (yield* Kubernetes).node(nodeId))) !== undefined) return;
  return yield* new NodeNotFound({ nodeId });
});

/** Fails while the client is fenced. If somebody has lifted the fence by hand, the record of it goes. */
const proveNotFenced = Effect.fnUntraced(function* (image: RecordedImage, { client, nodeId, bootId }: FencedClient) {
  const blocked = yield* stage("read blocklist", (yield* Blocklist).blocklist(image.pool.access));
  if (!blocked.some(({ kind, address }) => kind === "client" && address === client)) {
    return yield* stage("forget fence", forgetFence(image, client));
  }
  const subject = `node ${nodeId}`;
  const byHand = `"ceph osd blocklist rm ${client}" lifts the fence`;
  if (!isOneClient(client)) {
    return yield* new Precondition({
      subject,
      problem: `was fenced from volume ${image.volumeId} with all clients of its address, ${client}, and the driver never lifts that: the same entry of the blocklist may fence other volumes, and later boots`,
      remedy: `Once each machine that had the address when it was last fenced has booted since, or is off for good, ${byHand} for all volumes. When that was: "ceph osd blocklist ls" shows it ${FENCE_SECONDS} seconds later`,
    });
  }
  return yield* new Precondition({
    subject,
    problem: `was fenced from volume ${image.volumeId} as client ${client}, and is not proven to have booted since`,
    remedy: `Boot the node. If it has booted, remove its out-of-service taint and wait until Kubernetes shows the boot.${bootId === "" ? " The boot of that client is in no record, so a machine that was replaced, and one that had booted before the fence, is not recognised." : ""} If you are sure that nothing on it still writes, ${byHand}`,
  });
});
