/**
 * What becomes of an image in the trash: the manager removes it in its own time, or, where the manager can't, this
 * driver does, one image at a time, in the background.
 *
 * Not here: moving an image to the trash, and the proof that nobody needs it (services/controller.ts).
 *
 * 1. `discard` answers when the removal is in somebody's queue; it never waits for the removal itself.
 * 2. The queue of this process is only a shortcut: what is in the trash under a driver's name and has no journal entry
 *    any more is found again by a sweep, so a crash loses nothing. An image whose journal entry is left is not touched.
 * 3. Removing an image twice is harmless: the second finds it gone, or busy and tries later.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Queue from "effect/Queue";
import { Ceph, imageSubject, type PoolRef } from "./ceph/ceph.ts";
import type { CephError } from "./ceph/errors.ts";
import { DEFAULT_PREFIX, readAttributes } from "./journal.ts";
import { isUuid } from "./volume-id.ts";

interface Item {
  readonly pool: PoolRef;
  readonly id: string;
  readonly attempt: number;
}

export class Purge extends Context.Service<
  Purge,
  {
    readonly discard: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
    /** Images that this process still has to remove itself. */
    readonly pending: () => number;
  }
>()("csi-rbd/Purge") {
  static readonly layer: Layer.Layer<Purge, never, Ceph> = Layer.effect(
    Purge,
    Effect.gen(function* () {
      const ceph = yield* Ceph;
      const queue = yield* Queue.unbounded<Item>();
      const queued = new Set<string>();
      const swept = new Set<string>();

      const offer = (item: Item) => {
        const key = itemKey(item);
        if (queued.has(key)) return Effect.void;
        queued.add(key);
        return Effect.asVoid(Queue.offer(queue, item));
      };

      const remove = (item: Item) =>
        ceph.trashRemove(item.pool, item.id).pipe(
          Effect.andThen(Effect.logInfo(`removed image ${itemKey(item)} from the trash`)),
          Effect.catchTag("ImageNotFound", () => Effect.void),
          Effect.tap(() => Effect.sync(() => queued.delete(itemKey(item)))),
          Effect.catch((error) =>
            Effect.gen(function* () {
              const wait = Math.min(30 * item.attempt, 300);
              yield* Effect.logWarning(
                `image ${itemKey(item)} stays in the trash, next try in ${wait} s: ${error.message}`,
              );
              queued.delete(itemKey(item));
              yield* Effect.forkDetach(Effect.delay(offer({ ...item, attempt: item.attempt + 1 }), `${wait} seconds`));
            }),
          ),
        );

      /** Once per pool and process: what earlier processes left. */
      const sweep = (pool: PoolRef) =>
        Effect.gen(function* () {
          const key = imageSubject(pool, "");
          if (swept.has(key)) return;
          swept.add(key);
          for (const entry of yield* ceph.trashList(pool)) {
            const uuid = entry.name.slice(-36);
            if (entry.source !== "user" || entry.name !== DEFAULT_PREFIX + uuid || !isUuid(uuid)) continue;
            const attributes = yield* Effect.provideService(readAttributes(pool, uuid), Ceph, ceph);
            if (attributes === undefined) yield* offer({ pool, id: entry.id, attempt: 1 });
          }
        }).pipe(
          Effect.catch((error) =>
            Effect.logWarning(`could not look for left-over images in the trash: ${error.message}`),
          ),
        );

      yield* Queue.take(queue).pipe(Effect.flatMap(remove), Effect.forever, Effect.forkScoped);

      const discard = (pool: PoolRef, id: string) =>
        ceph.managerTrashRemove(pool, id).pipe(
          Effect.catchTag("ImageNotFound", () => Effect.void),
          Effect.catchTag("ManagerUnavailable", (error) =>
            Effect.gen(function* () {
              yield* Effect.logWarning(`${error.message}; the driver removes the image itself`);
              yield* offer({ pool, id, attempt: 1 });
              yield* Effect.forkDetach(sweep(pool));
            }),
          ),
        );
      return Purge.of({ discard, pending: () => queued.size });
    }),
  );
}

const itemKey = ({ pool, id }: Item): string => imageSubject(pool, id);
