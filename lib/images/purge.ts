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
 * 3. Removing an image twice is harmless: the second finds it gone, or busy and tries later.
 * 4. A process that ends in order gives what waits in its own queue to the manager, as much as a moment permits. What a
 *    snapshot keeps in the trash is left to a sweep, because the manager does not remove snapshots.
 * 5. The manager gets an image when its mark protects it no longer, because it would try again only half a minute later.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Manager } from "../ceph/manager.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { DRIVERS_MARKS, type DriversMark, Rbd, type RbdCalls } from "../ceph/rbd.ts";
import { unattended } from "../operations/unattended.ts";
import { within } from "../operations/within.ts";
import { makeBackground } from "./background-queue.ts";
import { HELD_SECONDS, makeQuickPurge, type OfferOptions, type TrashedImage } from "./quick-purge.ts";
import { makeSecondLook } from "./second-look.ts";
import { leftInTrash, madeByDriver, makeSweeps, snapshotInTrash } from "./trash-sweep.ts";

/** Of an image that the driver removes itself: 16 GiB with objects of the usual size. */
const MOST_OBJECTS = 4096n;
/** For giving what waits to the manager when the process ends, out of the reserve of the grace budget. */
const LEAVE = "500 millis";

/** After it no mark protects an image any more. */
const UNPROTECTED_SECONDS = Math.max(...Object.values(DRIVERS_MARKS)) + 1;

/**
 * An image in the trash. One that holds the point in time of a CSI snapshot goes there with its snapshot, which has the
 * image's own name, by which a sweep knows it.
 */
export interface DiscardedImage extends TrashedImage {
  /** It was moved there with the driver's mark, so that a sweep finds it. */
  readonly mark: DriversMark | undefined;
  /** It was found in the trash, so a driver may have it open that died. */
  readonly found?: boolean;
  /** Its parent is in the trash, too, and may be removed at the same moment by somebody else. */
  readonly trashedParent?: TrashedImage | undefined;
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
      const rbd = yield* Rbd;
      const { managerTrashRemove, managerTasks } = yield* Manager;
      const rados = yield* Rados;
      // a clone that lost its parent before it was complete can be removed, not opened: it has no snapshot
      const trashSnapshotRemove: RbdCalls["trashSnapshotRemove"] = (...snapshot) =>
        Effect.catchTag(rbd.trashSnapshotRemove(...snapshot), "ParentLost", () => Effect.void);
      const trashRemove = (pool: PoolRef, id: string) =>
        Effect.catchTag(rbd.trashRemove(pool, id), "HasSnapshots", (failure) =>
          Effect.gen(function* () {
            const entry = yield* rbd.trashGet(pool, id);
            const snapshot = entry && snapshotInTrash(entry.name);
            if (snapshot === undefined) return yield* failure;
            yield* trashSnapshotRemove(pool, id, snapshot);
            yield* rbd.trashRemove(pool, id);
          }),
        );
      const own = yield* makeBackground("removal from the trash", trashRemove);

      const byManager = ({ pool, id, snapshot }: TrashedImage) =>
        Effect.gen(function* () {
          if (snapshot !== undefined) yield* trashSnapshotRemove(pool, id, snapshot);
          yield* managerTrashRemove(pool, id);
        }).pipe(Effect.catchTag("ImageNotFound", () => Effect.void));
      const byManagerOrOwn = (image: TrashedImage) =>
        unattended(byManager(image), (reason) =>
          Effect.andThen(
            Effect.logWarning(`the driver removes the image itself: ${reason}`),
            own.offer(image.pool, image.id),
          ),
        );
      const quick = yield* makeQuickPurge({ trashRemove: rbd.trashRemove, trashSnapshotRemove }, byManagerOrOwn);
      const lookAgain = yield* makeSecondLook(rbd.imagesStillThere);
      const pending = () => [...new Set([...own.pending(), ...quick.pending()])];

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
        const asked: Effect.Effect<void, CephError> = Effect.forEach(images, byManager, { discard: true });
        const alone = (error: CephError): Effect.Effect<unknown, CephError> =>
          small
            ? quick.offer(images, { ...options, always: true })
            : Effect.andThen(
                Effect.forEach(images, ({ pool, id }) => own.offer(pool, id)),
                Effect.fail(error),
              );
        yield* Effect.catchTag(asked, "ManagerUnavailable", (error) =>
          Effect.andThen(Effect.logWarning(`the driver removes the image itself: ${error.message}`), alone(error)),
        );
      });

      const visit = yield* makeSweeps((pool) =>
        Effect.gen(function* () {
          const calls = { trashList: rbd.trashList, managerTasks, pending };
          const left = yield* Effect.provideService(leftInTrash(pool, calls), Rados, rados);
          for (const { id, name, byDriver: mark } of left) {
            yield* Effect.logInfo(`image ${imageLabel(pool, id)} (${name}) was left in the trash, and is removed now`);
            yield* queue([{ pool, id, mark, snapshot: snapshotInTrash(name) }], { after: 0 });
          }
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
