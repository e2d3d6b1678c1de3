/**
 * The state of a Ceph cluster in memory, and the switches by which tests change its behaviour.
 *
 * Not here: the calls of the driver (./memory.ts). A driver can crash and start again over the same `MemoryCluster`, as
 * over a real cluster.
 *
 * 1. Every change is synchronous, so that a call with one change is atomic as in RADOS.
 * 2. `dump` shows everything that outlives a driver and nothing else: no watchers, caps or switches.
 */
import type { Blocked } from "../../../lib/ceph/blocklist.ts";
import type { ManagerTask } from "../../../lib/ceph/manager.ts";
import type { DriversMark, TrashEntry } from "../../../lib/ceph/rbd.ts";
import { bytesOf } from "./content.ts";
import { type ClusterDump, dumpPools } from "./dump.ts";
import { dropGroupSnapshot, leaveGroup, type MemoryGroup } from "./group.ts";
import { type Birth, DEFAULT_FEATURES, type MemoryImage, toSnapshotTrash } from "./image.ts";
import { TaskQueue } from "./task-queue.ts";

export type { ClusterDump } from "./dump.ts";
export type { MemoryImage } from "./image.ts";

export interface MemoryTrashed {
  readonly name: string;
  readonly source: TrashEntry["source"];
  /** Its move was interrupted: Ceph removes it only after a second move has finished the first. */
  moving: boolean;
  readonly image: MemoryImage;
  /** As of `TrashEntry`. */
  readonly protectedUntil?: number;
  readonly byDriver?: DriversMark;
}

/** The state that a driver leaves that crashes while it creates an image (no header, or no object map), clones or moves one. */
export type CutShort = "header" | "object-map" | CloneCutShort | MoveCutShort;
/**
 * How far the clone had come: an image without a parent; one that its parent does not know, whose data is lost with the
 * snapshot; one without some of the metadata of the parent.
 */
export type CloneCutShort = "parent" | "child" | "metadata";
/** How far the move had come: the entry in the trash exists; the name is gone; the entry in the directory is gone. */
export type MoveCutShort = "trash-entered" | "name-gone" | "entry-gone";

export interface MemoryNamespace {
  readonly objects: Map<string, Map<string, string>>;
  readonly images: Map<string, MemoryImage>;
  /** Names without an image, with the id that they name, if any. */
  readonly bareNames: Map<string, string | undefined>;
  readonly trash: Map<string, MemoryTrashed>;
  readonly groups: Map<string, MemoryGroup>;
}

export interface MemoryPool {
  readonly id: bigint;
  readonly namespaces: Map<string, MemoryNamespace>;
  /** Bytes that could be written without a quota. */
  /** `undefined`: not known yet, as of a new pool. */
  maxAvailableBytes: bigint | undefined;
  /** 0: none. */
  quotaBytes: bigint;
  /** Absent: it is replicated. */
  coded?: { overwrites: boolean };
}

/** The reason why an image in the trash cannot be removed. */
export type Obstacle = "moving" | "protected" | "snapshots" | "watchers" | "group";

export interface MemoryUser {
  readonly key: string;
  /** The user has mgr caps. */
  readonly manager: boolean;
  /** The pools in its osd caps; all if absent. */
  readonly pools?: readonly string[];
}

export interface MemoryOptions {
  /** Pools that exist from the start; "rbd" when absent. */
  readonly pools?: readonly string[];
  /** Monitors under which the cluster is reached; any when absent. */
  readonly monitors?: readonly string[];
  /** By cephx id; `memoryAccess` when absent. */
  readonly users?: Readonly<Record<string, MemoryUser>>;
  /** The cluster's `rbd_default_features`. */
  readonly defaultFeatures?: bigint;
  /** Milliseconds since the epoch, for what is made; `Date.now` when absent. */
  readonly now?: () => number;
  /** Whether an image in a group can be moved to the trash, as before Ceph 20; false when absent. */
  readonly trashesMembers?: boolean;
}

/** The entry of an image in the trash; `onlyMarked`: if a driver's mark is on it. */
export const trashed = (
  trash: ReadonlyMap<string, MemoryTrashed>,
  id: string,
  onlyMarked = false,
): MemoryTrashed | undefined => {
  const entry = trash.get(id);
  return onlyMarked && entry?.byDriver === undefined ? undefined : entry;
};

const TIB = 1_099_511_627_776n;

export class MemoryCluster {
  readonly pools = new Map<string, MemoryPool>();
  readonly users: Map<string, MemoryUser>;
  readonly monitors: readonly string[] | undefined;
  readonly defaultFeatures: bigint;
  readonly trashesMembers: boolean;
  /** `false`: no monitor answers. */
  reachable = true;
  /** `false`: as with old clients (before Ceph 17.2.8, 18.2.5), a difference cannot start at a snapshot without a name. */
  diffsFromIds = true;
  /** Milliseconds since the epoch. */
  now: () => number;
  /** Locks on objects by the object's label; `until` is a time of `now`. */
  readonly objectLocks = new Map<
    string,
    { readonly name: string; readonly cookie: string; readonly client: object; readonly until: number }
  >();

  /** By kind and address. `seconds`: for how long it was added last; absent: it has no end that matters. */
  readonly blocklist = new Map<string, Blocked & { readonly seconds?: number }>();

  readonly #manager = new TaskQueue((task) => {
    const content = this.namespace(task.pool, task.namespace);
    if (task.action === "flatten") content?.images.get(task.image)?.flatten();
    else if (content !== undefined) return this.removeTrashed(content, task.image);
    return undefined;
  });
  #nextPool = 1n;
  #nextImage = 0x1000;
  #nextSnapshot = 3n;
  #nextWatcher = 4100;

  constructor(options: MemoryOptions = {}) {
    this.monitors = options.monitors;
    this.defaultFeatures = options.defaultFeatures ?? DEFAULT_FEATURES;
    this.now = options.now ?? Date.now;
    this.trashesMembers = options.trashesMembers ?? false;
    this.users = new Map(Object.entries(options.users ?? { admin: { key: MEMORY_KEY, manager: true } }));
    for (const pool of options.pools ?? ["rbd"]) this.addPool(pool);
  }

  addPool(name: string): bigint {
    const id = ++this.#nextPool;
    this.pools.set(name, { id, namespaces: new Map(), maxAvailableBytes: TIB, quotaBytes: 0n });
    return id;
  }

  /** The id is never used again, as in Ceph. */
  removePool(name: string): void {
    this.pools.delete(name);
  }

  /** The content of a namespace, or `undefined` when the pool does not exist. */
  namespace(pool: string, namespace: string): MemoryNamespace | undefined {
    const namespaces = this.pools.get(pool)?.namespaces;
    if (namespaces === undefined) return undefined;
    const found = namespaces.get(namespace);
    if (found !== undefined) return found;
    const made: MemoryNamespace = {
      objects: new Map(),
      images: new Map(),
      bareNames: new Map(),
      trash: new Map(),
      groups: new Map(),
    };
    namespaces.set(namespace, made);
    return made;
  }

  /** Gives an image; throws if it does not exist. */
  image(pool: string, image: string, namespace = ""): MemoryImage {
    const found = this.namespace(pool, namespace)?.images.get(image);
    if (found === undefined) throw new Error(`no image ${image} in ${pool}`);
    return found;
  }

  /** Whether the image can still be found by its name. */
  isNamed(image: MemoryImage): boolean {
    const { pool, namespace, name } = image.place;
    return this.namespace(pool, namespace)?.images.get(name) === image;
  }

  hasSnapshot(pool: string, image: string, snapshot: string, namespace = ""): boolean {
    return this.namespace(pool, namespace)?.images.get(image)?.snapshotNamed(snapshot) !== undefined;
  }

  /** Changes a whole image into what a crashed driver leaves. */
  cutShort(what: CutShort, pool: string, image: string, namespace = ""): void {
    const content = this.namespace(pool, namespace);
    const moved = [...(content?.trash.values() ?? [])].find((entry) => entry.name === image && !entry.moving);
    const found = content?.images.get(image) ?? moved?.image ?? this.image(pool, image, namespace);
    switch (what) {
      case "object-map":
        found.objectMap = "lost";
        return;
      case "parent":
        found.leaveParents();
        found.meta.clear();
        return;
      case "child":
        found.parent?.children.delete(found);
        found.meta.clear();
        return;
      case "metadata":
        found.meta.clear();
        return;
    }
    if (what === "header") found.leaveParents();
    else content?.trash.set(found.id, { source: "user", ...moved, name: image, moving: true, image: found });
    if (what === "trash-entered") content?.images.set(image, found);
    else content?.images.delete(image);
    if (what === "header") content?.bareNames.set(image, found.id);
    if (what === "name-gone") content?.bareNames.set(image, undefined);
  }

  /** Changes a snapshot into what a driver leaves that crashes while it removes it: the name is free, it is in the trash. */
  cutSnapshotRemovalShort(pool: string, image: string, snapshot: string, namespace = ""): void {
    const found = this.image(pool, image, namespace).snapshotNamed(snapshot);
    if (found === undefined) throw new Error(`no snapshot ${snapshot} of ${image}`);
    toSnapshotTrash(found);
  }

  /** Changes the snapshot of a group into what a driver leaves that crashes while it takes it: a member has none. */
  cutGroupSnapshotShort(pool: string, group: string, snapshot: string, namespace = ""): void {
    const found = this.namespace(pool, namespace)?.groups.get(group)?.snapshots.get(snapshot);
    if (found === undefined) throw new Error(`no snapshot ${snapshot} of group ${group}`);
    found.complete = false;
    const last = found.members.pop();
    last?.image.dropSnapshot(last);
  }

  /** Those that have a name, as `pool/namespace/image`, in order; `undefined`: no such group. */
  members(pool: string, group: string, namespace = ""): readonly string[] | undefined {
    const images = this.namespace(pool, namespace)?.groups.get(group)?.images;
    const named = images && [...images].filter((image) => this.isNamed(image));
    return named?.map(({ place }) => `${place.pool}/${place.namespace}/${place.name}`).toSorted();
  }

  leaveGroup(pool: string, image: string, namespace = ""): void {
    leaveGroup(this.image(pool, image, namespace));
  }

  /** Names of the complete ones, in order. */
  groupSnapshots(pool: string, group: string, namespace = ""): readonly string[] {
    const snapshots = this.namespace(pool, namespace)?.groups.get(group)?.snapshots ?? [];
    return [...snapshots].flatMap(([name, { complete }]) => (complete ? [name] : [])).toSorted();
  }

  removeGroupSnapshot(pool: string, group: string, snapshot: string, namespace = ""): void {
    const found = this.namespace(pool, namespace)?.groups.get(group);
    if (found !== undefined) dropGroupSnapshot(found, snapshot);
  }

  /** Opens the image as another client does; gives a function that closes it. */
  watch(pool: string, image: string, namespace = ""): () => void {
    const { watchers } = this.image(pool, image, namespace);
    const watcher = `127.0.0.1:0/${this.#nextWatcher}/client.${this.#nextWatcher++}`;
    watchers.add(watcher);
    return () => void watchers.delete(watcher);
  }

  freshId(): string {
    return (this.#nextImage++).toString(16).padStart(12, "0");
  }

  freshSnapshotId(): bigint {
    return this.#nextSnapshot++;
  }

  birth(pool: string, namespace: string, name: string): Birth {
    return { pool, namespace, name, id: this.freshId(), createdAt: this.now() };
  }

  /** The bytes of images in the pool, which count against the quota. */
  storedBytes(pool: string): bigint {
    let sum = 0n;
    for (const [name, { namespaces }] of this.pools) {
      for (const { images, trash } of namespaces.values()) {
        for (const image of [...images.values(), ...Array.from(trash.values(), (entry) => entry.image)]) {
          if ((image.dataPool ?? name) === pool) sum += bytesOf(image.content);
        }
      }
    }
    return sum;
  }

  /** Takes an image out of the trash, as `rbd trash restore` does. */
  restore(pool: string, id: string, namespace = ""): void {
    const content = this.namespace(pool, namespace);
    const entry = content?.trash.get(id);
    if (content === undefined || entry === undefined) throw new Error(`no image ${id} in the trash of ${pool}`);
    if (content.images.has(entry.name)) throw new Error(`${entry.name} has another image`);
    content.trash.delete(id);
    content.images.set(entry.name, entry.image);
  }

  /** Gives the obstacle, if any, and then removes nothing. Succeeds if there is no such entry. */
  removeTrashed({ trash }: MemoryNamespace, id: string): Obstacle | undefined {
    const entry = trash.get(id);
    if (entry === undefined) return undefined;
    const { image, moving, protectedUntil = 0 } = entry;
    if (this.now() < protectedUntil) return "protected";
    if (moving) return "moving";
    if (image.snapshots.some(({ kind, children }) => kind !== "trash" || children.size > 0)) return "snapshots";
    if (image.watchers.size > 0) return "watchers";
    if (image.group !== undefined) return "group";
    image.leaveParents();
    trash.delete(id);
    return undefined;
  }

  /** `false`: no manager takes or does tasks. */
  get managerUp(): boolean {
    return this.#manager.up;
  }
  set managerUp(up: boolean) {
    this.#manager.up = up;
  }

  /** Held: the manager takes tasks and does none until `runManager`. */
  get managerHeld(): boolean {
    return this.#manager.held;
  }
  set managerHeld(held: boolean) {
    this.#manager.held = held;
  }

  /** Queues a task, unless the same task is queued. */
  queueTask(action: "flatten" | "trash remove", pool: string, namespace: string, image: string): void {
    this.#manager.queue({ action, pool, namespace, image });
  }

  tasks(): readonly ManagerTask[] {
    return this.#manager.tasks();
  }

  /** Sets the progress of the task of an image, which is named by its id in the trash. */
  setProgress(image: string, progress: number | undefined): void {
    this.#manager.progress(image, progress);
  }

  /** Trash ids that wait for the manager. */
  queued(): readonly string[] {
    return this.tasks().flatMap(({ action, image }) => (action === "trash remove" ? [image] : []));
  }

  /** Does the queue now; gives the number of tasks done. A task that fails stays queued. */
  runManager(): number {
    return this.#manager.run();
  }

  dump(): ClusterDump {
    return dumpPools(this.pools);
  }
}

/** The key of `client.admin` in a memory cluster that names no users. */
export const MEMORY_KEY = "bWVtb3J5IGtleQ==";
