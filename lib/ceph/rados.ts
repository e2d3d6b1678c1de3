/**
 * `Rados`: pools and objects of a Ceph cluster, as an Effect service.
 *
 * Not here: images (./rbd.ts) and the manager's queue (./manager.ts); how a call is made (./live) and the model of it
 * that tests use.
 *
 * 1. Every method is one blocking call in a cell and counts as one in the call budget of an RPC.
 * 2. Absence is a value (`undefined`) or a typed error. No other failure is read as absence.
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

/** One atomic write on the omap of one object. The parts apply in this order; if one fails, nothing is written. */
export interface OmapWrite {
  /** `exclusive`: `Exists` if the object exists. `ensure`: creates it if it does not. `require`: `ObjectNotFound` if not. */
  readonly object: "exclusive" | "ensure" | "require";
  /** Values that must be there now, else `Raced`. `""` stands for an absent key, too. */
  readonly compare?: Readonly<Record<string, string>>;
  readonly set?: Readonly<Record<string, string>>;
  readonly remove?: readonly string[];
  /** Also in a full pool, where an OSD creates no object. For what makes a removal possible. */
  readonly evenIfFull?: true;
}

/** A lock on an object: of that name, held by that cookie of this client. */
export interface ObjectLock {
  readonly name: string;
  readonly cookie: string;
  readonly seconds: number;
}

/** How a value names another object: `prefix`, then the last `tail` characters of the value. `keys` are read of it. */
export interface OmapLink {
  readonly prefix: string;
  readonly tail: number;
  readonly keys: readonly string[];
}

/** Journal and images are to be kept in the pool, and the data of images in `dataPool` if it is there. */
export interface PoolUse {
  readonly dataPool: string | undefined;
}

export interface PoolSpace {
  /**
   * Bytes that clients can still write. Replication, erasure coding and the quota of the pool are taken into account.
   * `undefined`: the monitors do not know yet, for some seconds after the pool was made.
   */
  readonly availableBytes: bigint | undefined;
}

export interface RadosCalls {
  /**
   * Gives the id of a pool; `PoolNotFound` if no pool has that name. `use`: also proves, by what the monitors know of the
   * pools and without a word to an OSD, that they fit; `PoolUnfit` if not. If the monitors do not tell, it is not proven.
   */
  readonly poolId: (access: ClusterAccess, pool: string, use?: PoolUse) => Effect.Effect<bigint, CephError>;
  readonly poolName: (access: ClusterAccess, id: bigint) => Effect.Effect<string, CephError>;
  /** Reads some keys. `undefined`: the object does not exist. An absent key is absent in the answer. */
  readonly omapGet: (
    pool: PoolRef,
    object: string,
    keys: readonly string[],
  ) => Effect.Effect<ReadonlyMap<string, string> | undefined, CephError>;
  /**
   * Reads one key and, in the same call, the object that its value names. `undefined`: the first object, or the key, does
   * not exist. `found` is `undefined` if the second object does not exist. The key may be in one of `parts` as well: see
   * `omapList`. `object` is where it is.
   */
  readonly omapFollow: (
    pool: PoolRef,
    object: string,
    key: string,
    to: OmapLink,
    parts?: readonly string[],
  ) => Effect.Effect<
    | { readonly object: string; readonly value: string; readonly found: ReadonlyMap<string, string> | undefined }
    | undefined,
    CephError
  >;
  readonly omapWrite: (pool: PoolRef, object: string, write: OmapWrite) => Effect.Effect<void, CephError>;
  /**
   * Locks an object for that many seconds, and creates it if it does not exist; whoever has the lock renews it. `Busy` while
   * another client has it, or this one under another cookie. Only other calls of this kind heed it.
   */
  readonly objectLock: (pool: PoolRef, object: string, lock: ObjectLock) => Effect.Effect<void, CephError>;
  /** Removes an object, and with it its locks. Succeeds if it does not exist. */
  readonly objectRemove: (pool: PoolRef, object: string) => Effect.Effect<void, CephError>;
  /** Lists the pools that an administrator has given to RBD. */
  readonly pools: (
    access: ClusterAccess,
  ) => Effect.Effect<readonly { readonly id: bigint; readonly name: string }[], CephError>;
  /** Reads what the monitors know, which is some seconds old; 0 for a pool that is newer than that. */
  readonly poolSpace: (access: ClusterAccess, pool: string) => Effect.Effect<PoolSpace, CephError>;
  /**
   * Lists keys that begin with `prefix` and follow `after` in byte order, at most `limit`. `undefined`: no such object.
   * `parts`: further objects with keys of the same omap. The first one may take a minute to be seen.
   */
  readonly omapList: (
    pool: PoolRef,
    object: string,
    page: { readonly prefix: string; readonly after: string; readonly limit: number },
    parts?: readonly string[],
  ) => Effect.Effect<ReadonlyMap<string, string> | undefined, CephError>;
  /** Does `omapGet` for many objects at once, in one call. The answers are in the order of `wanted`. */
  readonly omapGetMany: (
    pool: PoolRef,
    wanted: readonly { readonly object: string; readonly keys: readonly string[] }[],
  ) => Effect.Effect<readonly (ReadonlyMap<string, string> | undefined)[], CephError>;
}

export class Rados extends Context.Service<Rados, RadosCalls>()("csi-rbd/Rados") {}
