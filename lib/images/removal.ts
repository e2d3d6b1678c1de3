/**
 * The removal of images.
 *
 * Not here: the journal, and when an image may go (lib/volume, lib/snapshot).
 *
 * 1. Getting rid of an image is always: prove that nobody uses it, move it to the trash, have it purged.
 */
import * as Effect from "effect/Effect";
import { type Ceph, imageLabel } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { DriverSettings } from "../config/settings.ts";
import { NotReadyYet, Precondition } from "../csi/errors.ts";
import { provenUnused, proveUnused } from "./in-use.ts";
import { Purge } from "./purge.ts";
import { orRaced } from "./races.ts";

/** Moves an image that nobody uses to the trash and has it purged; done when that is queued. */
export const discardImage = (
  pool: PoolRef,
  imageName: string,
  imageId: string,
): Effect.Effect<void, CephError, Rbd | Purge> =>
  Effect.gen(function* () {
    yield* moveToTrash(pool, imageName);
    yield* (yield* Purge).discard(pool, imageId);
  });

/** A second move finishes one that was cut off. Without the image, another driver has moved it. */
const moveToTrash = (pool: PoolRef, imageName: string) =>
  Effect.flatMap(Rbd, (rbd) =>
    rbd.trashMove(pool, imageName).pipe(Effect.catchTag("ImageNotFound", () => Effect.void)),
  );

/** For an image that is gone under its name: finishes a removal that was cut off, in the trash or on the way there. */
export const finishRemoval = (
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
  followers: readonly string[] = [],
): Effect.Effect<void, CephError, Rbd | Purge> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const known = imageId !== undefined && followers.length === 0;
    const left = known ? [yield* rbd.trashGet(pool, imageId)] : yield* rbd.trashList(pool);
    for (const name of [imageName, ...followers]) {
      for (const entry of left) {
        if (entry?.source === "user" && entry.name === name) yield* discardImage(pool, name, entry.id);
      }
    }
  });

export interface Removal {
  readonly pool: PoolRef;
  readonly imageName: string;
  /** As the journal has it. */
  readonly imageId?: string | undefined;
  /** Snapshots of its own that go with it. */
  readonly snapshots?: readonly string[];
  /** What has to be done about it before it goes. */
  readonly prepare?: (
    image: ImageStatus,
  ) => Effect.Effect<void, CephError | Precondition, Ceph | Purge | DriverSettings>;
  /** Images that follow it to the trash, if there are any: once it is gone, what is left of them is looked for there. */
  readonly followers?: readonly string[];
}

/**
 * Removes images of which each is the child of the next: all are proven unused and in the trash before the purge of the
 * first begins, since whoever purges a child has its parents open. One that is not there is removed to its last trace.
 */
export const removeImages = (
  removals: readonly Removal[],
  mirrorDaemons: number,
): Effect.Effect<void, CephError | Precondition, Ceph | Purge | DriverSettings> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const purge = yield* Purge;
    const there: { readonly removal: Removal; readonly image: ImageStatus }[] = [];
    const gone: Removal[] = [];
    for (const removal of removals) {
      const { pool, imageName } = removal;
      const image = yield* provenUnused(pool, imageName, mirrorDaemons);
      if (image === undefined) {
        gone.push(removal);
        continue;
      }
      there.push({ removal, image });
    }
    const stillThere = new Set(there.map(({ removal }) => removal.imageName));
    for (const { pool, imageName, imageId, followers = [] } of gone) {
      yield* rbd.imageMend(pool, imageName);
      const left = followers.filter((follower) => !stillThere.has(follower));
      yield* finishRemoval(pool, imageName, imageId, left);
    }
    for (const { removal, image } of there) {
      const { pool, imageName, snapshots = [], prepare } = removal;
      if (prepare !== undefined) yield* prepare(image);
      for (const snapshot of snapshots) yield* orRaced(rbd.snapshotRemove(pool, imageName, snapshot));
      yield* moveToTrash(pool, imageName);
    }
    for (const { removal, image } of there) yield* purge.discard(removal.pool, image.id);
  });

/**
 * Takes away an image that a clone may have left half made, so that it can be made again. Its snapshots named in
 * `snapshots` go with it.
 */
export const discardUnfinished = (
  pool: PoolRef,
  imageName: string,
  snapshots: readonly string[] = [],
): Effect.Effect<void, CephError | Precondition, Rbd | Purge> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    if (!(yield* rbd.imageMend(pool, imageName))) return yield* finishRemoval(pool, imageName, undefined);
    const image = yield* orRaced(rbd.imageStatus(pool, imageName));
    yield* proveUnused(pool, imageName, image, 0);
    if (yield* orRaced(rbd.imageHasData(pool, imageName, "own"))) {
      return yield* new Precondition({
        subject: "",
        problem: `image ${imageLabel(pool, imageName)} is in the way: it looks like a clone that was cut off, but it holds data of its own; look at it, and remove it by hand ("rbd trash mv") if nobody needs it`,
      });
    }
    for (const snapshot of snapshots) yield* orRaced(rbd.snapshotRemove(pool, imageName, snapshot));
    yield* discardImage(pool, imageName, image.id);
  });

/** Before it is made again: only a driver has it open, and one that died does so for half a minute more. */
export const clearUnfinished = (
  pool: PoolRef,
  imageName: string,
  snapshots: readonly string[] = [],
): Effect.Effect<void, CephError | Precondition | NotReadyYet, Rbd | Purge> =>
  Effect.catchTag(discardUnfinished(pool, imageName, snapshots), "Busy", ({ message }) =>
    Effect.fail(
      new NotReadyYet({ subject: "", problem: `${message}; a driver that has died has it open for half a minute` }),
    ),
  );
