/**
 * Removes images: proves that nobody uses one, moves it to the trash, has it purged. Always in that order.
 *
 * Not here: when an image may go (lib/volume, lib/snapshot), and the purge itself (./purge.ts).
 *
 * 1. No image goes to the trash while somebody has it open.
 * 2. An image with data of its own is never taken for one that a crash left half made.
 * 3. No volume or snapshot goes while it has a snapshot that a person took, or a part of the snapshot of an RBD group: it
 *    holds data that somebody wanted to keep, and the trash would never give the space back. Nor is one forgotten that is in
 *    the trash already, and has a snapshot that a person took.
 * 4. The snapshot of an image that holds the point in time of a CSI snapshot goes to the trash with it, unless it has clones.
 * 5. Where a lock had to be taken away first, all is proven once more behind that.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Manager } from "../ceph/manager.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { DRIVERS_MARKS, type DriversMark, type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { DriverSettings } from "../config/settings.ts";
import { NotReadyYet, Precondition } from "../csi/errors.ts";
import { provenUnused, proveUnused } from "./in-use.ts";
import { clearLeftLocks, hasLeftLocks, proveWritable } from "./left-locks.ts";
import { personsSnapshots, refuseGroupSnapshots, refusePersonsSnapshots } from "./persons-snapshots.ts";
import { type DiscardedImage, markFor, Purge } from "./purge.ts";
import { orRaced } from "./races.ts";
import { snapshotInTrash } from "./trash-sweep.ts";
import { clearSnapshots, keptByPersons, refuseKept } from "./trashed-snapshots.ts";

/** Moves an image that nobody uses to the trash and has it purged; done when the purge is queued. */
export const discardImage = Effect.fnUntraced(function* (
  image: DiscardedImage,
): Effect.fn.Return<void, CephError, Purge | Rbd> {
  const mark = yield* moveToTrash(image, image.mark);
  yield* (yield* Purge).discard([{ ...image, mark }]);
});

/**
 * Gives the mark that the image has there, because only what has one is removed for having one. A second move finishes one
 * that was cut off, and leaves the mark. If the image is not there, somebody else has moved it, and may have made another
 * one of that name since, which stays. One that was `found` in the trash, and is out of there again, is not moved: nobody has
 * proven that it is unused.
 */
const moveToTrash = Effect.fnUntraced(function* (
  { pool, name, id, found }: Pick<DiscardedImage, "pool" | "id" | "name" | "found">,
  mark: DriversMark | undefined,
): Effect.fn.Return<DriversMark | undefined, CephError, Purge | Rbd> {
  const { keepSeconds } = yield* Purge;
  const rbd = yield* Rbd;
  const seconds = mark !== undefined && keepSeconds === 0 ? DRIVERS_MARKS[mark] : keepSeconds;
  return yield* Effect.catchTag(rbd.trashMove(pool, name, seconds, id, found === true), "ImageNotFound", () =>
    found === true ? Effect.succeed(mark) : Effect.map(rbd.trashGet(pool, id), (entry) => entry?.byDriver),
  );
});

export interface FinishOptions {
  /** Images that go with it. */
  readonly followers?: readonly string[];
  /** An image that has no driver's mark in the trash stays there: a person may have put it there, and want it back. */
  readonly onlyMarked?: boolean;
}

/**
 * Finishes the removal of an image that is gone under its name: in the trash, or on the way there. Nobody looks for one without
 * a mark later, and the manager would try to remove it for ever while it has snapshots: those of a driver are removed before,
 * and what a person's snapshots keep is not discarded but given back.
 */
export const finishRemoval = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
  { followers = [], onlyMarked = false }: FinishOptions = {},
): Effect.fn.Return<readonly Precondition[], CephError, Purge | Rados | Rbd> {
  const rbd = yield* Rbd;
  const { keepSeconds } = yield* Purge;
  const kept: Precondition[] = [];
  const byId = imageId !== undefined && followers.length === 0;
  const trashed = byId ? [yield* rbd.trashGet(pool, imageId)] : yield* rbd.trashList(pool);
  for (const name of [imageName, ...followers]) {
    for (const entry of trashed) {
      if (entry?.source !== "user" || entry.name !== name) continue;
      // what the trash protects is an administrator's to purge
      const { id, byDriver: mark } = entry;
      if (entry.protectedUntil !== undefined) yield* moveToTrash({ pool, name, id, found: true }, undefined);
      else if (onlyMarked && mark === undefined) {
        yield* Effect.logInfo(`image ${imageLabel(pool, id)} (${name}) stays in the trash: no driver's mark is on it`);
      } else {
        const image = { pool, name, id, mark, snapshot: snapshotInTrash(name), found: true };
        const keeping = mark === undefined && keepSeconds === 0 ? yield* clearSnapshots(image) : undefined;
        if (keeping === undefined || keeping.persons.length === 0) yield* discardImage(image);
        else {
          yield* Effect.logWarning(keptByPersons(image, keeping.persons));
          kept.push(refuseKept(image, keeping.persons));
        }
      }
    }
  }
  return kept;
});

/** A snapshot that a driver's own work left on an image. */
export interface Leftover {
  readonly snapshot: string;
  /** Takes it away, and what it marks as half made. */
  readonly clear: Effect.Effect<void, CephError | Precondition, DriverSettings | Manager | Purge | Rados | Rbd>;
}

export interface Removal {
  readonly pool: PoolRef;
  readonly imageName: string;
  /** As the journal has it. */
  readonly imageId?: string | undefined;
  /** Snapshots of its own that go with it. */
  readonly snapshots?: readonly string[];
  /** Which of further snapshots work that was cut off has left; they are cleared before the image goes. */
  readonly leftovers?: (snapshots: readonly string[]) => Effect.Effect<readonly Leftover[], CephError, Rados | Rbd>;
  /** Images that follow it to the trash: once it is gone, they are looked for there. */
  readonly followers?: readonly string[];
  /** See `FinishOptions`. */
  readonly onlyMarked?: boolean | undefined;
}

/**
 * Removes images of which each is the child of the next. All are proven unused, and free of a person's snapshots, before
 * anything changes. All are in the trash before the purge of the first begins, because whoever purges a child has its
 * parents open. An image that is not there is removed to its last trace. `first` comes once nothing refuses the removal,
 * before anything changes.
 */
export const removeImages = Effect.fn("images.removeImages")(function* (
  removals: readonly Removal[],
  mirrorDaemons: number,
  first: Effect.Effect<void, CephError, Rados> = Effect.void,
): Effect.fn.Return<void, CephError | Precondition, DriverSettings | Manager | Purge | Rados | Rbd> {
  const rbd = yield* Rbd;
  const purge = yield* Purge;
  for (const { pool } of removals) yield* purge.visit(pool);
  const looked = yield* provenRemovable(removals, mirrorDaemons);
  yield* first;
  const present = new Set(looked.flatMap(({ removal, image }) => (image === undefined ? [] : [removal.imageName])));
  for (const { removal, image } of looked) {
    if (image !== undefined) continue;
    const { pool, imageName, imageId, followers = [], onlyMarked = false } = removal;
    yield* rbd.imageMend(pool, imageName);
    const gone = followers.filter((follower) => !present.has(follower));
    const [kept] = yield* finishRemoval(pool, imageName, imageId, { followers: gone, onlyMarked });
    if (kept !== undefined) return yield* kept;
  }
  const gone: DiscardedImage[] = [];
  for (const { removal, image, leftovers } of looked) {
    if (image === undefined) continue;
    const { pool, imageName, snapshots = [] } = removal;
    const mark = markOf(imageName, image);
    for (const { clear } of leftovers) yield* clear;
    let goesAlong: string | undefined;
    for (const snapshot of snapshots) {
      if (mayGoAlong(snapshot, imageName, image, mark) && purge.keepSeconds === 0) {
        if (!(yield* orRaced(rbd.snapshotKeep(pool, imageName, snapshot)))) goesAlong = snapshot;
      } else yield* orRaced(rbd.snapshotRemove(pool, imageName, snapshot));
    }
    const moved = yield* moveToTrash({ pool, name: imageName, id: image.id }, mark);
    gone.push({
      pool,
      id: image.id,
      name: imageName,
      mark: moved,
      snapshot: goesAlong,
      trashedParent: trashedParentOf(pool, image),
    });
  }
  if (gone.length > 0) yield* purge.discard(gone);
});

/**
 * Whether a snapshot without clones may go to the trash with its image, and be removed there: removing it waits for the
 * monitors, and nobody needs to wait for that. A sweep has to find both if the driver dies before, by mark and name.
 */
const mayGoAlong = (
  snapshot: string,
  imageName: string,
  { namedSnapshots }: ImageStatus,
  mark: DriversMark | undefined,
): boolean => mark !== undefined && snapshot === imageName && namedSnapshots.includes(snapshot);

interface Looked {
  readonly removal: Removal;
  /** `undefined`: it does not exist under its name. */
  readonly image: ImageStatus | undefined;
  readonly leftovers: readonly Leftover[];
}

/** Locks that were left on the images are taken away. What is proven is proven by looks that came after that. */
const provenRemovable = Effect.fnUntraced(function* (
  removals: readonly Removal[],
  mirrorDaemons: number,
): Effect.fn.Return<readonly Looked[], CephError | Precondition, DriverSettings | Manager | Rados | Rbd> {
  const look = lookAt(removals, mirrorDaemons);
  const looked = yield* look;
  for (const { removal, image } of looked) {
    if (image !== undefined) yield* clearLeftLocks(removal.pool, removal.imageName, image);
  }
  if (!looked.some(({ image }) => image !== undefined && hasLeftLocks(image))) return looked;
  const last = yield* look;
  for (const { removal, image } of last) {
    if (image !== undefined) yield* proveWritable(removal.pool, removal.imageName, image);
  }
  return last;
});

const lookAt = Effect.fnUntraced(function* (
  removals: readonly Removal[],
  mirrorDaemons: number,
): Effect.fn.Return<readonly Looked[], CephError | Precondition, DriverSettings | Manager | Rados | Rbd> {
  const looked = yield* Effect.forEach(removals, (removal) =>
    Effect.map(provenUnused(removal.pool, removal.imageName, mirrorDaemons), (image) => ({ removal, image })),
  );
  return yield* Effect.forEach(looked, ({ removal, image }) =>
    Effect.map(driversLeftovers(removal, image), (leftovers) => ({ removal, image, leftovers })),
  );
});

const trashedParentOf = (pool: PoolRef, { parent }: ImageStatus): DiscardedImage["trashedParent"] =>
  parent?.inTrash === true
    ? { pool: { ...pool, pool: parent.pool, namespace: parent.namespace }, id: parent.imageId }
    : undefined;

const markOf = (
  name: string,
  { sizeBytes, objectSize }: Pick<ImageStatus, "objectSize" | "sizeBytes">,
): DriversMark | undefined => markFor(name, (sizeBytes + objectSize - 1n) / objectSize);

/**
 * What a driver left on the image. Fails if any other snapshot is there that does not go with it. A driver removes its
 * snapshot before the journal entry that proves it: one without an entry is a person's only if it is still there after
 * the entry was looked for.
 */
const driversLeftovers = Effect.fnUntraced(function* (
  { pool, imageName, snapshots = [], leftovers }: Removal,
  image: ImageStatus | undefined,
): Effect.fn.Return<readonly Leftover[], CephError | Precondition, Rados | Rbd> {
  const further = image?.namedSnapshots.filter((name) => !snapshots.includes(name)) ?? [];
  const left = leftovers === undefined || further.length === 0 ? [] : yield* leftovers(further);
  if (image === undefined) return left;
  yield* refuseGroupSnapshots(pool, imageName, image);
  const unproven = personsSnapshots(image, [...snapshots, ...left.map(({ snapshot }) => snapshot)]);
  if (unproven.length === 0) return left;
  const { namedSnapshots: now } = yield* orRaced((yield* Rbd).imageStatus(pool, imageName));
  const persons = unproven.filter((name) => now.includes(name));
  yield* refusePersonsSnapshots(pool, imageName, persons);
  return left;
});

/**
 * Removes an image that a clone may have left half made, so that it can be made again. Its snapshots named in
 * `snapshots` go with it. `takeOver` comes last before the first of them goes: it proves that nobody calls the image
 * complete, nor will (lib/journal/making.ts).
 */
export const discardUnfinished = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  takeOver: Effect.Effect<unknown, CephError, Rados | Rbd>,
  snapshots: readonly string[] = [],
  mirrorDaemons = 0,
): Effect.fn.Return<void, CephError | Precondition, Purge | Rados | Rbd> {
  const rbd = yield* Rbd;
  if (!(yield* rbd.imageMend(pool, imageName))) return void (yield* finishRemoval(pool, imageName, undefined));
  const image = yield* Effect.catchTag(orRaced(rbd.imageStatus(pool, imageName)), "ParentLost", (failure) =>
    Effect.as(discardLost(pool, imageName, takeOver, failure), undefined),
  );
  if (image === undefined) return;
  yield* proveUnused(pool, imageName, image, { mirrorDaemons });
  if (yield* orRaced(rbd.imageHasData(pool, imageName, "own"))) {
    return yield* new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: "is in the way: it looks like a clone that was cut off, but it holds data of its own",
      remedy: `Look at it ("rbd export"), and move it to the trash by hand ("rbd trash mv") if nobody needs it`,
    });
  }
  yield* orRaced(takeOver);
  for (const snapshot of snapshots) yield* orRaced(rbd.snapshotRemove(pool, imageName, snapshot));
  const mark = markOf(imageName, image);
  yield* discardImage({ pool, name: imageName, id: image.id, mark, trashedParent: trashedParentOf(pool, image) });
});

/**
 * `discardUnfinished` of a clone that its parent did not know yet when it was cut off, and whose parent is gone since. It
 * cannot be opened. An interrupted flatten leaves such an image as well, and that one holds data.
 */
const discardLost = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  takeOver: Effect.Effect<unknown, CephError, Rados | Rbd>,
  failure: CephError,
): Effect.fn.Return<void, CephError, Purge | Rados | Rbd> {
  const image = yield* (yield* Rbd).imageLost(pool, imageName);
  if (image === undefined || image.hasData) return yield* failure;
  yield* orRaced(takeOver);
  yield* discardImage({ pool, name: imageName, id: image.id, mark: markOf(imageName, image) });
});

/**
 * `discardUnfinished` before the image is made again. Only a driver has it open, or one that died a moment ago. A living
 * driver may be making the clone without having it open: that one notices, unlinks what it made, and fails as `Raced`.
 */
export const clearUnfinished = (
  pool: PoolRef,
  imageName: string,
  takeOver: Effect.Effect<unknown, CephError, Rados | Rbd>,
  snapshots: readonly string[] = [],
  mirrorDaemons = 0,
): Effect.Effect<void, CephError | NotReadyYet | Precondition, Purge | Rados | Rbd> =>
  Effect.catchTag(
    discardUnfinished(pool, imageName, takeOver, snapshots, mirrorDaemons),
    "Busy",
    ({ op, watchers }) => {
      const subject = `image ${imageLabel(pool, imageName)}`;
      const problem = `is half made and still open (${watchers?.join(", ") ?? op}). The client that has it open has probably crashed`;
      return Effect.fail(new NotReadyYet({ subject, problem, remedy: "Ceph drops it within about 30 s; retry then" }));
    },
  );
