/**
 * ControllerUnpublishVolume: takes a volume from a node. If the node is out of service, its client is fenced first, because
 * nobody can make a lost node stop writing.
 *
 * Not here: the fence itself (./fence.ts), and the wire (services/controller-publish.ts).
 *
 * 1. The answer "detached" lets another node have the volume. So of a node that is out of service, or that Kubernetes does
 *    not have any more, it comes after the proof that the OSDs refuse its client. If a node out of service has left no record
 *    of one, it comes only if nobody unknown has the image open. What cannot be fenced is in 3.
 * 2. The record of a node in service goes if the node reports that it is well, its client does not have the image open, and
 *    the node is not proven to be another machine, whose client is fenced, nor suspected to be.
 *    Else it stays, for a fence that somebody may ask for later: a node that is only away has no watch either, and comes
 *    back. A record too many harms nobody.
 * 3. Where this driver can fence nothing, for lack of credentials or because the cluster is not configured any more, a
 *    volume leaves every node but one that is out of service. Its record stays, so an attach that knows the cluster again
 *    fences the client if the node is lost by then; without the cluster's configuration no volume is attached (./attach.ts).
 */
import * as Effect from "effect/Effect";
import { type Blocklist, FENCE_SECONDS } from "../ceph/blocklist.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError, ConfigMissing, InvalidSecret } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import {
  type JournalCorrupt,
  type LockHeld,
  type NodeNotFound,
  type NotReadyYet,
  Precondition,
  type VolumeNotFound,
} from "../csi/errors.ts";
import { volumeKind } from "../csi/volume-id.ts";
import {
  clientOf,
  type ClientRecord,
  type FencedClient,
  forgetClient,
  isOneClient,
  readRecords,
  type RecordedImage,
  type Records,
} from "../journal/client-records.ts";
import { otherWatchers } from "../images/in-use.ts";
import { locateVolume } from "../journal/locate.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { remark } from "../operations/remark.ts";
import { attachCredentials, HOW_TO_GIVE_CREDENTIALS } from "./credentials.ts";
import { fence, isLost } from "./fence.ts";
import { Kubernetes } from "./kubernetes.ts";

export interface DetachRequest {
  readonly volumeId: string;
  /** "": from all nodes. */
  readonly nodeId: string;
  readonly secrets: Readonly<Record<string, string>>;
}

export type FencingError =
  | CephError
  | ConfigError
  | InvalidSecret
  | JournalCorrupt
  | LockHeld
  | NodeNotFound
  | NotReadyYet
  | Precondition
  | VolumeNotFound;

export type FencingNeeds = Blocklist | ClusterMapping | ClusterSecrets | Clusters | Kubernetes | Locks | Rados | Rbd;

export const detachVolume = Effect.fn("fencing.detachVolume")(function* (
  request: DetachRequest,
): Effect.fn.Return<void, FencingError, FencingNeeds> {
  const { volumeId, nodeId } = request;
  // Those of no journal are recorded by no node, and nothing says where they are.
  if (volumeKind(volumeId) !== "dynamic") {
    return yield* remark([
      `volume ${volumeId} is detached${nodeId === "" ? "" : ` from node ${nodeId}`}, and was not fenced: static volumes and those of the in-tree plugin cannot be. Make sure that a lost node is off before another one gets the volume`,
    ]);
  }
  yield* Effect.catchTag(detachDynamic(request), "ConfigMissing", (error) => detachUnconfigured(request, error));
});

const detachDynamic = Effect.fnUntraced(function* (request: DetachRequest) {
  const { volumeId, nodeId, secrets } = request;
  const credentials = yield* stage("get credentials", attachCredentials(volumeId, secrets));
  if (credentials === undefined) return yield* detachWithoutCredentials(request);
  const locks = yield* Locks;
  const detached = Effect.gen(function* () {
    const { pool, imageName, cluster } = yield* stage("find", locateVolume(volumeId, credentials));
    const image: RecordedImage = { volumeId, pool, imageName };
    const records = yield* stage("read clients", readRecords(image));
    const isMeant = (each: { readonly nodeId: string | undefined }): boolean =>
      each.nodeId !== undefined && (nodeId === "" || each.nodeId === nodeId);
    const unreadable = records.unreadable.find(isMeant);
    if (unreadable !== undefined) return yield* unreadable.error;
    const meant = records.clients.filter(isMeant);
    for (const client of meant) yield* detachClient(image, client);
    if (meant.length === 0 && nodeId !== "") yield* proveNotThere(image, nodeId, records, cluster.mirrorDaemonCount);
  });
  // A volume that is gone is on no node.
  yield* locks
    .with([LockKey.volume(volumeId)], detached)
    .pipe(Effect.catchTag(["ImageNotFound", "VolumeNotFound"], () => Effect.void));
});

const detachClient = Effect.fnUntraced(function* (image: RecordedImage, client: ClientRecord) {
  const { nodeId } = client;
  const { volumeId } = image;
  const state = yield* stage("look at node", (yield* Kubernetes).node(nodeId));
  if (isLost(client, state)) return yield* fence(image, client, state);
  const kept = (why: string) =>
    remark([
      `volume ${volumeId} is detached from node ${nodeId}, which ${why}: its client ${client.client} is not fenced, and its record stays. ${HOW_TO_FENCE}`,
    ]);
  if (state === undefined) return yield* kept("does not exist");
  if (!state.ready) return yield* kept("is not ready, and not out of service");
  const isIts = client.machine === "" || client.machine === state.machine || client.bootId === state.bootId;
  if (!isIts) return yield* kept("is not known to be the machine that had it");
  const { watchers } = yield* stage("look for users", (yield* Rbd).imageStatus(image.pool, image.imageName));
  const its = watchers.find((watcher) => isOf(client, watcher));
  if (its === undefined) return yield* stage("forget client", forgetClient(image, nodeId, client));
  yield* kept(`still has it open as ${its}, and is not out of service`);
});

const HOW_TO_FENCE = `If the node is lost, shut it down and taint it (node.kubernetes.io/out-of-service): the client is fenced when the volume is attached next. By hand "ceph osd blocklist add CLIENT ${FENCE_SECONDS}" fences it`;

/** Fails if a node that is out of service may have the volume, although it has left no record. */
const proveNotThere = Effect.fnUntraced(function* (
  image: RecordedImage,
  nodeId: string,
  { clients, fenced }: Records,
  mirrorDaemons: number,
) {
  const { volumeId, pool, imageName } = image;
  const state = yield* stage("look at node", (yield* Kubernetes).node(nodeId));
  if (state?.outOfService !== true) return;
  const status = yield* stage("look for users", (yield* Rbd).imageStatus(pool, imageName));
  // Not those of a whole address: while that is fenced nobody there has a watch, and whether it still is, is not known.
  const known = [...clients, ...fenced.filter(({ client }) => isOneClient(client)).map(asExact)];
  const watchers = status.watchers.filter((watcher) => !known.some((client) => isOf(client, watcher)));
  const others = otherWatchers({ ...status, watchers }, { mirrorDaemons });
  if (others.length > 0) {
    const clientIds = others.map((watcher) => clientOf(watcher) ?? watcher);
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem: `stays with node ${nodeId}, which is out of service and has left no record of its client: ${others.join(", ")} has image ${imageLabel(pool, imageName)} open, and may be that node`,
      remedy: `Nodes record themselves if they run with --enable-fencing. A node that is off loses its watch within a minute. If one of these is of node ${nodeId}, fence it: ${clientIds.map((each) => `"ceph osd blocklist add ${each} ${FENCE_SECONDS}"`).join(", ")}`,
      holders: others,
    });
  }
  if (fenced.some((each) => each.nodeId === nodeId)) return;
  yield* remark([
    `volume ${volumeId} is detached from node ${nodeId}, which is out of service, and nothing was fenced: the node has left no record of a client, and nobody unknown has the image open`,
  ]);
});

const asExact = ({ client }: FencedClient) => ({ client, exact: true });

const addressOf = (client: string): string => client.slice(0, client.lastIndexOf(":"));

/** Whether the watcher is the client that was recorded or, of a record without a nonce, one from its address. */
const isOf = ({ client, exact }: Pick<ClientRecord, "client" | "exact">, watcher: string): boolean => {
  const its = clientOf(watcher);
  if (its === undefined) return false;
  return exact ? its === client : addressOf(its) === addressOf(client);
};

/** Fails if the node is out of service. -> its state; `undefined`: it does not exist, or all nodes are meant. */
const proveInService = Effect.fnUntraced(function* (
  { volumeId, nodeId }: DetachRequest,
  { reason, remedy }: { readonly reason: string; readonly remedy: string },
) {
  const state = nodeId === "" ? undefined : yield* stage("look at node", (yield* Kubernetes).node(nodeId));
  if (state?.outOfService !== true) return state;
  return yield* new Precondition({
    subject: `volume ${volumeId}`,
    problem: `stays with node ${nodeId}, which is out of service and may still write to it: it cannot be fenced, because ${reason}`,
    remedy,
  });
});

/** Without credentials nothing can be fenced, and nothing needs to be while the node is in service. */
const detachWithoutCredentials = Effect.fnUntraced(function* (request: DetachRequest) {
  const { volumeId, nodeId } = request;
  const reason = "there are no credentials for it";
  const state = yield* proveInService(request, { reason, remedy: HOW_TO_GIVE_CREDENTIALS });
  if (state !== undefined || nodeId === "") return;
  yield* remark([
    `volume ${volumeId} is detached from node ${nodeId}, which does not exist, and was not fenced: ${reason}. ${HOW_TO_GIVE_CREDENTIALS}`,
  ]);
});

/** Of a cluster that is not configured any more nobody here can ask anything: else the attachment would never end. */
const detachUnconfigured = Effect.fnUntraced(function* (request: DetachRequest, { clusterId, message }: ConfigMissing) {
  const { volumeId, nodeId } = request;
  const state = yield* proveInService(request, {
    reason: `cluster ${clusterId} is not configured: ${message}`,
    remedy: `If cluster ${clusterId} is gone for good, delete the Node object, or remove the out-of-service taint once the node is off: then the volume is detached without a fence`,
  });
  const gone = nodeId !== "" && state === undefined ? ", which does not exist" : "";
  yield* remark([
    `volume ${volumeId} is detached from ${nodeId === "" ? "all nodes" : `node ${nodeId}`}${gone}, and was not fenced, nor was a fence lifted, because cluster ${clusterId} is not configured: ${message}. Make sure that a lost node is off before you configure the cluster again`,
  ]);
});
