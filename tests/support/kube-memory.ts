/**
 * The Kubernetes API in memory, as far as controllers of volumes can tell it from a real one: objects, resource versions,
 * finalizers, status as a subresource, merge and JSON patches, watches from a version on, and compaction.
 *
 * Not here: HTTP (./kube-server.ts), admission and validation of fields.
 *
 * 1. A write with an old resource version changes nothing: 409.
 * 2. A deleted object with finalizers stays, and goes with the last of them; it gets no new ones: 422.
 * 3. A watch from a version before the last compaction fails with 410.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Queue from "effect/Queue";
import * as Stream from "effect/Stream";
import { KubeFailed, type Verb } from "../../lib/kube/errors.ts";
import { type JsonOperation, Kube, type KubeService, type Page, type WatchEvent } from "../../lib/kube/kube.ts";

type Json = Record<string, unknown>;

export interface KubeObject extends Json {
  readonly metadata: Json & {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion: string;
    readonly finalizers?: readonly string[];
    readonly deletionTimestamp?: string;
  };
}

/** A refusal, as the API's `Status` has it. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Logged {
  readonly list: string;
  readonly version: number;
  readonly event: WatchEvent;
}

interface Place {
  readonly list: string;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly subresource: string;
}

const PATH = /^((?:\/api\/v1|\/apis\/[^/]+\/[^/]+)(?:\/namespaces\/([^/]+))?\/[a-z]+)(?:\/([^/]+))?(?:\/([a-z]+))?$/;

/** Where a path leads; the name is "" for a list. */
const placeOf = (path: string): Place => {
  const [, list = "", namespace, name = "", subresource = ""] = PATH.exec(path) ?? [];
  if (list === "") throw new Refused(404, "NotFound", `the server could not find ${path}`);
  return { list, namespace, name: decodeURIComponent(name), subresource };
};

/** Resources whose status is written on its own path only. */
const WITH_STATUS = /\/(volumeattachments|persistentvolumes|persistentvolumeclaims)$/;

export class KubeMemory {
  /** Every request that a client made, such as `patch /api/v1/persistentvolumes/pv-1`. */
  readonly requests: string[] = [];
  private readonly lists = new Map<string, Map<string, KubeObject>>();
  private version = 100;
  private compacted = 0;
  private readonly log: Logged[] = [];
  private readonly watchers = new Map<(logged: Logged) => void, () => void>();
  /** Times of deletions and creations. */
  now: () => number = Date.now;

  objects(list: string): readonly KubeObject[] {
    return [...(this.lists.get(list)?.values() ?? [])].toSorted((a, b) =>
      a.metadata.name.localeCompare(b.metadata.name),
    );
  }

  find(path: string): KubeObject | undefined {
    const { list, name } = placeOf(path);
    return this.lists.get(list)?.get(name);
  }

  get(path: string): KubeObject {
    const found = this.find(path);
    if (found === undefined) throw new Refused(404, "NotFound", `${path} not found`);
    return found;
  }

  page(path: string, limit: number, after: string): Page {
    const all = this.objects(path);
    // A page goes on at the version that its list began with.
    const [from, began] = after === "" ? [0, this.version] : (JSON.parse(after) as [number, number]);
    if (began < this.compacted) throw new Refused(410, "Expired", "the continue token is too old");
    const end = limit > 0 ? from + limit : all.length;
    const next = end < all.length ? JSON.stringify([end, began]) : "";
    return { items: all.slice(from, end), resourceVersion: String(began), next };
  }

  create(path: string, given: object): KubeObject {
    const { list, namespace } = placeOf(path);
    const body = structuredClone(given) as KubeObject;
    const { name } = body.metadata;
    if (this.lists.get(list)?.has(name) === true) throw new Refused(409, "AlreadyExists", `${name} already exists`);
    const metadata = {
      uid: crypto.randomUUID(),
      creationTimestamp: this.time(),
      ...body.metadata,
      ...(namespace !== undefined && { namespace }),
    };
    return this.store(list, "ADDED", { ...body, metadata });
  }

  update(path: string, given: object): KubeObject {
    const before = this.get(path);
    const body = structuredClone(given) as KubeObject;
    if (body.metadata.resourceVersion !== before.metadata.resourceVersion) throw conflict(path);
    return this.change(path, before, body);
  }

  merge(path: string, patch: object): KubeObject {
    const before = this.get(path);
    const { resourceVersion } = (patch as { metadata?: { resourceVersion?: string } }).metadata ?? {};
    if (resourceVersion !== undefined && resourceVersion !== before.metadata.resourceVersion) throw conflict(path);
    return this.change(path, before, merged(before, patch) as KubeObject);
  }

  patch(path: string, operations: readonly JsonOperation[]): KubeObject {
    const before = this.get(path);
    const after = structuredClone(before) as Json;
    for (const operation of operations) applyOperation(after, operation);
    return this.change(path, before, after as KubeObject);
  }

  remove(path: string): void {
    const { list } = placeOf(path);
    const before = this.get(path);
    if ((before.metadata.finalizers ?? []).length === 0) return this.drop(list, before);
    if (before.metadata.deletionTimestamp !== undefined) return;
    this.store(list, "MODIFIED", { ...before, metadata: { ...before.metadata, deletionTimestamp: this.time() } });
  }

  /** -> how to stop; the listener is told of what has been since that version first. */
  watch(
    list: string,
    resourceVersion: string,
    listener: (event: WatchEvent) => void,
    end: () => void = () => undefined,
  ): () => void {
    const since = Number(resourceVersion);
    if (since > this.version) throw new Refused(504, "Timeout", "Too large resource version");
    if (since < this.compacted) throw new Refused(410, "Expired", "too old resource version");
    for (const logged of this.log) if (logged.list === list && logged.version > since) listener(logged.event);
    const each = (logged: Logged) => {
      if (logged.list === list) listener(logged.event);
    };
    this.watchers.set(each, end);
    return () => void this.watchers.delete(each);
  }

  /** Ends all watches as a server does that stops; what happens meanwhile happens while nobody watches. */
  endWatches(meanwhile: () => void = () => undefined): void {
    const ends = [...this.watchers.values()];
    this.watchers.clear();
    meanwhile();
    for (const end of ends) end();
  }

  /** Forgets the versions before now, as etcd does every five minutes. */
  compact(): void {
    this.version += 1;
    this.compacted = this.version;
    this.log.length = 0;
  }

  /** -> how to restore what is now, with its versions, as etcd is restored from a backup; it ends all watches. */
  backup(): () => void {
    const saved = structuredClone({ lists: this.lists, version: this.version });
    return () =>
      this.endWatches(() => {
        this.lists.clear();
        for (const [list, objects] of saved.lists) this.lists.set(list, objects);
        this.version = saved.version;
        this.log.length = 0;
      });
  }

  currentVersion(): string {
    return String(this.version);
  }

  private time(): string {
    return new Date(this.now()).toISOString().replace(/\.\d+/, "");
  }

  private change(path: string, before: KubeObject, after: KubeObject): KubeObject {
    const { list, subresource } = placeOf(path);
    const parts = WITH_STATUS.test(list) ? separate(before, after, subresource) : after;
    const { deletionTimestamp, resourceVersion, uid, name } = before.metadata;
    const fixed = { uid, name, resourceVersion, ...(deletionTimestamp !== undefined && { deletionTimestamp }) };
    const object: KubeObject = { ...parts, metadata: { ...parts.metadata, ...fixed } };
    const [had, has] = [before.metadata.finalizers ?? [], object.metadata.finalizers ?? []];
    if (deletionTimestamp !== undefined && has.some((each) => !had.includes(each))) {
      throw new Refused(422, "Invalid", "no new finalizers can be added if the object is being deleted");
    }
    if (deletionTimestamp !== undefined && has.length === 0) {
      this.drop(list, object);
      return object;
    }
    if (Bun.deepEquals(before, object)) return before;
    return this.store(list, "MODIFIED", object);
  }

  private store(list: string, type: "ADDED" | "MODIFIED", object: KubeObject): KubeObject {
    this.version += 1;
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.version) } };
    let objects = this.lists.get(list);
    if (objects === undefined) this.lists.set(list, (objects = new Map()));
    objects.set(stored.metadata.name, stored);
    this.tell(list, { type, object: stored });
    return stored;
  }

  private drop(list: string, object: KubeObject): void {
    this.version += 1;
    this.lists.get(list)?.delete(object.metadata.name);
    const last = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.version) } };
    this.tell(list, { type: "DELETED", object: last });
  }

  private tell(list: string, event: WatchEvent): void {
    const logged = { list, version: this.version, event };
    this.log.push(logged);
    for (const each of this.watchers.keys()) each(logged);
  }
}

const conflict = (path: string) => new Refused(409, "Conflict", `${path}: the object has been modified`);

/** Of a write to the object or to its status, only the one or the other counts. */
const separate = (before: KubeObject, after: KubeObject, subresource: string): KubeObject => {
  if (subresource === "status") return { ...before, status: after["status"] };
  const { status: _, ...rest } = after;
  return { ...rest, metadata: after.metadata, ...("status" in before && { status: before["status"] }) };
};

/** RFC 7386. */
export const merged = (target: unknown, patch: unknown): unknown => {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return structuredClone(patch);
  const result: Json = typeof target === "object" && target !== null && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = merged(result[key], value);
  }
  return result;
};

/** The part of RFC 6902 that clients here use. */
const applyOperation = (root: Json, { op, path, value }: JsonOperation): void => {
  const keys = path
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  const last = keys.pop() ?? "";
  let at: unknown = root;
  for (const key of keys) at = (at as Json | undefined)?.[key];
  const failed = (what: string) => new Refused(422, "Invalid", `${what} path ${path} failed`);
  if (typeof at !== "object" || at === null) throw failed(op === "test" ? "testing" : "finding");
  const parent = at as Json;
  if (op === "test") {
    if (!Bun.deepEquals(parent[last], value)) throw failed("testing");
  } else if (op === "remove") {
    if (!(last in parent)) throw failed("removing");
    if (Array.isArray(parent)) parent.splice(Number(last), 1);
    else delete parent[last];
  } else if (Array.isArray(parent) && op === "add") {
    parent.splice(last === "-" ? parent.length : Number(last), 0, value);
  } else parent[last] = value;
};

/** Decides whether a request is made; fails it, delays it, or changes the world first. */
export type AroundKube = <A>(
  request: { readonly verb: Verb; readonly path: string },
  act: Effect.Effect<A, KubeFailed>,
) => Effect.Effect<A, KubeFailed>;

/** A client of that API, without a wire between. */
export const kubeMemoryService = (memory: KubeMemory, around: AroundKube = (_, act) => act): KubeService => {
  const ask = <A>(verb: Verb, path: string, act: () => A): Effect.Effect<A, KubeFailed> =>
    Effect.suspend(() => {
      memory.requests.push(`${verb} ${path}`);
      return around({ verb, path }, attempt(verb, path, act));
    });
  return {
    namespace: Effect.succeed("storage"),
    get: (path) => ask("get", path, () => structuredClone(memory.get(path))),
    list: (path, { limit, after }) => ask("list", path, () => structuredClone(memory.page(path, limit, after))),
    create: (path, object) => ask("create", path, () => structuredClone(memory.create(path, object))),
    update: (path, object) => ask("update", path, () => structuredClone(memory.update(path, object))),
    patch: (path, patch) =>
      ask("patch", path, () =>
        structuredClone("merge" in patch ? memory.merge(path, patch.merge) : memory.patch(path, patch.json)),
      ),
    watch: (path, version) =>
      Stream.callback<WatchEvent, KubeFailed>((queue) =>
        Effect.acquireRelease(
          ask("watch", path, () =>
            memory.watch(
              path,
              version,
              (event) => void Queue.offerUnsafe(queue, structuredClone(event)),
              () => void Queue.endUnsafe(queue),
            ),
          ),
          (stop) => Effect.sync(stop),
        ).pipe(Effect.catch((failed) => Queue.fail(queue, failed))),
      ),
  };
};

const attempt = <A>(verb: Verb, path: string, act: () => A): Effect.Effect<A, KubeFailed> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(act());
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { status, reason: code, message: reason } = error;
      return Effect.fail(new KubeFailed({ verb, path, status, code, reason: `HTTP ${status}: ${reason}` }));
    }
  });

export const kubeMemoryLayer = (memory: KubeMemory, around?: AroundKube): Layer.Layer<Kube> =>
  Layer.sync(Kube, () => Kube.of(kubeMemoryService(memory, around)));
