/**
 * Keeps what a resource's objects are now: a list, then a watch, for as long as the scope is open. Of each object only
 * the fields that the schema names are kept, and only of the objects that are wanted.
 *
 * Not here: one request, and when a silent watch is given up (./request.ts).
 *
 * 1. The store never goes back: of two versions of an object the newer one stays, whoever brought it. Only where the server
 *    itself has gone back (etcd was restored from a backup) the store does, too, by the next list.
 * 2. What disappears while nobody watches is found by the next list, and told like any other deletion.
 * 3. No failure ends an informer: it waits, longer each time, and goes on from where it was. Only the first time that the
 *    server has forgotten where a watch was, it lists at once.
 */
import * as Clock from "effect/Clock";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type * as Scope from "effect/Scope";
import * as Stream from "effect/Stream";
import type * as z from "zod";
import { makeBackoff } from "./backoff.ts";
import { isExpired, KubeFailed } from "./errors.ts";
import { identityOf, isBefore, Kube, type KubeService, type WatchEvent } from "./kube.ts";

/** What every kept object has. */
export interface Kept {
  readonly resourceVersion: string;
}

export interface Resource<T extends Kept> {
  /** Of the list. */
  readonly path: string;
  /** Reads the fields that are kept. */
  readonly schema: z.ZodType<T>;
  /** Whether an object is kept at all; absent: each is. */
  readonly wanted?: (object: T) => boolean;
}

/** `before` is absent for a new object, `now` for one that is gone. */
export interface Change<T> {
  readonly key: string;
  readonly before: T | undefined;
  readonly now: T | undefined;
}

/** Objects by `name`, or `namespace/name`. */
export interface Informer<T> {
  readonly get: (key: string) => T | undefined;
  readonly entries: () => IterableIterator<[string, T]>;
  readonly size: () => number;
  /** Ends once the first list is complete. */
  readonly synced: Effect.Effect<void>;
  /** Takes over the answer to a write, so that the next look does not see what was before it. */
  readonly learn: (object: unknown) => void;
}

/** Objects per page of a list: the JSON of one page is in memory at a time. */
const PAGE = 500;
/** A watch that ends sooner, without an event, is a failure. */
const TOO_SHORT_MS = 1_000;

/** Starts an informer. `onChange` must not throw, and sees each change after the store has it. */
export const informer = <T extends Kept>(
  resource: Resource<T>,
  onChange: (change: Change<T>) => void,
): Effect.Effect<Informer<T>, never, Kube | Scope.Scope> =>
  Effect.gen(function* () {
    const kube = yield* Kube;
    const store = makeStore(resource, onChange);
    const ready = yield* Deferred.make<void>();
    yield* Effect.forkScoped(keepCurrent(kube, resource.path, store, ready));
    return {
      get: (key) => store.kept.get(key),
      entries: () => store.kept.entries(),
      size: () => store.kept.size,
      synced: Deferred.await(ready),
      learn: store.learn,
    };
  });

interface Store<T> {
  readonly kept: ReadonlyMap<string, T>;
  /** -> why the object cannot be kept, if it cannot. `back`: also one that is older than what is kept. */
  readonly put: (object: unknown, back?: boolean) => string | undefined;
  readonly drop: (key: string) => void;
  readonly learn: (object: unknown) => void;
}

const keyOf = (object: unknown): string | undefined => {
  const identity = identityOf(object);
  if (identity === undefined) return undefined;
  return identity.namespace === "" ? identity.name : `${identity.namespace}/${identity.name}`;
};

const makeStore = <T extends Kept>(
  { schema, wanted = () => true }: Resource<T>,
  onChange: (change: Change<T>) => void,
): Store<T> => {
  const kept = new Map<string, T>();
  const drop = (key: string) => {
    const before = kept.get(key);
    if (kept.delete(key)) onChange({ key, before, now: undefined });
  };
  const put = (object: unknown, back = false): string | undefined => {
    const key = keyOf(object);
    const { data: read, error } = schema.safeParse(object);
    if (key === undefined) return "an object without a name";
    if (read === undefined) return `${key}: ${error?.issues[0]?.path.join(".")}: ${error?.issues[0]?.message}`;
    const before = kept.get(key);
    const known = before?.resourceVersion ?? "";
    if (!wanted(read)) drop(key);
    else if (
      before === undefined ||
      (read.resourceVersion !== known && (back || !isBefore(read.resourceVersion, known)))
    ) {
      kept.set(key, read);
      onChange({ key, before, now: read });
    }
    return undefined;
  };
  return {
    kept,
    put,
    drop,
    learn: (object) => {
      // An object that the store does not have is gone: the answer to an earlier write must not bring it back.
      const key = keyOf(object);
      if (key !== undefined && kept.has(key)) put(object);
    },
  };
};

const keepCurrent = <T>(
  kube: KubeService,
  path: string,
  store: Store<T>,
  ready: Deferred.Deferred<void>,
): Effect.Effect<never> => {
  const wait = makeBackoff();
  const place: Place = { version: "", expired: 0 };
  return Effect.gen(function* () {
    yield* listAll(kube, path, store, place);
    yield* Deferred.done(ready, Exit.void);
    return yield* follow(kube, path, store, place, wait);
  }).pipe(
    Effect.catch((failed) =>
      isExpired(failed) && (place.expired += 1) === 1
        ? Effect.logDebug(`${path}: listed again, because the server has forgotten the version that was watched`)
        : Effect.andThen(Effect.logWarning(`${failed.message}; retrying`), wait),
    ),
    Effect.forever,
  );
};

/** Where an informer is in the history of its objects. */
interface Place {
  /** Of the latest list, or event. */
  version: string;
  /** How many times in a row the server has forgotten it. */
  expired: number;
}

/** Leaves in `place` the version that the list is of. */
const listAll = <T>(
  { list }: KubeService,
  path: string,
  store: Store<T>,
  place: Place,
): Effect.Effect<void, KubeFailed> =>
  Effect.gen(function* () {
    const seen = new Set<string>();
    let after = "";
    for (;;) {
      const { items, next, resourceVersion } = yield* list(path, { limit: PAGE, after });
      const back = isBefore(resourceVersion, place.version);
      for (const item of items) {
        yield* sayUnreadable(path, store.put(item, back));
        seen.add(keyOf(item) ?? "");
      }
      after = next;
      if (next !== "") continue;
      for (const key of store.kept.keys()) if (!seen.has(key)) store.drop(key);
      if (back)
        yield* Effect.logWarning(`${path}: the API server went back from ${place.version} to ${resourceVersion}`);
      place.version = resourceVersion;
      return;
    }
  });

/** No server of Kubernetes sends such an object; if one does, it is not looked at, and somebody must know. */
const sayUnreadable = (path: string, problem: string | undefined): Effect.Effect<void> =>
  problem === undefined ? Effect.void : Effect.logError(`${path}: an object is left out: ${problem}`);

/** After that many watches in a row that the server refuses, or ends, without an event, it is asked for a list again. */
const REFUSALS = 5;
const AT_ONCE = "the watch ended at once";
/** A server that cannot be reached has refused nothing. */
const isRefusal = ({ status, reason }: KubeFailed): boolean => status !== undefined || reason === AT_ONCE;

/** Watches from that version on, through the ends of watches, until the server has forgotten where it was. */
const follow = <T>(
  { watch }: KubeService,
  path: string,
  store: Store<T>,
  place: Place,
  wait: Effect.Effect<void>,
): Effect.Effect<never, KubeFailed> => {
  let events = 0;
  const inARow = { failures: 0, refusals: 0 };
  const begun = () => {
    Object.assign(inARow, { failures: 0, refusals: 0 });
    place.expired = 0;
  };
  const take = ({ type, object }: WatchEvent): Effect.Effect<void> => {
    events += 1;
    begun();
    place.version = versionOf(object) ?? place.version;
    if (type === "BOOKMARK") return Effect.void;
    if (type !== "DELETED") return sayUnreadable(path, store.put(object));
    store.drop(keyOf(object) ?? "");
    return Effect.void;
  };
  const once = Effect.gen(function* () {
    const [began, eventsBefore] = [yield* Clock.currentTimeMillis, events];
    yield* Stream.runForEach(watch(path, place.version), take);
    if (events === eventsBefore && (yield* Clock.currentTimeMillis) - began < TOO_SHORT_MS) {
      return yield* new KubeFailed({ verb: "watch", path, reason: AT_ONCE });
    }
    begun();
  });
  const patient = Effect.catchIf(
    once,
    (failed) => !isExpired(failed) && !(isRefusal(failed) && (inARow.refusals += 1) >= REFUSALS),
    ({ message }) => {
      const line = `${message}; retrying`;
      // every watch ends at some time
      const isUsual = (inARow.failures += 1) === 1;
      return Effect.andThen(isUsual ? Effect.logDebug(line) : Effect.logWarning(line), wait);
    },
  );
  return Effect.forever(patient);
};

/** Of a bookmark, too, which has no name. */
const versionOf = (object: unknown): string | undefined => {
  const { metadata } = (object ?? {}) as { readonly metadata?: { readonly resourceVersion?: unknown } };
  return typeof metadata?.resourceVersion === "string" ? metadata.resourceVersion : undefined;
};
