/**
 * `Rbd`: images, their snapshots, clones, groups and trash in a pool, as an Effect service.
 *
 * Not here: pools and objects (./rados.ts); work that the manager does (./manager.ts). Names are RBD's.
 *
 * 1. Every method is one blocking call in a cell and counts as one in the call budget of an RPC.
 * 2. Absence is a value (`undefined`) or a typed error. No other failure is ever read as absence.
 * 3. No image shrinks: there is `imageGrow` and no resize.
 * 4. An image is removed through the trash only.
 * 5. A clone is of format 2: its parent's snapshot needs no protection and may be "removed", which moves it to the
 *    snapshots' own trash until the last clone is gone or flattened.
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type { CephError } from "./errors.ts";
import type { PoolRef } from "./rados.ts";

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
  readonly parent: Parent | undefined;
  /** Of every kind, those in the snapshots' trash included. */
  readonly snapshotCount: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
}

/** Where the data that an image does not have itself comes from. */
export interface Parent {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  readonly imageId: string;
  /** The snapshot's name; of one in the snapshots' trash the name that librbd gave it there. */
  readonly snapshot: string;
  /** Whether the parent itself, not its snapshot alone, is in the trash. */
  readonly inTrash: boolean;
}

export interface Snapshot {
  readonly id: bigint;
  readonly name: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** `user`: made by name. `group`: a member of a group's. `trash`: removed, but it has clones. */
  readonly kind: "user" | "group" | "trash" | "other";
  /** In the trash: the name that it had. */
  readonly originalName: string | undefined;
}

export interface SnapshotRef {
  readonly pool: PoolRef;
  readonly image: string;
  /** By name, or by id: a group's snapshot has no name that can be opened. */
  readonly snapshot: string | bigint;
}

/**
 * As for a new image, but the size is the snapshot's. Absent: features, object size and striping of the parent, though
 * not its data pool. A smaller object size than the parent's stripe unit needs striping that fits it.
 */
export type CloneSpec = Omit<ImageSpec, "sizeBytes">;

/** What can be told of an image without opening it. */
export interface ImageBrief {
  readonly id: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch; 0 for an image that is older than such times (before Ceph 13). */
  readonly createdAt: number;
  /** The image metadata that was asked for, by key; those that are absent are absent. */
  readonly metadata: ReadonlyMap<string, string>;
}

export interface Extent {
  readonly offset: bigint;
  readonly length: bigint;
  /** False: the range was written before and is discarded now. */
  readonly exists: boolean;
}

export interface TrashEntry {
  readonly id: string;
  readonly name: string;
  /** Who put it there; only `user` entries are ever ours to remove. */
  readonly source: "user" | "mirroring" | "migration" | "other";
}

/** Images that have a name, and those in the trash. */
export interface ImageCalls {
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
  /** Whether any extent is allocated: of the image itself (`own`), or of it or any parent of it (`any`). */
  readonly imageHasData: (pool: PoolRef, image: string, whose: "own" | "any") => Effect.Effect<boolean, CephError>;
  /** All keys in one opening of the image, if any has to change; `undefined` removes. */
  readonly imageMetaSet: (
    pool: PoolRef,
    image: string,
    entries: Readonly<Record<string, string | undefined>>,
  ) => Effect.Effect<void, CephError>;
  /**
   * Also of an image that is watched: who may not be there, the caller asks before. Finishes a move that was cut off.
   * `Busy` for an image in a group from Ceph 20 on; until then it is moved, and is no member any more.
   */
  readonly trashMove: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  readonly trashGet: (pool: PoolRef, id: string) => Effect.Effect<TrashEntry | undefined, CephError>;
  readonly trashList: (pool: PoolRef) => Effect.Effect<readonly TrashEntry[], CephError>;
  /** Frees the image's space. Long: as long as the image is big. For the purge queue only, never inside an RPC. */
  readonly trashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
  /** Briefs of images by name in one call, all under way at once; `undefined` for one that does not exist. */
  readonly imageBriefs: (
    pool: PoolRef,
    images: readonly string[],
    metadata: readonly string[],
  ) => Effect.Effect<readonly (ImageBrief | undefined)[], CephError>;
}

/** Snapshots of images, clones of them, and what they differ in. */
export interface SnapshotCalls {
  /**
   * `Exists` when the image has one of that name; of callers side by side more than one may be told that it made it.
   * Waits for the monitors: up to a second on a default cluster.
   */
  readonly snapshotCreate: (
    pool: PoolRef,
    image: string,
    snapshot: string,
    /** `unasked`: of an image that nobody maps, so that a client that died with it open holds nothing up. */
    clients?: "asked" | "unasked",
  ) => Effect.Effect<void, CephError>;
  /** One that is not there is removed. With clones it goes to the snapshots' trash. */
  readonly snapshotRemove: (pool: PoolRef, image: string, snapshot: string) => Effect.Effect<void, CephError>;
  /** Of every kind, in the order of their making. */
  readonly snapshots: (pool: PoolRef, image: string) => Effect.Effect<readonly Snapshot[], CephError>;
  /**
   * `Exists` when the name is taken; `SnapshotNotFound` when the source is not there. The clone begins with the image
   * metadata that the parent has by then, but for keys that begin with `.rbd`. Cut off on its way it leaves an image
   * that looks whole: one without a parent, which reads as empty; or one that its parent does not know, which can't be
   * opened once the snapshot is removed (`ParentLost`); or one without metadata.
   */
  readonly imageClone: (
    source: SnapshotRef,
    pool: PoolRef,
    image: string,
    spec: CloneSpec,
  ) => Effect.Effect<void, CephError>;
  /** How many parents are behind the image, without opening any. `ImageNotFound` when it is not there. */
  readonly cloneDepth: (pool: PoolRef, image: string) => Effect.Effect<number, CephError>;
  /** Copies what the image has from its parents into it. Long; for the background only. No parent: nothing to do. */
  readonly imageFlatten: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  /**
   * What differs between two snapshots of an image, or what `to` has (`from` absent), from `offset` on, at most `limit`
   * extents in the order of their offsets, neighbours joined. Opens the image read-only. An object that `from` does
   * not have is told as a whole, from its beginning to its last byte: more than was written, never less. Asks the OSDs
   * for each object behind `offset` until `limit` is reached: some ten seconds for a TiB with nothing in it.
   * Where librbd takes the start by name only (before Ceph 17.2.8 and 18.2.5) and it has none, all that either snapshot
   * has is told as a difference. `InvalidCall` when `from` is the later one.
   */
  readonly diff: (
    source: SnapshotRef,
    from: string | bigint | undefined,
    offset: bigint,
    limit: number,
  ) => Effect.Effect<{ readonly extents: readonly Extent[]; readonly sizeBytes: bigint }, CephError>;
}

/** Groups of images and their snapshots. */
export interface GroupCalls {
  /** `Exists` when there is one. */
  readonly groupCreate: (pool: PoolRef, group: string) => Effect.Effect<void, CephError>;
  /** One that is not there is removed. */
  readonly groupRemove: (pool: PoolRef, group: string) => Effect.Effect<void, CephError>;
  /** An image that is in the group already is added; `Busy` when it is in another. */
  readonly groupAdd: (
    pool: PoolRef,
    group: string,
    image: { readonly pool: PoolRef; readonly image: string },
  ) => Effect.Effect<void, CephError>;
  /** `Exists` when there is one of that name. */
  readonly groupSnapshotCreate: (pool: PoolRef, group: string, snapshot: string) => Effect.Effect<void, CephError>;
  /** The member's snapshots that a complete one is made of. `undefined`: no such group, or no such snapshot of it. */
  readonly groupSnapshotMembers: (
    pool: PoolRef,
    group: string,
    snapshot: string,
  ) => Effect.Effect<
    | readonly {
        readonly pool: string;
        readonly namespace: string;
        readonly image: string;
        readonly snapshotId: bigint;
      }[]
    | undefined,
    CephError
  >;
}

export interface RbdCalls extends ImageCalls, SnapshotCalls, GroupCalls {}

export class Rbd extends Context.Service<Rbd, RbdCalls>()("csi-rbd/Rbd") {}
