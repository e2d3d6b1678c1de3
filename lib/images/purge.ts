/**
 * Empties the trash: asks the manager to remove an image, or removes it in the background where the manager can't, one
 * image at a time.
 *
 * Not here: moving an image to the trash, and the proof that nobody needs it (./removal.ts).
 *
 * 1. `discard` answers when the removal is in somebody's queue; it never waits for the removal itself.
 * 2. The queue of this process is only a shortcut, so a crash loses nothing: a sweep finds every image in the trash
 *    that has a driver's name and no journal entry any more. It does not touch an image whose journal entry is left.
 * 3. Removing an image twice is harmless: the second finds it gone, or busy and tries later.
 */
import * as Context from "effect/Context";
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
import { TEMP_SUFFIX } from "./temp-suffix.ts";

const SWEEP_AFTER = "1 minute";

export class Purge extends Context.Service<
  Purge,
  {
    readonly discard: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
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

      /** Removes what earlier processes left. Runs once for each pool and process, if it succeeds. */
      const sweep = (pool: PoolRef) =>
        Effect.gen(function* () {
          for (const entry of yield* rbd.trashList(pool)) {
            const made = madeByDriver(entry.name);
            const queued = own.pending().includes(imageLabel(pool, entry.id));
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

      const discard = (pool: PoolRef, id: string) =>
        Effect.gen(function* () {
          const by = yield* remove(pool, id);
          const key = imageLabel(pool, "");
          if (swept.has(key)) return;
          swept.add(key);
          // A manager at work may have been away when an earlier process left something: no hurry then.
          yield* Effect.forkIn(by === "manager" ? Effect.delay(sweep(pool), SWEEP_AFTER) : sweep(pool), scope);
        });
      return Purge.of({ discard, keepSeconds: 0, pending: own.pending });
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
