/**
 * `Blocklist`: the clients that a cluster's OSDs refuse, as an Effect service. That is how Ceph fences.
 *
 * Not here: whom to fence, and when (lib/fencing).
 *
 * 1. An entry is one client (`10.0.0.1:0/3412`: address and nonce, which a client has anew whenever it starts), or all
 *    clients of a range of addresses (`10.0.0.0/24`).
 * 2. An entry that is on the list refuses nothing by itself: each OSD refuses from the moment on at which it knows the list.
 *    `blocklistReached` proves that.
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type { CephError } from "./errors.ts";
import type { ClusterAccess, PoolRef } from "./rados.ts";

/** Five years: Ceph has no entry without an end. */
export const FENCE_SECONDS = 157_784_760;

export interface Blocked {
  readonly kind: "client" | "range";
  /** `10.0.0.1:0/3412`, `[fd00::1]:0/3412`; a nonce of 0 means every client of the address. Of a range: `10.0.0.0/24`. */
  readonly address: string;
}

export const blockedClient = (client: string): Blocked => ({ kind: "client", address: client });

/** The pools to which clients of an image write: a fence is proven for each. */
export const poolsWritten = (pool: PoolRef, dataPool: string | undefined): readonly PoolRef[] =>
  dataPool === undefined ? [pool] : [pool, { ...pool, pool: dataPool }];

/** Which cluster it is, and as which client this driver talks to it. */
export interface ClusterIdentity {
  readonly fsid: string;
  /** `10.0.0.1:0/3412`; with the newer protocol several, as `[v2:10.0.0.1:0/3412,v1:10.0.0.1:0/3412]`. */
  readonly address: string;
}

export interface BlocklistCalls {
  readonly blocklist: (access: ClusterAccess) => Effect.Effect<readonly Blocked[], CephError>;
  /** Adds an entry for that many seconds; one that is there already ends then, too. */
  readonly blocklistAdd: (access: ClusterAccess, blocked: Blocked, seconds: number) => Effect.Effect<void, CephError>;
  /** Succeeds if there is no such entry. A user with `profile rbd` alone gets `AccessDenied`. */
  readonly blocklistRemove: (access: ClusterAccess, blocked: Blocked) => Effect.Effect<void, CephError>;
  /**
   * Whether the entry is on the list and every OSD to which clients of the pool write knows it, so that each write is
   * refused from now on. Waits for OSDs that do not know it yet.
   */
  readonly blocklistReached: (pool: PoolRef, blocked: Blocked) => Effect.Effect<boolean, CephError>;
  readonly clusterIdentity: (access: ClusterAccess) => Effect.Effect<ClusterIdentity, CephError>;
}

export class Blocklist extends Context.Service<Blocklist, BlocklistCalls>()("csi-rbd/Blocklist") {}
