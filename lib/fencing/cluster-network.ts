/**
 * NetworkFence of CSI-Addons: has a cluster refuse all clients of networks, and lifts that again.
 *
 * Not here: the clients of lost nodes, which the driver fences by itself (./fence.ts).
 *
 * 1. A fence is proven, as that of a lost node: by an answer from every OSD with the newest map, in every pool for RBD into
 *    which the user may look. That a user may not look into a pool is no failure. Nor is it that OSDs of a pool do not answer,
 *    if another pool proves the fence: a network is fenced in a disaster, when any pool may be degraded. The log names those
 *    pools.
 * 2. Only networks are lifted. An entry of one client, or of one whole address, stays: it may be that of a lost node, which
 *    this driver has fenced by its address if ceph-csi had recorded it. The log names whole addresses in the network.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Blocklist, type Blocked, FENCE_SECONDS } from "../ceph/blocklist.ts";
import type { CephError } from "../ceph/errors.ts";
import { type ClusterAccess, Rados } from "../ceph/rados.ts";
import { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, NotReadyYet } from "../csi/errors.ts";
import { isOneClient } from "../journal/client-records.ts";
import { clusterAccess } from "../journal/locate.ts";
import { stage } from "../operations/pipeline.ts";
import { remark } from "../operations/remark.ts";
import { contains, formatNetwork, type Network, networkOfClient, parseNetwork, sameNetwork } from "./network.ts";

export interface ClusterFence {
  readonly clusterId: string;
  readonly credentials: Credentials;
}
export interface NetworkFence extends ClusterFence {
  readonly networks: readonly Network[];
}

type Failure = CephError | ConfigError | NotReadyYet;
type Needs = Blocklist | Clusters | Rados;

export const readNetworks = (cidrs: readonly string[]): Result.Result<readonly Network[], InvalidRequest> => {
  const refuse = (field: string, reason: string) => Result.fail(new InvalidRequest({ field, reason }));
  if (cidrs.length === 0) return refuse("cidrs", "is missing");
  const networks: Network[] = [];
  for (const [at, cidr] of cidrs.entries()) {
    const network = parseNetwork(cidr);
    if (network === undefined) return refuse(`cidrs[${at}]`, "must be a network such as 10.0.0.0/24 or fd00::/64");
    networks.push(network);
  }
  return Result.succeed(networks);
};

const accessOf = Effect.fnUntraced(function* ({ clusterId, credentials }: ClusterFence) {
  return clusterAccess(yield* (yield* Clusters).get(clusterId), credentials);
});

/** The network that an entry refuses; `undefined`: it is for one client. */
const networkOf = ({ kind, address }: Blocked): Network | undefined => {
  if (kind === "range") return parseNetwork(address);
  return isOneClient(address) ? undefined : networkOfClient(address);
};

export const fenceNetworks = Effect.fn("fencing.fenceNetworks")(function* (
  request: NetworkFence,
): Effect.fn.Return<void, Failure, Needs> {
  const access = yield* accessOf(request);
  const blocklist = yield* Blocklist;
  const { networks } = request;
  for (const network of networks) {
    const blocked: Blocked = { kind: "range", address: formatNetwork(network) };
    yield* stage("fence", blocklist.blocklistAdd(access, blocked, FENCE_SECONDS));
  }
  const listed = yield* stage("read blocklist", blocklist.blocklist(access));
  const isGone = new NotReadyYet({
    subject: `cluster ${request.clusterId}`,
    problem: "does not have the networks that were fenced on its blocklist any more",
    remedy:
      'Look for whoever removes them, and whether this release of Ceph has networks ("ceph osd blocklist range"): it is the list that "ceph osd blocklist ls" shows. The automatic retry fences them again',
  });
  const entries = networks.flatMap((network) => {
    const entry = listed.find((each) => each.kind === "range" && isOf(network, each));
    return entry === undefined ? [] : [entry];
  });
  const [first] = entries;
  if (first === undefined || entries.length < networks.length) return yield* isGone;
  const { address } = yield* stage("identify", blocklist.clusterIdentity(access));
  const own = ownNetworks(address);
  if (networks.some((network) => own.some((each) => contains(network, each)))) {
    return yield* Effect.logWarning(
      `the driver's own address ${address} is in a network that was fenced: it cannot prove the fence, and serves no volume of cluster ${request.clusterId} until that is lifted`,
    );
  }
  yield* stage("prove fence", proveReached(access, first, isGone));
});

const isOf = (network: Network, entry: Blocked): boolean => {
  const its = networkOf(entry);
  return its !== undefined && sameNetwork(network, its);
};

/** A pool whose OSDs do not answer takes half a minute. */
const POOLS_AT_ONCE = 4;

/** Whoever knows one entry of a map knows all of them. */
const proveReached = Effect.fnUntraced(function* (access: ClusterAccess, entry: Blocked, isGone: NotReadyYet) {
  const { blocklistReached } = yield* Blocklist;
  const looks = yield* Effect.forEach(
    yield* (yield* Rados).pools(access),
    ({ name: pool }) =>
      blocklistReached({ access, pool, namespace: "" }, entry).pipe(
        Effect.catchTag(["AccessDenied", "PoolNotFound"], () => Effect.succeed(undefined)),
        Effect.result,
        Effect.map((look) => ({ pool, look })),
      ),
    { concurrency: POOLS_AT_ONCE },
  );
  if (looks.some(({ look }) => Result.isSuccess(look) && look.success === false)) return yield* isGone;
  const failed = looks.flatMap(({ pool, look }) => (Result.isFailure(look) ? [{ pool, error: look.failure }] : []));
  const broken = failed.find(({ error }) => !isSilence(error));
  if (broken !== undefined) return yield* broken.error;
  const [silent] = failed;
  if (silent === undefined) return;
  if (!looks.some(({ look }) => Result.isSuccess(look) && look.success === true)) return yield* silent.error;
  yield* remark([
    `the fence is on the list and proven in another pool, but not in ${failed.map(({ pool }) => pool).join(", ")}, of which not every OSD answers: one that is away for the driver alone may still serve a fenced client there. Look at "ceph -s", and fence once more when it is well`,
  ]);
});

/** It is the OSDs of the pool that do not answer, not the monitors. */
const isSilence = (error: CephError): boolean => error._tag === "TimedOut" && error.op === "rados_stat";

export const unfenceNetworks = Effect.fn("fencing.unfenceNetworks")(function* (
  request: NetworkFence,
): Effect.fn.Return<void, Failure, Needs> {
  const access = yield* accessOf(request);
  const blocklist = yield* Blocklist;
  const left: string[] = [];
  for (const entry of yield* stage("read blocklist", blocklist.blocklist(access))) {
    const its = networkOf(entry);
    if (its === undefined) continue;
    if (entry.kind === "client") {
      if (request.networks.some((network) => contains(network, its))) left.push(entry.address);
    } else if (request.networks.some((network) => sameNetwork(network, its))) {
      yield* stage("lift fence", blocklist.blocklistRemove(access, entry));
    }
  }
  if (left.length === 0) return;
  yield* remark([
    `${left.join(", ")} in ${request.networks.map(formatNetwork).join(", ")} stays fenced, because it may be a lost node's. If you are sure that it is not, "ceph osd blocklist rm ADDRESS" lifts it`,
  ]);
});

/** -> the networks whose clients are refused, each once. */
export const fencedNetworks = Effect.fn("fencing.fencedNetworks")(function* (
  request: ClusterFence,
): Effect.fn.Return<readonly string[], Failure, Needs> {
  const listed = yield* (yield* Blocklist).blocklist(yield* accessOf(request));
  return [...new Set(listed.flatMap((entry) => networkOf(entry) ?? []).map(formatNetwork))];
});

/** -> which cluster it is, and from where this process reaches it. */
export const fenceClients = Effect.fn("fencing.fenceClients")(function* (
  request: ClusterFence,
): Effect.fn.Return<{ readonly fsid: string; readonly networks: readonly string[] }, Failure, Needs> {
  const { fsid, address } = yield* (yield* Blocklist).clusterIdentity(yield* accessOf(request));
  return { fsid, networks: ownNetworks(address).map(formatNetwork) };
});

/** Of `10.0.0.1:0/3412`, or of several addresses in brackets: `[v2:10.0.0.1:0/3412,v1:10.0.0.1:0/3412]`. */
const ownNetworks = (address: string): readonly Network[] => {
  const networks = address
    .replace(/^\[(?=v\d:)(.*)\]$/, "$1")
    .split(",")
    .flatMap((each) => networkOfClient(each) ?? []);
  return networks.filter((network, at) => networks.findIndex((each) => sameNetwork(each, network)) === at);
};
