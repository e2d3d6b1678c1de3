/**
 * `Rados`: pools and objects of a Ceph cluster, as an Effect service.
 *
 * Not here: images (./rbd.ts) and the manager's queue (./manager.ts); how a call is made (./live) and the model of it
 * that tests use.
 *
 * 1. Every method is one blocking call in a cell and counts as one in the call budget of an RPC.
 * 2. Absence is a value (`undefined`) or a typed error. No other failure is ever read as absence.
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import type { CephError } from "./errors.ts";

/** How to reach a cluster and as whom. Equal values share one connection. */
export interface ClusterAccess {
  readonly monitors: readonly string[];
  /** cephx id, without `client.`. */
  readonly user: string;
  readonly key: Redacted.Redacted;
}

/** A pool and RADOS namespace ("" is the default one) of a cluster. */
export interface PoolRef {
  readonly access: ClusterAccess;
  readonly pool: string;
  readonly namespace: string;
}

/** One atomic write on one object's omap. The parts apply in this order; if one fails, nothing is written. */
export interface OmapWrite {
  /** `exclusive`: fail with `Exists` if the object is there. `ensure`: make it if need be. `require`: `ObjectNotFound` if absent. */
  readonly object: "exclusive" | "ensure" | "require";
  /** Values that must hold now, else `Raced`. `""` holds for an absent key too. */
  readonly compare?: Readonly<Record<string, string>>;
  readonly set?: Readonly<Record<string, string>>;
  readonly remove?: readonly string[];
}

/** How a value names another object: `prefix`, and the value's last `tail` characters. `keys`: what is read of it. */
export interface OmapLink {
  readonly prefix: string;
  readonly tail: number;
  readonly keys: readonly string[];
}

export interface PoolSpace {
  /** Bytes that clients can still write, replication or erasure coding and the pool's quota taken into account. */
  readonly availableBytes: bigint;
}

export interface RadosCalls {
  /** -> pool id. `PoolNotFound` when there is none of that name. */
  readonly poolId: (access: ClusterAccess, pool: string) => Effect.Effect<bigint, CephError>;
  readonly poolName: (access: ClusterAccess, id: bigint) => Effect.Effect<string, CephError>;
  /** Keyed read. `undefined`: the object does not exist. Keys that are absent are absent in the answer. */
  readonly omapGet: (
    pool: PoolRef,
    object: string,
    keys: readonly string[],
  ) => Effect.Effect<ReadonlyMap<string, string> | undefined, CephError>;
  /**
   * The value of one key, and, in the same call, what the object says that it leads to. `undefined`: no such object, or
   * no such key; `found` is `undefined` where it leads nowhere.
   */
  readonly omapFollow: (
    pool: PoolRef,
    object: string,
    key: string,
    to: OmapLink,
  ) => Effect.Effect<
    { readonly value: string; readonly found: ReadonlyMap<string, string> | undefined } | undefined,
    CephError
  >;
  readonly omapWrite: (pool: PoolRef, object: string, write: OmapWrite) => Effect.Effect<void, CephError>;
  /** Removing what is not there succeeds. */
  readonly objectRemove: (pool: PoolRef, object: string) => Effect.Effect<void, CephError>;
  /** Those that an administrator has given to RBD. */
  readonly pools: (
    access: ClusterAccess,
  ) => Effect.Effect<readonly { readonly id: bigint; readonly name: string }[], CephError>;
  /** From what the monitors know, some seconds old; nothing is known of a pool as new as that: 0. */
  readonly poolSpace: (access: ClusterAccess, pool: string) => Effect.Effect<PoolSpace, CephError>;
  /** Keys that begin with `prefix` and come after `after` in byte order, at most `limit`. `undefined`: no such object. */
  readonly omapList: (
    pool: PoolRef,
    object: string,
    page: { readonly prefix: string; readonly after: string; readonly limit: number },
  ) => Effect.Effect<ReadonlyMap<string, string> | undefined, CephError>;
  /** `omapGet` for many objects in one call, all under way at once; in the order asked for. */
  readonly omapGetMany: (
    pool: PoolRef,
    wanted: readonly { readonly object: string; readonly keys: readonly string[] }[],
  ) => Effect.Effect<readonly (ReadonlyMap<string, string> | undefined)[], CephError>;
}

export class Rados extends Context.Service<Rados, RadosCalls>()("csi-rbd/Rados") {}
