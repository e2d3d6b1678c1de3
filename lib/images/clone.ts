/**
 * One clone by way of a snapshot, in steps that survive a crash.
 *
 * 1. A clone that a crash may have cut off is never trusted: librbd attaches it to its parent in two writes, and one
 *    that has only the first would lose its data with the parent's snapshot. It is made again, which loses nothing as
 *    long as it has no data of its own; one that has is left for a person.
 */
import * as Effect from "effect/Effect";
import { type Ceph, imageLabel } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type CloneSpec, Rbd } from "../ceph/rbd.ts";
import { Conflict, type NotReadyYet, type Precondition } from "../csi/errors.ts";
import type { Purge } from "./purge.ts";
import { asRaced, orRaced } from "./races.ts";
import { clearUnfinished, finishRemoval } from "./removal.ts";

export interface Transient {
  readonly pool: PoolRef;
  readonly image: string;
  readonly snapshot: string;
  /** `unasked`: nobody maps the image; see `snapshotCreate`. */
  readonly clients?: "asked" | "unasked" | undefined;
}

export interface Target {
  readonly pool: PoolRef;
  readonly image: string;
  readonly spec: CloneSpec;
  /** Snapshots of its own that it may have by now. */
  readonly snapshots: readonly string[];
}

/**
 * For a clone that an earlier call may have begun: whether the target is there, whole. What was cut off is taken away.
 * Whoever asks for another source than that call is refused: what is there holds other data.
 */
export const resumeClone = (
  source: Transient,
  { pool, image, snapshots }: Target,
): Effect.Effect<boolean, CephError | Precondition | Conflict | NotReadyYet, Ceph | Purge> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const marked = (yield* rbd.snapshots(source.pool, source.image)).some(
      ({ kind, name }) => kind === "user" && name === source.snapshot,
    );
    if (marked) {
      yield* clearUnfinished(pool, image, snapshots);
      return false;
    }
    if (!(yield* rbd.imageMend(pool, image))) {
      yield* finishRemoval(pool, image, undefined);
      return false;
    }
    const { id, parent } = yield* orRaced(rbd.imageStatus(pool, image));
    if ((yield* rbd.trashGet(pool, id)) !== undefined) {
      // An undo was cut off that was about to move it there.
      yield* clearUnfinished(pool, image, snapshots);
      return false;
    }
    const from = parent && imageLabel({ ...source.pool, ...parent }, parent.image);
    if (from === imageLabel(source.pool, source.image)) return true;
    if (from !== undefined) {
      const message = `image ${imageLabel(pool, image)} is a copy of ${from}, one of ${imageLabel(source.pool, source.image)} is asked for`;
      return yield* new Conflict({ subject: "", problem: message });
    }
    // Flattened meanwhile; or never attached, and then there is nothing in it.
    if (yield* orRaced(rbd.imageHasData(pool, image, "own"))) return true;
    yield* clearUnfinished(pool, image, snapshots);
    return false;
  });

/**
 * One clone by way of a snapshot that exists only meanwhile. That snapshot is the mark of where a crash came: while it
 * is there, the target may be half made; once it is gone, the target is whole. So it comes first and goes last, in an
 * undo too.
 */
export const cloneThrough = (
  source: Transient,
  { pool, image, spec }: Target,
): Effect.Effect<void, CephError, Ceph | Purge> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    yield* rbd
      .snapshotCreate(source.pool, source.image, source.snapshot, source.clients)
      .pipe(Effect.catchTag("Exists", () => Effect.void));
    // Another driver works on the same request: it has made the clone already, or is done with the mark.
    yield* Effect.catchTag(rbd.imageClone(source, pool, image, spec), ["Exists", "ImageSnapshotNotFound"], asRaced);
    yield* rbd.snapshotRemove(source.pool, source.image, source.snapshot);
  });
