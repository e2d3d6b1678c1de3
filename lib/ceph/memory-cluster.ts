/**
 * The state of a Ceph cluster that exists in memory only, and the switches that tests turn on it.
 *
 * Not here: the calls of the driver (./memory.ts). A driver may crash and start again over the same `MemoryCluster`,
 * as it would over a real one.
 *
 * 1. Every change is synchronous, so a call made of one change is atomic as in RADOS.
 * 2. `dump` shows everything that outlives a driver and nothing else: watchers, caps and switches are not in it.
 * 3. The manager works its queue in order, never in the middle of a call, and keeps what it cannot do yet.
 */
import type { TrashEntry } from "./ceph.ts";
import { DEFAULT_FEATURES, dumpImage, type ImageDump, type MemoryImage, sorted } from "./memory-image.ts";

export type { MemoryImage } from "./memory-image.ts";

export interface MemoryTrashed {
  readonly name: string;
  readonly source: TrashEntry["source"];
  /** Its move was cut short: Ceph removes it only after a second move has finished the first. */
  moving: boolean;
  readonly image: MemoryImage;
}

/** What a driver leaves that dies while it makes an image (all but the header, or no object map) or moves one to the trash. */
export type CutShort = "header" | "object-map" | MoveCutShort;
/** How far the move had come: the entry in the trash is made; the name is gone; its entry in the directory too. */
export type MoveCutShort = "trash-entered" | "name-gone" | "entry-gone";

export interface MemoryNamespace {
  readonly objects: Map<string, Map<string, string>>;
  readonly images: Map<string, MemoryImage>;
  /** Names that are taken and lead to no image, with the id that they lead to, if to any. */
  readonly bareNames: Map<string, string | undefined>;
  readonly trash: Map<string, MemoryTrashed>;
}

interface MemoryPool {
  readonly id: bigint;
  readonly namespaces: Map<string, MemoryNamespace>;
}

export interface MemoryUser {
  readonly key: string;
  /** Whether it has mgr caps. */
  readonly manager: boolean;
  /** The pools that its osd caps name; all when absent. */
  readonly pools?: readonly string[];
}

interface TrashDump {
  readonly name: string;
  readonly source: string;
  readonly moving: boolean;
}

/** Plain JSON with sorted keys: two equal states give equal text. Namespaces that hold nothing are left out. */
export type ClusterDump = Readonly<
  Record<
    string,
    Readonly<
      Record<
        string,
        {
          readonly objects: Readonly<Record<string, Readonly<Record<string, string>>>>;
          readonly images: Readonly<Record<string, ImageDump>>;
          readonly bareNames: Readonly<Record<string, string | null>>;
          readonly trash: Readonly<Record<string, TrashDump>>;
        }
      >
    >
  >
>;

export interface MemoryOptions {
  /** Pools that exist from the start; "rbd" when absent. */
  readonly pools?: readonly string[];
  /** Monitors under which the cluster is reached; any when absent. */
  readonly monitors?: readonly string[];
  /** By cephx id; `memoryAccess` when absent. */
  readonly users?: Readonly<Record<string, MemoryUser>>;
  /** The cluster's `rbd_default_features`. */
  readonly defaultFeatures?: bigint;
}

export class MemoryCluster {
  readonly pools = new Map<string, MemoryPool>();
  readonly users: Map<string, MemoryUser>;
  readonly monitors: readonly string[] | undefined;
  readonly defaultFeatures: bigint;
  /** Down: no monitor answers anybody. */
  reachable = true;
  /** Down: no manager takes or does tasks. */
  managerUp = true;
  /** Held: the manager takes tasks and does none until `runManager`. */
  managerHeld = false;

  readonly #tasks: { readonly pool: string; readonly namespace: string; readonly id: string }[] = [];
  #nextPool = 1n;
  #nextImage = 0x1000;
  #nextWatcher = 4100;

  constructor(options: MemoryOptions = {}) {
    this.monitors = options.monitors;
    this.defaultFeatures = options.defaultFeatures ?? DEFAULT_FEATURES;
    this.users = new Map(Object.entries(options.users ?? { admin: { key: MEMORY_KEY, manager: true } }));
    for (const pool of options.pools ?? ["rbd"]) this.addPool(pool);
  }

  addPool(name: string): bigint {
    const id = ++this.#nextPool;
    this.pools.set(name, { id, namespaces: new Map() });
    return id;
  }

  /** Pool ids are never used again, as in Ceph. */
  removePool(name: string): void {
    this.pools.delete(name);
  }

  /** The content of a namespace, or `undefined` when the pool does not exist. */
  namespace(pool: string, namespace: string): MemoryNamespace | undefined {
    const namespaces = this.pools.get(pool)?.namespaces;
    if (namespaces === undefined) return undefined;
    const found = namespaces.get(namespace);
    if (found !== undefined) return found;
    const made = { objects: new Map(), images: new Map(), bareNames: new Map(), trash: new Map() };
    namespaces.set(namespace, made);
    return made;
  }

  /** An image that a test expects to be there. */
  image(pool: string, image: string, namespace = ""): MemoryImage {
    const found = this.namespace(pool, namespace)?.images.get(image);
    if (found === undefined) throw new Error(`no image ${image} in ${pool}`);
    return found;
  }

  /** Leaves of a whole image what a dying driver leaves. */
  cutShort(what: CutShort, pool: string, image: string, namespace = ""): void {
    const found = this.image(pool, image, namespace);
    const content = this.namespace(pool, namespace);
    if (what === "object-map") {
      found.objectMap = "lost";
      return;
    }
    if (what !== "header") content?.trash.set(found.id, { name: image, source: "user", moving: true, image: found });
    if (what !== "trash-entered") content?.images.delete(image);
    if (what === "header") content?.bareNames.set(image, found.id);
    if (what === "name-gone") content?.bareNames.set(image, undefined);
  }

  /** Opens the image for use as another client would; -> closes it again. */
  watch(pool: string, image: string, namespace = ""): () => void {
    const { watchers } = this.image(pool, image, namespace);
    const watcher = `127.0.0.1:0/${this.#nextWatcher}/client.${this.#nextWatcher++}`;
    watchers.add(watcher);
    return () => void watchers.delete(watcher);
  }

  freshImageId(): string {
    return (this.#nextImage++).toString(16).padStart(12, "0");
  }

  /** Puts a task in the manager's queue; one that is there already stays the only one. */
  queueTrashRemove(pool: string, namespace: string, id: string): void {
    const same = this.#tasks.some((task) => task.pool === pool && task.namespace === namespace && task.id === id);
    if (!same) this.#tasks.push({ pool, namespace, id });
    // a microtask: after the call that queued it, whatever clock the test runs on
    if (!this.managerHeld) queueMicrotask(() => this.runManager());
  }

  /** Trash ids that wait for the manager. */
  queued(): readonly string[] {
    return this.#tasks.map((task) => task.id);
  }

  /** Lets the manager do its queue now; what is still in use stays queued. -> how many it did. */
  runManager(): number {
    if (!this.managerUp) return 0;
    const tasks = this.#tasks.splice(0);
    for (const task of tasks) {
      const trash = this.namespace(task.pool, task.namespace)?.trash;
      const entry = trash?.get(task.id);
      if (entry !== undefined && (entry.moving || entry.image.watchers.size > 0)) this.#tasks.push(task);
      else trash?.delete(task.id);
    }
    return tasks.length - this.#tasks.length;
  }

  dump(): ClusterDump {
    return sorted(this.pools, ({ namespaces }) => {
      const used = [...namespaces].filter(
        ([, { objects, images, bareNames, trash }]) => objects.size + images.size + bareNames.size + trash.size > 0,
      );
      return sorted(new Map(used), ({ objects, images, bareNames, trash }) => ({
        objects: sorted(objects, (omap) => sorted(omap, String)),
        images: sorted(images, dumpImage),
        bareNames: sorted(bareNames, (id) => id ?? null),
        trash: sorted(trash, ({ name, source, moving }) => ({ name, source, moving })),
      }));
    });
  }
}

/** The key of `client.admin` in a memory cluster that names no users. */
export const MEMORY_KEY = "bWVtb3J5IGtleQ==";
