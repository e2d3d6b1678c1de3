/**
 * What the driver asks of a Ceph cluster: one Effect service, `Ceph`, with two implementations of one contract
 * (tests/contract): ./live.ts over librados and librbd, ./memory.ts for tests.
 *
 * Not here: anything of CSI. Names are RADOS's and RBD's.
 *
 * 1. Every method is one blocking call in a cell and counts as one in the call budget of an RPC.
 * 2. Absence is a value (`undefined`) or a typed error, never inferred from another failure.
 * 3. No image shrinks: there is `imageGrow` and no resize.
 * 4. No image is removed but through the trash.
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

export interface ImageSpec {
  readonly sizeBytes: bigint;
  /** Exact feature bits; absent: the cluster's `rbd_default_features`. */
  readonly features?: bigint;
  readonly dataPool?: string;
  readonly stripeUnit?: bigint;
  readonly stripeCount?: bigint;
  /** Bytes, a power of two. */
  readonly objectSize?: bigint;
}

export interface ImageStatus {
  /** librbd's internal id, as in `rbd_header.<id>`. */
  readonly id: string;
  readonly sizeBytes: bigint;
  readonly features: bigint;
  readonly objectSize: bigint;
  readonly stripeUnit: bigint;
  readonly stripeCount: bigint;
  /** The pool that holds the data when it is not the image's own. */
  readonly dataPool: string | undefined;
  /** Clients that have the image open for use, this call's own handle not counted: `address/client.N`. */
  readonly watchers: readonly string[];
  readonly mirror: "disabled" | "primary" | "non-primary";
}

export interface TrashEntry {
  readonly id: string;
  readonly name: string;
  /** Who put it there; only `user` entries are ever ours to remove. */
  readonly source: "user" | "mirroring" | "migration" | "other";
}

export interface CephService {
  /** -> pool id. `PoolNotFound` when there is none of that name. */
  readonly poolId: (access: ClusterAccess, pool: string) => Effect.Effect<bigint, CephError>;
  readonly poolName: (access: ClusterAccess, id: bigint) => Effect.Effect<string, CephError>;

  /** Keyed read. `undefined`: the object does not exist. Keys that are absent are absent in the answer. */
  readonly omapGet: (
    pool: PoolRef,
    object: string,
    keys: readonly string[],
  ) => Effect.Effect<ReadonlyMap<string, string> | undefined, CephError>;
  readonly omapWrite: (pool: PoolRef, object: string, write: OmapWrite) => Effect.Effect<void, CephError>;
  /** Removing what is not there succeeds. */
  readonly objectRemove: (pool: PoolRef, object: string) => Effect.Effect<void, CephError>;

  /** `Exists` when the name is taken. */
  readonly imageCreate: (pool: PoolRef, image: string, spec: ImageSpec) => Effect.Effect<void, CephError>;
  /** -> internal id, or `undefined` when no image has that name. One keyed read; the image is not opened. */
  readonly imageId: (pool: PoolRef, image: string) => Effect.Effect<string | undefined, CephError>;
  readonly imageStatus: (pool: PoolRef, image: string) => Effect.Effect<ImageStatus, CephError>;
  /** Grows to `sizeBytes` if the image is smaller; -> the size that it has then. Never shrinks. */
  readonly imageGrow: (pool: PoolRef, image: string, sizeBytes: bigint) => Effect.Effect<bigint, CephError>;
  /**
   * For an image whose creation or move to the trash may have been cut off by a crash of the client: rebuilds a missing
   * object map (the kernel would not map the image), and takes away a name (`rbd_id.<name>`, the entry in
   * `rbd_directory`) that leads to no header, so that the name can be created again. Touches no image that is whole,
   * and no data. -> whether an image of that name is there now.
   */
  readonly imageMend: (pool: PoolRef, image: string) => Effect.Effect<boolean, CephError>;
  /** Whether any extent of the image, or of a parent of it, is allocated. */
  readonly imageHasData: (pool: PoolRef, image: string) => Effect.Effect<boolean, CephError>;
  readonly imageMetaGet: (pool: PoolRef, image: string, key: string) => Effect.Effect<string | undefined, CephError>;
  /** All keys in one opening of the image; `undefined` removes, and what is not there stays so. */
  readonly imageMetaSet: (
    pool: PoolRef,
    image: string,
    entries: Readonly<Record<string, string | undefined>>,
  ) => Effect.Effect<void, CephError>;

  /** `Busy` while somebody watches the image. */
  readonly trashMove: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  readonly trashGet: (pool: PoolRef, id: string) => Effect.Effect<TrashEntry | undefined, CephError>;
  readonly trashList: (pool: PoolRef) => Effect.Effect<readonly TrashEntry[], CephError>;
  /** Frees the image's space. Long: as long as the image is big. For the purge queue only, never inside an RPC. */
  readonly trashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
  /** Has the manager do `trashRemove` in its own time. Done when the manager has taken it. */
  readonly managerTrashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
}

export class Ceph extends Context.Service<Ceph, CephService>()("csi-rbd/Ceph") {}

export const imageSubject = (pool: PoolRef, image: string): string =>
  pool.namespace === "" ? `${pool.pool}/${image}` : `${pool.pool}/${pool.namespace}/${image}`;
