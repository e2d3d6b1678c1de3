/**
 * One page of a journal's names, over clusters and pools, as what they stand for.
 *
 * Not here: what that is (./volumes.ts, ./snapshots.ts).
 *
 * 1. What is there from before the first page until after the last is listed exactly once: clusters, pools and names
 *    have one order, in which no change of anything else moves them.
 * 2. Looked into are the pools given to RBD that have a journal of this driver. One that the user may not read is passed
 *    over, unless the administrator has named it, or all are such.
 * 3. The work for a page depends on its size, not on how many there are.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import { AccessDenied, type CephError, PoolNotFound } from "../ceph/errors.ts";
import { type ClusterAccess, type PoolRef, Rados } from "../ceph/rados.ts";
import type { Cluster } from "../config/clusters.ts";
import { type Kind, listNames } from "../journal/journal.ts";
import { clusterAccess } from "../journal/locate.ts";
import type { Reach } from "./cluster-credentials.ts";
import type { Position } from "./page-token.ts";

/** The most entries of one page, also when the caller sets no limit: clients take messages of a few MiB only. */
export const LARGEST_PAGE = 1000;
/** A page of a few is not worth a question each. */
const FEWEST_NAMES = 64;

export interface Place {
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly poolId: bigint;
  /** The pools of the cluster, for journals that name another. */
  readonly poolNames: ReadonlyMap<bigint, string>;
}

/** A name of the journal that leads somewhere. */
export interface Name {
  readonly requestName: string;
  readonly uuid: string;
  /** Of the image, where it is not the journal's. */
  readonly imagePoolId: bigint | undefined;
}

export interface Page<A> {
  readonly entries: readonly A[];
  readonly next: Position | undefined;
}

export interface PageRequest<A, E, R> {
  readonly kind: Kind;
  readonly instanceId: string;
  readonly after: Position | undefined;
  readonly limit: number;
  /** What the names stand for, in their order; `undefined` for one that stands for nothing. */
  readonly describe: (place: Place, names: readonly Name[]) => Effect.Effect<readonly (A | undefined)[], E, R>;
}

/** Entries up to the limit, and the position of the last name that was looked at. */
class Filling<A> {
  readonly entries: A[] = [];
  at: Position | undefined;

  constructor(readonly limit: number) {}

  get room(): number {
    return this.limit - this.entries.length;
  }
}

export const pageOf = <A, E, R, E2, R2>(
  clusters: readonly Cluster[],
  reach: (cluster: Cluster) => Effect.Effect<Reach, E2, R2>,
  request: PageRequest<A, E, R>,
): Effect.Effect<Page<A>, E | E2 | CephError, R | R2 | Ceph> =>
  Effect.gen(function* () {
    const filling = new Filling<A>(request.limit);
    for (const cluster of clusters) {
      const more = yield* fromCluster(yield* reach(cluster), request, filling);
      if (more) return { entries: filling.entries, next: filling.at };
    }
    return { entries: filling.entries, next: undefined };
  });

/** -> whether there are more names than the page has room for. */
const fromCluster = <A, E, R>({ cluster, secret }: Reach, request: PageRequest<A, E, R>, filling: Filling<A>) =>
  Effect.gen(function* () {
    const access = clusterAccess(cluster, secret.credentials);
    const after = request.after?.clusterId === cluster.clusterId ? request.after : undefined;
    const poolNames = yield* poolsOf(access);
    let denied: AccessDenied | undefined;
    let looked = after !== undefined;
    for (const [poolId, name] of yield* chosen(poolNames, secret.pools)) {
      if (after !== undefined && poolId < after.poolId) continue;
      const pool: PoolRef = { access, pool: name, namespace: cluster.radosNamespace };
      const from = after?.poolId === poolId ? after.requestName : "";
      const found = yield* fromPool({ cluster, pool, poolId, poolNames }, from, request, filling);
      if (found === true) return true;
      if (found === false) looked = true;
      else if (secret.pools !== undefined) return yield* Effect.fail(found);
      else if (found instanceof AccessDenied) denied ??= found;
      // Without the namespace, or removed just now.
      else if (!(found instanceof PoolNotFound)) return yield* Effect.fail(found);
    }
    return denied === undefined || looked ? false : yield* denied;
  });

/** By id, in their order. */
const poolsOf = (access: ClusterAccess) =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(rados.pools(access), (pools) => new Map(pools.map(({ id, name }) => [id, name] as const))),
  );

const chosen = (pools: ReadonlyMap<bigint, string>, only: readonly string[] | undefined) => {
  const names = new Set(pools.values());
  const missing = only?.find((name) => !names.has(name));
  if (missing !== undefined) return Effect.fail(new PoolNotFound({ op: "list pools", subject: missing }));
  const wanted = [...pools].filter(([, name]) => only === undefined || only.includes(name));
  return Effect.succeed(wanted.toSorted(([a], [b]) => (a < b ? -1 : 1)));
};

/** -> whether there are more names than the page has room for, or why the pool can't be looked into. */
const fromPool = <A, E, R>(place: Place, from: string, request: PageRequest<A, E, R>, filling: Filling<A>) =>
  Effect.gen(function* () {
    const { kind, instanceId, describe } = request;
    const { cluster, pool, poolId } = place;
    // One more than fits tells whether there are more.
    const asked = () => Math.max(filling.room + 1, FEWEST_NAMES);
    const list = (after: string, limit: number) => listNames(kind, pool, instanceId, after, limit);
    let limit = asked();
    const first = yield* Effect.result(list(from, limit));
    if (Result.isFailure(first)) return first.failure;
    let listed = first.success;
    for (let after = from; listed !== undefined; ) {
      for (let at = 0; at < listed.length; ) {
        if (filling.room === 0) return true;
        const part = listed.slice(at, at + filling.room);
        const names = part.flatMap(({ requestName, place: to }) => (to === undefined ? [] : [{ requestName, ...to }]));
        const found = yield* describe(place, names);
        filling.entries.push(...found.filter((entry) => entry !== undefined));
        at += part.length;
        after = part.at(-1)?.requestName ?? after;
        filling.at = { clusterId: cluster.clusterId, poolId, requestName: after };
      }
      if (listed.length < limit) return false;
      limit = asked();
      listed = yield* list(after, limit);
    }
    return false;
  });
