/**
 * One page of the journal's names, over clusters and pools, described as volumes or snapshots.
 *
 * Not here: how a name is described (./volumes.ts, ./snapshots.ts).
 *
 * 1. What exists from before the first page until after the last is listed exactly once: clusters, pools and names have
 *    one order, in which no change of anything else moves them.
 * 2. A list looks into the pools that are given to RBD and have a journal of this driver. A pool that the user must not
 *    read is passed over, unless the administrator has named it, or no pool can be read.
 * 3. The work for a page depends on its size, not on how many volumes there are. A page of what few names stand for ends
 *    after so many names, even with no entry: its token leads on.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type AccessDenied, type CephError, PoolNotFound } from "../ceph/errors.ts";
import { type ClusterAccess, type PoolRef, Rados } from "../ceph/rados.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import type { Precondition } from "../csi/errors.ts";
import { type Kind, type ListedName, listNames } from "../journal/journal.ts";
import { clusterAccess } from "../journal/locate.ts";
import { type ClusterWithSecret, clusterWithSecret } from "./cluster-credentials.ts";
import type { Position } from "./page-token.ts";

/** The most entries of one page, also when the caller sets no limit: clients take messages of a few MiB only. */
const LARGEST_PAGE = 1000;
/** The fewest names to ask for at once: a page of a few entries does not need a call for each of them. */
const FEWEST_NAMES = 64;

/** A pool that has a journal. */
export interface JournalPool {
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly poolId: bigint;
  /** The pools of the cluster, for journals that name another. */
  readonly poolNames: ReadonlyMap<bigint, string>;
}

/** A name of the journal that has a UUID. */
export interface JournalName {
  readonly requestName: string;
  readonly uuid: string;
  /** The pool of the image, if it is not that of the journal. */
  readonly imagePoolId: bigint | undefined;
}

export interface Page<A> {
  readonly entries: readonly A[];
  /** Absent: this is the last page. */
  readonly next: Position | undefined;
}

export interface PageSpec<A, E, R> {
  readonly kind: Kind;
  readonly clusters: readonly Cluster[];
  /** Credentials of the request, for clusters that the administrator has given none for. */
  readonly credentials: Credentials | undefined;
  readonly after: Position | undefined;
  /** 0: as many as a page takes. */
  readonly maxEntries: number;
  /** Whether most names stand for nothing: a page then looks at many at once, whatever its size, and at so many in all. */
  readonly sparse?: boolean;
  /** What the names stand for, in their order; `undefined` for a name that stands for nothing. */
  readonly describe: (
    journal: JournalPool,
    names: readonly JournalName[],
  ) => Effect.Effect<readonly (A | undefined)[], E, R>;
}

/** Entries up to the limit, and the position of the last name that was looked at. */
class PageInProgress<A> {
  readonly entries: A[] = [];
  last: Position | undefined;
  private seen = 0;

  constructor(
    readonly limit: number,
    readonly sparse: boolean,
  ) {}

  get room(): number {
    return this.limit - this.entries.length;
  }

  /** How many names to look at next. */
  get names(): number {
    return this.sparse ? LARGEST_PAGE - this.seen : this.room;
  }

  get full(): boolean {
    return this.room === 0 || this.names === 0;
  }

  /** How many names to ask for: one more than fits, because it shows whether there are more. */
  get namesToAsk(): number {
    return Math.max(this.names + 1, FEWEST_NAMES);
  }

  /** Takes the entries that these names stand for, as far as there is room; -> the last name that it got to. */
  take(names: readonly string[], found: readonly { readonly requestName: string; readonly entry: A }[]): string {
    const taken = found.slice(0, this.room);
    this.entries.push(...taken.map(({ entry }) => entry));
    this.seen += names.length;
    return (taken.length < found.length ? taken.at(-1)?.requestName : names.at(-1)) ?? "";
  }
}

/** Whether the page has no room for names that are left. */
interface Filled {
  readonly full: boolean;
}

export type PageError = CephError | ConfigError | Precondition;

export const pageOf = Effect.fn("listing.pageOf")(function* <A, E, R>(
  spec: PageSpec<A, E, R>,
): Effect.fn.Return<Page<A>, E | PageError, R | Rados | Clusters | ClusterSecrets | DriverSettings> {
  const limit = spec.maxEntries === 0 ? LARGEST_PAGE : Math.min(spec.maxEntries, LARGEST_PAGE);
  const page = new PageInProgress<A>(limit, spec.sparse ?? false);
  for (const cluster of spec.clusters) {
    const { full } = yield* fillFromCluster(yield* clusterWithSecret(cluster.clusterId, spec.credentials), spec, page);
    if (full) return { entries: page.entries, next: page.last };
  }
  return { entries: page.entries, next: undefined };
});

const fillFromCluster = Effect.fnUntraced(function* <A, E, R>(
  { cluster, secret }: ClusterWithSecret,
  spec: PageSpec<A, E, R>,
  page: PageInProgress<A>,
): Effect.fn.Return<Filled, E | CephError, R | Rados | DriverSettings> {
  const access = clusterAccess(cluster, secret.credentials);
  const after = spec.after?.clusterId === cluster.clusterId ? spec.after : undefined;
  const poolNames = yield* poolsById(access);
  let denied: AccessDenied | undefined;
  let anyRead = after !== undefined;
  for (const [poolId, name] of yield* choosePools(poolNames, secret.pools)) {
    if (after !== undefined && poolId < after.poolId) continue;
    const journal = { cluster, pool: { access, pool: name, namespace: cluster.radosNamespace }, poolId, poolNames };
    const from = after?.poolId === poolId ? after.requestName : "";
    const first = yield* Effect.result(namesAfter(journal, from, spec.kind, page));
    if (Result.isFailure(first)) {
      const error = first.failure;
      const unreadable = error._tag === "AccessDenied" || error._tag === "PoolNotFound";
      if (secret.pools !== undefined || !unreadable) return yield* error;
      // Passed over: the user must not read the pool, or the pool lacks the namespace, or was removed just now.
      if (error._tag === "AccessDenied") denied ??= error;
      continue;
    }
    anyRead = true;
    if ((yield* fillFromPool(journal, first.success, spec, page)).full) return { full: true };
  }
  return denied === undefined || anyRead ? { full: false } : yield* denied;
});

const poolsById = (access: ClusterAccess) =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(rados.pools(access), (pools) => new Map(pools.map(({ id, name }) => [id, name] as const))),
  );

/** The pools to look into, in the order of their ids. */
const choosePools = (
  pools: ReadonlyMap<bigint, string>,
  only: readonly string[] | undefined,
): Effect.Effect<readonly (readonly [bigint, string])[], PoolNotFound> => {
  const names = new Set(pools.values());
  const missing = only?.find((name) => !names.has(name));
  if (missing !== undefined) return Effect.fail(new PoolNotFound({ op: "list pools", subject: missing }));
  const chosen = [...pools].filter(([, name]) => only === undefined || only.includes(name));
  return Effect.succeed(chosen.toSorted(([a], [b]) => (a < b ? -1 : 1)));
};

interface NamesInOrder {
  readonly names: readonly ListedName[];
  /** Whether there may be names after these. */
  readonly more: boolean;
}

const namesAfter = <A>({ pool }: JournalPool, requestName: string, kind: Kind, { namesToAsk }: PageInProgress<A>) =>
  Effect.flatMap(DriverSettings, ({ instanceId }) =>
    Effect.map(
      listNames(kind, pool, instanceId, requestName, namesToAsk),
      (names = []): NamesInOrder => ({ names, more: names.length === namesToAsk }),
    ),
  );

const fillFromPool = Effect.fnUntraced(function* <A, E, R>(
  journal: JournalPool,
  first: NamesInOrder,
  spec: PageSpec<A, E, R>,
  page: PageInProgress<A>,
): Effect.fn.Return<Filled, E | CephError, R | Rados | DriverSettings> {
  for (let { names, more } = first; ; ) {
    if ((yield* fillFromNames(journal, names, spec, page)).full) return { full: true };
    const last = names.at(-1);
    if (!more || last === undefined) return { full: false };
    ({ names, more } = yield* namesAfter(journal, last.requestName, spec.kind, page));
  }
});

const fillFromNames = Effect.fnUntraced(function* <A, E, R>(
  journal: JournalPool,
  names: readonly ListedName[],
  { describe }: PageSpec<A, E, R>,
  page: PageInProgress<A>,
): Effect.fn.Return<Filled, E, R> {
  for (let rest = names; rest.length > 0; ) {
    if (page.full) return { full: true };
    const part = rest.slice(0, page.names);
    const named = part.flatMap(({ requestName, place }) => (place === undefined ? [] : [{ requestName, ...place }]));
    const described = yield* describe(journal, named);
    const found = named.flatMap(({ requestName }, i) => {
      const entry = described[i];
      return entry === undefined ? [] : [{ requestName, entry }];
    });
    const all = part.map(({ requestName }) => requestName);
    const last = page.take(all, found);
    page.last = { clusterId: journal.cluster.clusterId, poolId: journal.poolId, requestName: last };
    if (last !== all.at(-1)) return { full: true };
    rest = rest.slice(part.length);
  }
  return { full: false };
});
