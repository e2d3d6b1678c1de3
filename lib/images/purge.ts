/**
 * Empties the trash. Small images are removed by the driver itself, behind its answer, because the manager removes one
 * image after another. Large ones, and those that the driver could not remove at once, are the manager's; where the
 * manager can't, the driver removes them in the background, one at a time.
 *
 * Not here: moving an image to the trash, and the proof that nobody needs it (./removal.ts); the removal of small images
 * (./quick-purge.ts).
 *
 * 1. `discard` and `discardChain` answer when the removal is in somebody's queue; they never wait for the removal itself.
 * 2. The queues of this process are only shortcuts, so a crash loses nothing: a sweep finds every image in the trash
 *    that has a driver's name and no journal entry any more. It does not touch an image whose journal entry is left. An
 *    image with another name, which a sweep does not find, goes to the manager, which remembers it.
 * 3. Removing an image twice is harmless: the second finds it gone, or busy and tries later.
 */
import * as Context from "effect/Context";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Manager } from "../ceph/manager.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { isUuid } from "../csi/volume-id.ts";
import { type Kind, readAttributes, SNAPSHOTS, VOLUMES } from "../journal/journal.ts";
import { makeBackground } from "./background-queue.ts";
import { makeQuickPurge, type TrashedImage } from "./quick-purge.ts";
import { TEMP_SUFFIX } from "./temp-suffix.ts";

const SWEEP_AFTER = "1 minute";
/** After a removal by the driver itself: late enough not to disturb the deletions that usually follow. */
const SWEEP_SOON = "10 seconds";
/** Of an image that the driver removes itself: 16 GiB with objects of the usual size. */
const MOST_OBJECTS = 4096n;

/** An image in the trash that was looked at before it was moved there. */
export interface DiscardedImage extends TrashedImage {
  readonly name: string;
  /** How many objects hold its data, at most. */
  readonly objects: bigint;
}

export class Purge extends Context.Service<
  Purge,
  {
    readonly discard: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
    /** Likewise, for images of which each is the child of the next. */
    readonly discardChain: (images: readonly DiscardedImage[]) => Effect.Effect<void, CephError>;
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
      const manager = yield* Manager;
      const rados = yield* Rados;
      const own = yield* makeBackground("removal from the trash", rbd.trashRemove);
      const scope = yield* Effect.scope;
      const swept = new Set<string>();

      const remove = (pool: PoolRef, id: string) =>
        manager.managerTrashRemove(pool, id).pipe(
          Effect.as("manager" as const),
          Effect.catchTag("ImageNotFound", () => Effect.succeed("manager" as const)),
          Effect.catchTag("ManagerUnavailable", (error) =>
            Effect.gen(function* () {
              yield* Effect.logWarning(`${error.message}; the driver removes the image itself`);
              yield* own.offer(pool, id);
              return "driver" as const;
            }),
          ),
        );

      const quick = yield* makeQuickPurge(rbd.trashRemove, ({ pool, id }, reason) =>
        Effect.gen(function* () {
          yield* Effect.logInfo(`image ${imageLabel(pool, id)} stays in the trash for now: ${reason}`);
          yield* Effect.catch(remove(pool, id), () => own.offer(pool, id));
        }),
      );
      const pending = () => [...own.pending(), ...quick.pending()];

      /** Removes what earlier processes left. Runs once for each pool and process, if it succeeds. */
      const sweep = (pool: PoolRef) =>
        Effect.gen(function* () {
          for (const entry of yield* rbd.trashList(pool)) {
            const made = madeByDriver(entry.name);
            const queued = pending().includes(imageLabel(pool, entry.id));
            if (entry.source !== "user" || made === undefined || queued) continue;
            const attributes = yield* Effect.provideService(readAttributes(made.kind, pool, made.uuid), Rados, rados);
            if (attributes === undefined) yield* remove(pool, entry.id);
          }
        }).pipe(
          Effect.catch((error) => {
            swept.delete(imageLabel(pool, ""));
            return Effect.logWarning(`could not look for left-over images in the trash: ${error.message}`);
          }),
        );

      const sweepOnce = (pool: PoolRef, after: Duration.Input) =>
        Effect.suspend(() => {
          const key = imageLabel(pool, "");
          if (swept.has(key)) return Effect.void;
          swept.add(key);
          return Effect.asVoid(Effect.forkIn(Effect.delay(sweep(pool), after), scope));
        });

      const discard = (pool: PoolRef, id: string) =>
        Effect.gen(function* () {
          const by = yield* remove(pool, id);
          // A manager at work may have been away when an earlier process left something: no hurry then.
          yield* sweepOnce(pool, by === "manager" ? SWEEP_AFTER : 0);
        });

      const discardChain = (images: readonly DiscardedImage[]) =>
        Effect.gen(function* () {
          const small = images.every(
            ({ name, objects }) => objects <= MOST_OBJECTS && madeByDriver(name) !== undefined,
          );
          if (!small || !(yield* quick.offer(images))) {
            for (const { pool, id } of images) yield* discard(pool, id);
          }
          for (const { pool } of images) yield* sweepOnce(pool, SWEEP_SOON);
        });
      return Purge.of({ discard, discardChain, keepSeconds: 0, pending });
    }),
  );
}

/** The journal kind and UUID in an image name with a driver's default prefix; `undefined` in any other name. */
const madeByDriver = (name: string): { readonly kind: Kind; readonly uuid: string } | undefined => {
  for (const kind of [VOLUMES, SNAPSHOTS]) {
    if (!name.startsWith(kind.defaultImagePrefix)) continue;
    const uuid = name.slice(kind.defaultImagePrefix.length).replace(new RegExp(`${TEMP_SUFFIX}$`), "");
    if (isUuid(uuid)) return { kind, uuid };
  }
  return undefined;
};
