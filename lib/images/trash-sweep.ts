/**
 * Looks through the trash of pools that are in use for what drivers left there that died behind their answer.
 *
 * Not here: the removal of what it finds (./purge.ts).
 *
 * 1. It finds images only that have a driver's mark in the trash and a driver's name, and whose journal entry is gone or has
 *    the image of a later attempt. Whatever else is in the trash a person put there, who may want it back. An image in
 *    between needs no entry gone: the entry is its volume's, and nobody wants back what a driver took out of there.
 * 2. Those that the manager has a task for are left to it, and told apart. Of these it also gives the ones without a mark: by
 *    the task somebody, as ceph-csi, wants them removed.
 * 3. A pool is looked through some time after its first use, and again every ten minutes as long as it is used: another
 *    driver may have died since. Each search takes at most four calls, and finds at most `MOST` images.
 * 4. No request waits for it or fails with it.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { ManagerTask } from "../ceph/manager.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import type { TrashEntry } from "../ceph/rbd.ts";
import { isUuid, UUID_LENGTH } from "../csi/volume-id.ts";
import { isOvertaken, prefixOf } from "../journal/attempt-names.ts";
import { imageNameOf, readManyAttributes, SNAPSHOTS, VOLUMES } from "../journal/journal.ts";
import { unattended } from "../operations/unattended.ts";
import { HELD_SECONDS } from "./quick-purge.ts";
import { TEMP_SUFFIX } from "./temp-suffix.ts";

const EVERY = "10 minutes";
/** At one time: the rest is found the next time. */
const MOST = 1024;

export interface SweepCalls {
  readonly trashList: (pool: PoolRef) => Effect.Effect<readonly TrashEntry[], CephError>;
  readonly managerTasks: (access: PoolRef["access"]) => Effect.Effect<readonly ManagerTask[], CephError>;
  /** Labels of the images that this process is going to remove anyway. */
  readonly pending: () => readonly string[];
}

export interface Swept {
  /** Images that nobody is going to remove. */
  readonly left: readonly TrashEntry[];
  /** Images that the manager has a task for. */
  readonly given: readonly { readonly entry: TrashEntry; readonly task: ManagerTask }[];
}

/** Drivers' images in the trash. */
export const leftInTrash = Effect.fnUntraced(function* (
  pool: PoolRef,
  { trashList, managerTasks, pending }: SweepCalls,
): Effect.fn.Return<Swept, CephError, Rados> {
  const entries = yield* trashList(pool);
  const known = new Set(pending());
  const ours = entries.flatMap((entry) => {
    const made = madeByDriver(entry.name);
    const foreign = entry.source !== "user" || entry.protectedUntil !== undefined;
    return made === undefined || foreign || known.has(imageLabel(pool, entry.id)) ? [] : [{ entry, ...made }];
  });
  if (ours.length === 0) return { left: [], given: [] };
  // without a manager nobody works on its tasks
  const tasks = yield* Effect.catchTag(managerTasks(pool.access), "ManagerUnavailable", () => Effect.succeed([]));
  const given = new Map(
    tasks.flatMap((task) =>
      task.action === "trash remove" && task.pool === pool.pool && task.namespace === pool.namespace
        ? [[task.image, task] as const]
        : [],
    ),
  );
  const wanted = ours.filter(({ entry: { id, byDriver } }) => byDriver !== undefined || given.has(id));
  /** The images that the journal has under each UUID. */
  const owners = new Map<string, readonly string[]>();
  const uuids = [...new Set(wanted.flatMap(({ uuid, isTemp }) => (isTemp ? [] : [uuid])))];
  for (const kind of uuids.length === 0 ? [] : [VOLUMES, SNAPSHOTS]) {
    const attributes = yield* readManyAttributes(kind, pool, uuids);
    for (const [at, uuid] of uuids.entries()) {
      const entry = attributes[at];
      if (entry !== undefined) owners.set(uuid, [...(owners.get(uuid) ?? []), imageNameOf(kind, uuid, entry)]);
    }
  }
  const isOwned = ({ name }: TrashEntry, uuid: string): boolean =>
    (owners.get(uuid) ?? []).some((latest) => !isOvertaken(name, latest, uuid));
  const unwanted = wanted.filter(({ entry, uuid, isTemp }) => isTemp || !isOwned(entry, uuid));
  return {
    left: unwanted.flatMap(({ entry }) => (given.has(entry.id) ? [] : [entry])).slice(0, MOST),
    given: unwanted.flatMap(({ entry }) => {
      const task = given.get(entry.id);
      return task === undefined ? [] : [{ entry, task }];
    }),
  };
});

interface DriversName {
  readonly uuid: string;
  /** The prefix is the one that drivers take where the class names none. */
  readonly byDefault: boolean;
  /** It is the name of an image in between. */
  readonly isTemp: boolean;
}

/** What a driver's image name says: a prefix, a UUID, and the end of an image in between; `undefined` of any other name. */
export const madeByDriver = (name: string): DriversName | undefined => {
  const isTemp = name.endsWith(TEMP_SUFFIX);
  const whole = isTemp ? name.slice(0, -TEMP_SUFFIX.length) : name;
  const uuid = whole.slice(-UUID_LENGTH);
  const prefix = prefixOf(whole, uuid);
  if (prefix === "" || !isUuid(uuid)) return undefined;
  const byDefault = [VOLUMES, SNAPSHOTS].some(({ defaultImagePrefix }) => prefix === defaultImagePrefix);
  return { uuid, byDefault, isTemp };
};

/**
 * The snapshot that may have gone to the trash with an image of that name (./removal.ts); `undefined`: volumes that have the
 * default prefix have none, nor have images in between. One that has another one after all is found out when it is removed.
 */
export const snapshotInTrash = (name: string): string | undefined =>
  name.startsWith(VOLUMES.defaultImagePrefix) || name.endsWith(TEMP_SUFFIX) ? undefined : name;

/** Gives a function that is told of each use of a pool, and has it swept now and then. */
export const makeSweeps = (sweep: (pool: PoolRef) => Effect.Effect<void, CephError>) =>
  Effect.map(Effect.scope, (scope) => {
    const used = new Map<string, { pool: PoolRef; again: boolean }>();

    const sweeps = Effect.fnUntraced(function* (key: string, state: { pool: PoolRef; again: boolean }) {
      // By then Ceph has dropped the watches of drivers that died before this one began.
      yield* Effect.sleep(`${HELD_SECONDS} seconds`);
      do {
        state.again = false;
        yield* unattended(sweep(state.pool), (reason) =>
          Effect.logWarning(`could not look for left-over images in the trash: ${reason}`),
        );
        yield* Effect.sleep(EVERY);
      } while (state.again);
      used.delete(key);
    });

    return (pool: PoolRef): Effect.Effect<void> =>
      Effect.suspend(() => {
        const key = `${pool.access.monitors.join(",")} ${imageLabel(pool, "")}`;
        const state = used.get(key);
        if (state !== undefined) {
          // the latest credentials are the ones that work
          Object.assign(state, { pool, again: true });
          return Effect.void;
        }
        const begun = { pool, again: false };
        used.set(key, begun);
        return Effect.asVoid(Effect.forkIn(sweeps(key, begun), scope));
      });
  });
