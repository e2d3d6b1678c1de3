/**
 * `Rbd`: images, their snapshots, clones, groups and trash in a pool, as an Effect service.
 *
 * Not here: pools and objects (./rados.ts); work that the manager does (./manager.ts). Names are RBD's.
 *
 * 1. Every method is one blocking call in a cell and counts as one in the call budget of an RPC.
 * 2. Absence is a value (`undefined`) or a typed error. No other failure is read as absence.
 * 3. No image shrinks: there is `imageGrow` and no resize.
 * 4. An image is removed by way of the trash only.
 * 5. A clone has format 2: the snapshot of its parent needs no protection. Removing that snapshot moves it to the trash
 *    of snapshots until the last clone is removed or flattened.
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
  /** The pool that holds the data; `undefined`: the pool of the image itself. */
  readonly dataPool: string | undefined;
  /** Clients that have the image open for use, without this driver's own handles: `address/client.N`. */
  readonly watchers: readonly string[];
  /** Without the lock that clients take by themselves where the feature exclusive-lock is on. */
  readonly locks: readonly AdvisoryLock[];
  /** Who writes: the client, such as `client.4123`, that has the lock which clients take by themselves; absent: nobody. */
  readonly writer?: string;
  readonly mirror: "disabled" | "primary" | "non-primary";
  /** Of a non-primary image: the mirror daemon of its cluster runs, and replays what the primary writes. */
  readonly mirrorReplays?: true;
  readonly parent: Parent | undefined;
  /** Snapshots of every kind, those in the trash of snapshots included. */
  readonly snapshotCount: number;
  /** Names of the snapshots of kind `user`. */
  readonly namedSnapshots: readonly string[];
  /** How many snapshots are parts of the snapshots of RBD groups, also of groups that the image has left. */
  readonly groupSnapshotCount: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** The requested image metadata by key, without the keys that the image does not have. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** What the header of an image says: all but who uses it, its mirror, and what its snapshots are. */
export type ImageHeader = Omit<
  ImageStatus,
  "groupSnapshotCount" | "locks" | "mirror" | "mirrorReplays" | "namedSnapshots" | "watchers" | "writer"
>;

/**
 * A lock that a person or a program has put on an image (`rbd lock add`). It stays when they end. An image with the feature
 * exclusive-lock cannot be written to while it has one.
 */
export interface AdvisoryLock {
  /** Its name, as `rbd lock ls` shows it under "ID". */
  readonly id: string;
  /** Who took it: `client.4123`, which in most cases was a tool that has ended. */
  readonly client: string;
  readonly address: string;
}

/** The snapshot from which an image reads the data that it does not hold itself. */
export interface Parent {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  readonly imageId: string;
  /** The name of the snapshot; in the trash of snapshots the name that librbd gave it there. */
  readonly snapshot: string;
  /** The parent image itself is in the trash, not only its snapshot. */
  readonly inTrash: boolean;
}

export interface Snapshot {
  readonly id: bigint;
  readonly name: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** `user`: created by name. `group`: part of the snapshot of a group. `trash`: removed, and still has clones. */
  readonly kind: "user" | "group" | "trash" | "other";
  /** The name that a snapshot in the trash had before. */
  readonly originalName: string | undefined;
}

/** A snapshot of an image in the trash. */
export type TrashedSnapshot = Pick<Snapshot, "name" | "kind">;

export interface SnapshotRef {
  readonly pool: PoolRef;
  readonly image: string;
  /** A name, or an id: a snapshot of kind `group` has no name by which it can be opened. */
  readonly snapshot: string | bigint;
}

/**
 * The layout of a clone; its size is that of the snapshot. Features, object size and striping that are absent are those
 * of the parent; the data pool is not. An object size below the stripe unit of the parent needs striping that fits it.
 */
export type CloneSpec = Omit<ImageSpec, "sizeBytes">;

/** What the header of an image says, which is read without opening the image. */
export interface ImageBrief {
  readonly id: string;
  readonly sizeBytes: bigint;
  /** Milliseconds since the epoch; 0 for an image that was created before Ceph 13. */
  readonly createdAt: number;
  /** The requested image metadata by key, without the keys that the image does not have. */
  readonly metadata: ReadonlyMap<string, string>;
}

export interface Extent {
  readonly offset: bigint;
  readonly length: bigint;
  /** `false`: the range was written before and is discarded now. */
  readonly exists: boolean;
}

export interface TrashEntry {
  readonly id: string;
  readonly name: string;
  /** Who put it there. The driver removes only `user` entries. */
  readonly source: "user" | "mirroring" | "migration" | "other";
  /**
   * Milliseconds since the epoch. Until then the trash protects the image; it stays set when that time is over. Absent: it
   * was moved there without protection.
   */
  readonly protectedUntil?: number;
  /** A driver moved it there, to have it removed. It has no `protectedUntil`. */
  readonly byDriver?: DriversMark;
}

/** Whether the driver removes the image itself, or leaves it to the manager. */
export type DriversMark = "small" | "large";

/**
 * What tells an image that a driver moved to the trash from one that a person put there: it was protected for just so many
 * seconds when it was moved. Nobody else writes such a time, and it costs no call.
 */
export const DRIVERS_MARKS: Readonly<Record<DriversMark, number>> = { small: 3, large: 4 };

export const driversMark = (seconds: number): DriversMark | undefined =>
  (["small", "large"] as const).find((mark) => DRIVERS_MARKS[mark] === seconds);

/** An image whose parent is gone. */
export interface LostImage {
  readonly id: string;
  readonly sizeBytes: bigint;
  readonly objectSize: bigint;
  /** It has an object of its own. */
  readonly hasData: boolean;
}

/** Images that have a name, and those in the trash. */
export interface ImageCalls {
  /**
   * Creates an image and gives its internal id; `Exists` if the name is taken. `undefined`: it was created, and another
   * client has removed it since.
   */
  readonly imageCreate: (pool: PoolRef, image: string, spec: ImageSpec) => Effect.Effect<string | undefined, CephError>;
  /** Gives the internal id; `undefined`: no image has that name. One keyed read; the image is not opened. */
  readonly imageId: (pool: PoolRef, image: string) => Effect.Effect<string | undefined, CephError>;
  /** As `imageStatus`, and without opening the image where it has no parent. */
  readonly imageHeader: (
    pool: PoolRef,
    image: string,
    metadata?: readonly string[],
  ) => Effect.Effect<ImageHeader, CephError>;
  /** `metadata`: which keys of image metadata to read; no key when absent. */
  readonly imageStatus: (
    pool: PoolRef,
    image: string,
    metadata?: readonly string[],
  ) => Effect.Effect<ImageStatus, CephError>;
  /**
   * Grows a smaller image to `sizeBytes` and gives the size that it has then, and the requested image metadata by key. Never
   * shrinks.
   */
  readonly imageGrow: (
    pool: PoolRef,
    image: string,
    sizeBytes: bigint,
    metadata?: readonly string[],
  ) => Effect.Effect<{ readonly sizeBytes: bigint; readonly metadata: ReadonlyMap<string, string> }, CephError>;
  /**
   * Repairs what a client leaves that crashes while it creates an image or moves it to the trash: rebuilds a missing
   * object map, without which the kernel does not map the image, and removes a name (`rbd_id.<name>`, the entry in
   * `rbd_directory`) without a header, so that the name can be used again. Changes no image that is whole, and no data.
   * Gives whether an image of that name exists now.
   */
  readonly imageMend: (pool: PoolRef, image: string) => Effect.Effect<boolean, CephError>;
  /**
   * Reads an image that cannot be opened because its parent, or the snapshot that is its parent, is gone (`ParentLost`).
   * `undefined`: it is another image, or has a snapshot, or is in a group, mirrored, locked or open, or is too large to tell.
   */
  readonly imageLost: (pool: PoolRef, image: string) => Effect.Effect<LostImage | undefined, CephError>;
  /** Whether the image itself (`own`), or it or one of its parents (`any`), has an allocated extent, at `from` or behind. */
  readonly imageHasData: (
    pool: PoolRef,
    image: string,
    whose: "own" | "any",
    from?: bigint,
  ) => Effect.Effect<boolean, CephError>;
  /**
   * Frees the objects of the image that hold nothing but zeros. What one reads of it stays the same, also while another
   * client writes to it. Long: it reads all that the image itself holds.
   */
  readonly imageSparsify: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  /**
   * Sets image metadata, all keys or none; `undefined` removes a key. Without opening the image. `compare`: values that
   * must be there now, else `Raced` and nothing is set; `""` stands for an absent key, too. Clients that have the image open
   * take over its settings (`conf_…`), also those that it has already; a client that has died holds the call up for 5
   * seconds.
   */
  readonly imageMetaSet: (
    pool: PoolRef,
    image: string,
    entries: Readonly<Record<string, string | undefined>>,
    compare?: Readonly<Record<string, string>>,
  ) => Effect.Effect<void, CephError>;
  /** Reads the image metadata whose keys begin with `prefix`. Without opening the image. */
  readonly imageMetaList: (
    pool: PoolRef,
    image: string,
    prefix: string,
  ) => Effect.Effect<ReadonlyMap<string, string>, CephError>;
  /**
   * Takes away this very lock, and no other one of its name. Succeeds if it is gone. Without opening the image. Its client
   * is not kept from writing: the caller proves before that nobody uses the image.
   */
  readonly imageUnlock: (pool: PoolRef, image: string, lock: AdvisoryLock) => Effect.Effect<void, CephError>;
  /**
   * Moves an image to the trash, also one that is watched: the caller asks about watchers before. Finishes a move that
   * was interrupted. An image in a group is `Busy` from Ceph 20 on; before, it is moved and leaves the group. `id`: moves
   * that image alone; `ImageNotFound` if the name leads to another one. Gives the driver's mark that the image has there: the
   * move that was interrupted has left its own. `onlyBegun`: only finishes; `Raced` if the
   * image has been taken out of the trash.
   */
  readonly trashMove: (
    pool: PoolRef,
    image: string,
    keepSeconds?: number,
    id?: string,
    onlyBegun?: boolean,
  ) => Effect.Effect<DriversMark | undefined, CephError>;
  readonly trashGet: (pool: PoolRef, id: string) => Effect.Effect<TrashEntry | undefined, CephError>;
  readonly trashList: (pool: PoolRef) => Effect.Effect<readonly TrashEntry[], CephError>;
  /**
   * Frees the space of the image, which takes as long as the image is big. Only for a queue, never inside an RPC. What
   * the trash protects it leaves, except where a driver's mark is all that protects. An image that is not in the trash it
   * leaves, too, and succeeds. `onlyMarked`: here and in the calls below, an image without a driver's mark is as one that is not
   * there, because a person has taken it out, and has moved it there again.
   */
  readonly trashRemove: (pool: PoolRef, id: string, onlyMarked?: boolean) => Effect.Effect<void, CephError>;
  /**
   * Gives those of the images that still exist, also in the trash. Removes what a race of removals brought back of the
   * others: a header with nothing in it, on which a client has taken the lock after it was gone.
   */
  readonly imagesStillThere: (pool: PoolRef, ids: readonly string[]) => Effect.Effect<readonly string[], CephError>;
  /** Reads the headers of many images at once, in one call; `undefined` for an image that does not exist. */
  readonly imageBriefs: (
    pool: PoolRef,
    images: readonly string[],
    metadata: readonly string[],
  ) => Effect.Effect<readonly (ImageBrief | undefined)[], CephError>;
}

/** Snapshots of images, clones of them, and what they differ in. */
export interface SnapshotCalls {
  /**
   * Takes a snapshot; `Exists` if the image has one of that name. If several callers do so at once, more than one may
   * succeed. Waits for the monitors, up to a second on a default cluster.
   */
  readonly snapshotCreate: (
    pool: PoolRef,
    image: string,
    snapshot: string,
    /**
     * `unasked`: does not ask clients to be quiet first; for an image that nobody maps. A crashed client then delays nothing. And
     * an image that never had a snapshot, and whose clients need no lock, is not opened.
     */
    clients?: "asked" | "unasked",
  ) => Effect.Effect<void, CephError>;
  /**
   * Succeeds if there is no such snapshot. One that has clones moves to the trash of snapshots; otherwise it waits for the
   * monitors, up to a second on a default cluster.
   */
  readonly snapshotRemove: (pool: PoolRef, image: string, snapshot: string) => Effect.Effect<void, CephError>;
  /**
   * The part of `snapshotRemove` that is quick: moves a snapshot that has clones to the trash of snapshots, and gives whether
   * it did. `false`: nothing was done, because it has none, or only librbd can do it.
   */
  readonly snapshotKeep: (pool: PoolRef, image: string, snapshot: string) => Effect.Effect<boolean, CephError>;
  /**
   * `snapshotRemove` of an image in the trash, by the image's id. `ImageNotFound` if it is not there, `Busy` if it is on its
   * way out of there, or another client has it open. Nobody can take it out meanwhile.
   */
  readonly trashSnapshotRemove: (
    pool: PoolRef,
    id: string,
    snapshot: string,
    onlyMarked?: boolean,
  ) => Effect.Effect<void, CephError>;
  /** Lists the snapshots of an image in the trash, oldest first; `undefined`: it is not there. */
  readonly trashSnapshots: (
    pool: PoolRef,
    id: string,
    onlyMarked?: boolean,
  ) => Effect.Effect<readonly TrashedSnapshot[] | undefined, CephError>;
  /**
   * Gives the internal ids of the clones that the snapshot knows of, those in the trash of images included;
   * `ImageSnapshotNotFound` if there is no such snapshot. One in the trash of snapshots has the name that it got there. A clone that was cut off may read from a snapshot that does not
   * know of it.
   */
  readonly snapshotChildren: (
    pool: PoolRef,
    image: string,
    snapshot: string,
  ) => Effect.Effect<readonly string[], CephError>;
  /** Lists the snapshots of every kind, oldest first. */
  readonly snapshots: (pool: PoolRef, image: string) => Effect.Effect<readonly Snapshot[], CephError>;
  /**
   * Clones a snapshot; `Exists` if the name is taken, `ImageSnapshotNotFound` if the source does not exist. The clone
   * gets the image metadata of the parent except keys that begin with `.rbd`. A crash on the way leaves an image that
   * looks whole: one without a parent, which reads as empty; or one that its parent does not know, which cannot be opened
   * after the snapshot is removed (`ParentLost`); or one without metadata.
   */
  readonly imageClone: (
    source: SnapshotRef,
    pool: PoolRef,
    image: string,
    spec: CloneSpec,
  ) => Effect.Effect<void, CephError>;
  /** Counts the parents behind the image without opening any; `ImageNotFound` if it does not exist. */
  readonly cloneDepth: (pool: PoolRef, image: string) => Effect.Effect<number, CephError>;
  /** Copies the data of the parents into the image. Long; only for the background. Without a parent it does nothing. */
  readonly imageFlatten: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  /**
   * Lists what differs between two snapshots of an image, or what the one snapshot holds if `from` is absent: at most
   * `limit` extents behind `offset`, in the order of their offsets, neighbours joined. Opens the image read-only. An
   * object that `from` does not have is listed from its beginning to its last byte: more than was written, never less.
   * Asks the OSDs for each object until `limit` is reached, which takes some ten seconds for an empty TiB. If librbd
   * takes the start by name only (before Ceph 17.2.8 and 18.2.5) and it has no name, everything that either snapshot
   * holds is listed. `InvalidCall` if `from` is the later one.
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
  /** Creates a group; `Exists` if the name is taken. */
  readonly groupCreate: (pool: PoolRef, group: string) => Effect.Effect<void, CephError>;
  readonly groupExists: (pool: PoolRef, group: string) => Effect.Effect<boolean, CephError>;
  /** Removes a group with its snapshots; its images stay. Succeeds if there is no such group. */
  readonly groupRemove: (pool: PoolRef, group: string) => Effect.Effect<void, CephError>;
  /** Adds an image; succeeds if it is in the group already, `Busy` if it is in another. */
  readonly groupAdd: (
    pool: PoolRef,
    group: string,
    image: { readonly pool: PoolRef; readonly image: string },
  ) => Effect.Effect<void, CephError>;
  /** Takes a snapshot of all members; `Exists` if the group has one of that name. */
  readonly groupSnapshotCreate: (pool: PoolRef, group: string, snapshot: string) => Effect.Effect<void, CephError>;
  /** Lists the snapshots of the members; `undefined`: the group has no complete snapshot of that name, or does not exist. */
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
