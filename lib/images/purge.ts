/**
 * Empties the trash. Small images are removed by the driver itself, behind its answer, because the manager removes one
 * image after another. Large ones, and those that the driver could not remove, are the manager's; where the manager
 * can't, the driver removes them in the background, one at a time.
 *
 * Not here: moving an image to the trash, and the proof that nobody needs it (./removal.ts); the removal of small images
 * (./quick-purge.ts); the search for what a crash left (./trash-sweep.ts), and for what a race left (./second-look.ts).
 *
 * 1. `discard` answers when the removal is in somebody's queue; it never waits for the removal itself.
 * 2. The queues of this process are only shortcuts, so a crash loses nothing: an image that a driver moved to the trash has
 *    its mark there, and a sweep finds it. One without a mark is the manager's, which remembers it; while no manager takes
 *    it, `discard` fails, so that the journal keeps its name until it is gone.
 * 3. Removing an image twice is harmless: the second finds it gone, or busy and tries later. An image that somebody has taken
 *    out of the trash is neither removed nor loses a snapshot, also if it is in the trash again: it has no mark then.
 * 4. A process that ends in order gives what waits in its own queue to the manager, as much as a moment permits. What a
 *    snapshot keeps in the trash is left to a sweep, because the manager does not remove snapshots.
 * 5. What snapshots keep in the trash is given to the manager only once no snapshot is there that nobody would remove: those of
 *    drivers are removed, and where a person's is left, the log names it, and a sweep looks again (./trashed-snapshots.ts). What
 *    it was given and does not remove is looked after (./manager-tasks.ts).
 * 6. The manager gets an image when its mark protects it no longer, because it would try again only half a minute later.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Ceph } from "../ceph/ceph.ts";
import { type CephError, HasSnapshots } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Manager } from "../ceph/manager.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { DRIVERS_MARKS, type DriversMark, Rbd } from "../ceph/rbd.ts";
import { unattended } from "../operations/unattended.ts";
import { within } from "../operations/within.ts";
import { makeBackground } from "./background-queue.ts";
import { HELD_SECONDS, makeQuickPurge, type OfferOptions, type TrashedImage } from "./quick-purge.ts";
import { makeTending } from "./manager-tasks.ts";
import { makeReminder } from "./reminder.ts";
import { makeSecondLook } from "./second-look.ts";
import { leftInTrash, madeByDriver, makeSweeps, snapshotInTrash } from "./trash-sweep.ts";
import { clearSnapshots, type InTrash, keptByPersons, notSeen } from "./trashed-snapshots.ts";

/** Of an image that the driver removes itself: 16 GiB with objects of the usual size. */
const MOST_OBJECTS = 4096n;
/** For giving what waits to the manager when the process ends, out of the reserve of the grace budget. */
const LEAVE = "500 millis";

/** So often the manager may fail to take an image that has no mark before the driver removes it itself, too. */
const REFUSALS = 3;
const MOST_REFUSALS = 1024;

/** For so long nobody tries to remove an image that a person's snapshot keeps. */
const KEPT_MS = 3_600_000;
const MOST_KEPT = 4096;

/** After it no mark protects an image any more. */
const UNPROTECTED_SECONDS = Math.max(...Object.values(DRIVERS_MARKS)) + 1;

/**
 * An image in the trash. One that holds the point in time of a CSI snapshot goes there with its snapshot, which has the
 * image's own name, by which a sweep knows it.
 */
export interface DiscardedImage extends TrashedImage {
  /** It was found in the trash, so a driver may have it open that died. */
  readonly found?: boolean;
  /** Its parent is in the trash, too, and may be removed at the same moment by somebody else. */
  readonly trashedParent?: Pick<TrashedImage, "pool" | "id"> | undefined;
}

/**
 * The mark for an image of that name with that many objects (absent: not known). The driver itself removes small images
 * that have a default name. `undefined`: no driver gives such a name, so none may take its mark for a driver's.
 */
export const markFor = (name: string, objects?: bigint): DriversMark | undefined => {
  const made = madeByDriver(name);
  if (made === undefined) return undefined;
  return made.byDefault && objects !== undefined && objects <= MOST_OBJECTS ? "small" : "large";
};

export class Purge extends Context.Service<
  Purge,
  {
    /** Has images removed of which each is the child of the next. */
    readonly discard: (images: readonly DiscardedImage[]) => Effect.Effect<void, CephError>;
    /** Tells that the pool is used: its trash is searched some time later. */
    readonly visit: (pool: PoolRef) => Effect.Effect<void>;
    /** For how long the trash protects an image that is moved there; above 0 nobody but an administrator removes it. */
    readonly keepSeconds: number;
    /** Images that this process still has to remove itself. */
    readonly pending: () => readonly string[];
  }
>()("csi-rbd/Purge") {
  static readonly layer: Layer.Layer<Purge, never, Ceph> = Layer.effect(
    Purge,
    Effect.gen(function* () {
      const context = yield* Effect.context<Ceph>();
      const rbd = Context.get(context, Rbd);
      const { managerTrashRemove, managerTasks } = Context.get(context, Manager);
      const trashRemove = ({ pool, id, mark }: TrashedImage) => rbd.trashRemove(pool, id, mark !== undefined);
      // a clone that lost its parent before it was complete can be removed, not opened: it has no snapshot
      const trashSnapshotRemove = ({ pool, id, mark }: TrashedImage, snapshot: string) =>
        Effect.catchTag(
          rbd.trashSnapshotRemove(pool, id, snapshot, mark !== undefined),
          "ParentLost",
          () => Effect.void,
        );
      const say = yield* makeReminder;
      /** When it was seen that a person's snapshot keeps an image: milliseconds since the epoch. */
      const keptSince = new Map<string, number>();
      /** `clearSnapshots`, which also says what a person's snapshots keep. */
      const clear = (image: InTrash) =>
        clearSnapshots(image).pipe(
          Effect.provideContext(context),
          Effect.tap((keeping) =>
            Effect.gen(function* () {
              const label = imageLabel(image.pool, image.id);
              keptSince.delete(label);
              if (keeping === undefined || keeping.persons.length === 0) return;
              if (keptSince.size >= MOST_KEPT) keptSince.clear();
              keptSince.set(label, yield* Clock.currentTimeMillis);
              yield* say(label, keptByPersons(image, keeping.persons));
            }),
          ),
        );
      const removeOwn = (image: TrashedImage) =>
        Effect.catchTag(trashRemove(image), "HasSnapshots", ({ op, subject }) =>
          Effect.flatMap(clear(image), (keeping) => {
            // it is taken out of the trash, or a sweep looks at it again
            if (keeping === undefined || keeping.persons.length > 0) return Effect.void;
            return keeping.forNow ? Effect.fail(new HasSnapshots({ op, subject, forNow: true })) : trashRemove(image);
          }),
        );
      const own = yield* makeBackground("removal from the trash");
      const byOwn = (image: TrashedImage) => own.offer(image.pool, image.id, removeOwn(image));

      const byManager = (image: TrashedImage) =>
        Effect.gen(function* () {
          if (image.snapshot !== undefined) yield* trashSnapshotRemove(image, image.snapshot);
          yield* managerTrashRemove(image.pool, image.id, image.mark !== undefined);
        }).pipe(Effect.catchTag("ImageNotFound", () => Effect.void));
      const byManagerOrOwn = (image: TrashedImage) =>
        unattended(byManager(image), (reason) =>
          Effect.andThen(Effect.logWarning(`the driver removes the image itself: ${reason}`), byOwn(image)),
        );
      /** The manager would try for ever to remove an image that a snapshot keeps which nobody removes. */
      const withoutSnapshots = (image: TrashedImage) =>
        unattended(
          Effect.gen(function* () {
            const keeping = yield* clear(image);
            if (keeping !== undefined && keeping.persons.length === 0) yield* byManagerOrOwn(image);
          }),
          (reason) => Effect.andThen(Effect.logInfo(notSeen(image, reason)), byManagerOrOwn(image)),
        );
      const quick = yield* makeQuickPurge({ trashRemove, trashSnapshotRemove }, (image, kept) =>
        kept ? withoutSnapshots(image) : byManagerOrOwn(image),
      );
      const lookAgain = yield* makeSecondLook(rbd.imagesStillThere);
      const tend = makeTending(clear, byOwn);
      const pending = () => [...new Set([...own.pending(), ...quick.pending()])];
      /** How often the manager has failed to take an image without a mark, other than by not being there. */
      const refusals = new Map<string, number>();

      const toManager = (image: TrashedImage): Effect.Effect<void, CephError> => {
        const label = imageLabel(image.pool, image.id);
        return byManager(image).pipe(
          Effect.tap(() => Effect.sync(() => refusals.delete(label))),
          Effect.tapError((error) =>
            Effect.suspend(() => {
              if (error._tag === "ManagerUnavailable" || error._tag === "PoolNotFound") return Effect.void;
              if (refusals.size > MOST_REFUSALS) refusals.clear();
              refusals.set(label, (refusals.get(label) ?? 0) + 1);
              if ((refusals.get(label) ?? 0) < REFUSALS) return Effect.void;
              return Effect.andThen(
                Effect.logWarning(
                  `the driver removes the image itself, because the manager fails again: ${error.message}`,
                ),
                byOwn(image),
              );
            }),
          ),
        );
      };

      const queue = Effect.fnUntraced(function* (
        images: readonly DiscardedImage[],
        options: OfferOptions = {},
      ): Effect.fn.Return<void, CephError> {
        yield* lookAgain(
          images.flatMap(({ trashedParent, ...image }) => (trashedParent ? [image, trashedParent] : [image])),
        );
        const small = images.every(({ mark }) => mark === "small");
        const marked = images.every(({ mark }) => mark !== undefined);
        if (marked && !small) {
          yield* quick.offer(images, { after: UNPROTECTED_SECONDS, ...options, always: true, giveUp: true });
          return;
        }
        if (small && (yield* quick.offer(images, options))) return;
        const asked = Effect.forEach(images, toManager, { discard: true });
        yield* Effect.catch(asked, (error): Effect.Effect<unknown, CephError> => {
          if (!small && error._tag !== "ManagerUnavailable") return Effect.fail(error);
          const own: Effect.Effect<unknown, CephError> = small
            ? quick.offer(images, { ...options, always: true })
            : Effect.andThen(Effect.forEach(images, byOwn), Effect.fail(error));
          return Effect.andThen(Effect.logWarning(`the driver removes the image itself: ${error.message}`), own);
        });
      });

      const visit = yield* makeSweeps((pool) =>
        Effect.gen(function* () {
          const calls = { trashList: rbd.trashList, managerTasks, pending };
          const { left, given } = yield* Effect.provideContext(leftInTrash(pool, calls), context);
          const now = yield* Clock.currentTimeMillis;
          for (const { id, name, byDriver: mark } of left) {
            if (now - (keptSince.get(imageLabel(pool, id)) ?? -Infinity) < KEPT_MS) continue;
            yield* Effect.logInfo(`image ${imageLabel(pool, id)} (${name}) was left in the trash, and is removed now`);
            yield* queue([{ pool, id, name, mark, snapshot: snapshotInTrash(name) }], { after: 0 });
          }
          yield* tend(
            pool,
            given.map(({ entry: { id, name, byDriver: mark }, task }) => ({ pool, id, name, mark, task })),
          );
        }),
      );
      yield* Effect.addFinalizer(() =>
        within(Effect.forEach(quick.leave(), byManager, { discard: true }), {
          limit: LEAVE,
          orElse: () => Effect.void,
        }).pipe(Effect.catchCause(() => Effect.void)),
      );

      const discard = Effect.fnUntraced(function* (
        images: readonly DiscardedImage[],
      ): Effect.fn.Return<void, CephError> {
        const found = images.some((image) => image.found === true);
        yield* queue(images, found ? { after: HELD_SECONDS } : {});
        for (const { pool } of images) yield* visit(pool);
      });
      return Purge.of({ discard, visit, keepSeconds: 0, pending });
    }),
  );
}
