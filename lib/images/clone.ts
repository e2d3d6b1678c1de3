/**
 * One clone by way of a snapshot that exists only meanwhile, in steps that survive a crash.
 *
 * That snapshot marks how far a crash let the clone come: while it is there, the target may be half made; once it is
 * gone, the target is whole. So it is made first and goes last, in an undo too.
 *
 * 1. A clone that a crash may have cut off is never trusted: librbd attaches it to its parent in two writes, and one
 *    that has only the first would lose its data with the parent's snapshot. It is made again, which loses nothing as
 *    long as it has no data of its own. One that has data is left for a person.
 * 2. Two drivers may work on one request, and the slower one may make the snapshot again after the other is done. Then it
 *    marks nothing, and goes: the target is not half made, because another snapshot lists it as its clone; or it was
 *    deleted meanwhile, and nobody asks for it again.
 * 3. A target that another driver has called complete since the journal was read is never removed.
 */
import * as Effect from "effect/Effect";
import { type CephError, Raced } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { type CloneSpec, type Parent, Rbd } from "../ceph/rbd.ts";
import { Conflict, type NotReadyYet, type Precondition } from "../csi/errors.ts";
import type { Purge } from "./purge.ts";
import { asRaced, orRaced, statusIfThere } from "./races.ts";
import { clearUnfinished, finishRemoval } from "./removal.ts";

/** The snapshot that a clone goes through. */
export interface Transient {
  readonly pool: PoolRef;
  readonly image: string;
  readonly snapshot: string;
  /** `unasked`: nobody maps the image; see `snapshotCreate`. */
  readonly clients?: "asked" | "unasked" | undefined;
}

/** The clone. */
export interface Target {
  readonly pool: PoolRef;
  readonly image: string;
  readonly spec: CloneSpec;
  /** Snapshots of its own that it may have by now. */
  readonly snapshots: readonly string[];
  /** Whether the journal has forgotten that it is to be made. */
  readonly forgotten: Effect.Effect<boolean, CephError, Rados>;
  /** Comes before a target that is half made is removed (lib/journal/making.ts). */
  readonly takeOver: Effect.Effect<void, CephError, Rados>;
}

/**
 * Continues a clone that an earlier call may have begun: removes a target that was cut off. -> whether the target is
 * there, whole. A request for another source than the earlier one is refused, because the target holds other data; but
 * a clone of an `obsolete` parent is removed.
 */
export const resumeClone = Effect.fn("images.resumeClone")(function* (
  source: Transient,
  { pool, image, snapshots, takeOver }: Target,
  obsolete: (parent: Parent) => boolean = () => false,
): Effect.fn.Return<boolean, CephError | Conflict | NotReadyYet | Precondition, Purge | Rados | Rbd> {
  const rbd = yield* Rbd;
  const removed = Effect.as(clearUnfinished(pool, image, takeOver, snapshots), false);
  if (yield* isMarked(source)) {
    if (!(yield* isAttachedElsewhere(source, { pool, image }))) {
      // Another driver that makes the clone may have ended since, and have told its caller of a point in time.
      const stillMarked = Effect.filterOrElse(
        isMarked(source),
        (marked) => marked,
        () => Effect.fail(new Raced({ op: "rbd_snap_list", subject: imageLabel(pool, image) })),
      );
      return yield* Effect.as(clearUnfinished(pool, image, Effect.andThen(takeOver, stillMarked), snapshots), false);
    }
    yield* rbd.snapshotRemove(source.pool, source.image, source.snapshot);
  }
  if (!(yield* rbd.imageMend(pool, image))) {
    yield* finishRemoval(pool, image, undefined);
    return false;
  }
  const { id, parent } = yield* orRaced(rbd.imageStatus(pool, image));
  // An undo was cut off that was about to move it to the trash.
  if ((yield* rbd.trashGet(pool, id)) !== undefined) return yield* removed;
  const from = parent && imageLabel({ ...source.pool, ...parent }, parent.image);
  const wanted = imageLabel(source.pool, source.image);
  if (from === wanted) return true;
  if (parent !== undefined && obsolete(parent)) return yield* removed;
  if (from !== undefined) {
    const problem = `is a copy of ${from}, and the request asks for a copy of ${wanted}`;
    return yield* new Conflict({ subject: `image ${imageLabel(pool, image)}`, problem });
  }
  // It was flattened meanwhile; or it was never attached, and then there is nothing in it.
  return (yield* orRaced(rbd.imageHasData(pool, image, "own"))) ? true : yield* removed;
});

/** Whether the source has the snapshot by its name. */
const isMarked = ({ pool, image, snapshot }: Transient): Effect.Effect<boolean, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) =>
    Effect.map(rbd.snapshots(pool, image), (all) => all.some(({ kind, name }) => kind === "user" && name === snapshot)),
  );

/**
 * Makes the transient snapshot, clones the target from it, and removes the snapshot. `complete` comes while that is there: what
 * it does is done of a target that is whole.
 */
export const cloneThrough = Effect.fn("images.cloneThrough")(function* <E = never, R = never>(
  source: Transient,
  { pool, image, spec, forgotten }: Target,
  complete: Effect.Effect<void, E, R> = Effect.void,
): Effect.fn.Return<void, CephError | E, Rados | Rbd | R> {
  const rbd = yield* Rbd;
  yield* rbd
    .snapshotCreate(source.pool, source.image, source.snapshot, source.clients)
    .pipe(Effect.catchTag("Exists", () => Effect.void));
  // Another driver works on the same request: it has made the clone already, or is done with the snapshot.
  yield* rbd.imageClone(source, pool, image, spec).pipe(
    Effect.catchTag("Exists", (error) =>
      Effect.andThen(dropIfUnneeded(source, { pool, image, forgotten }), asRaced(error)),
    ),
    Effect.catchTag("ImageSnapshotNotFound", asRaced),
  );
  yield* complete;
  yield* removed(source);
});

const removed = ({ pool, image, snapshot }: Transient): Effect.Effect<void, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) => rbd.snapshotRemove(pool, image, snapshot));

/** Removes the transient snapshot if it marks nothing, because another driver has made the target already. */
export const dropIfUnneeded = Effect.fnUntraced(function* (
  source: Transient,
  target: Pick<Target, "pool" | "image" | "forgotten">,
): Effect.fn.Return<void, CephError, Rados | Rbd> {
  if ((yield* isAttachedElsewhere(source, target)) || (yield* target.forgotten)) yield* removed(source);
});

/** Whether the target is a whole clone of the same image, by another snapshot of it than the one given. */
const isAttachedElsewhere = Effect.fnUntraced(function* (
  source: Transient,
  { pool, image }: Pick<Target, "pool" | "image">,
): Effect.fn.Return<boolean, CephError, Rbd> {
  const target = yield* statusIfThere(pool, image);
  if (target?.parent === undefined || target.parent.snapshot === source.snapshot) return false;
  const from = imageLabel({ ...source.pool, ...target.parent }, target.parent.image);
  if (from !== imageLabel(source.pool, source.image)) return false;
  const clones = yield* orRaced((yield* Rbd).snapshotChildren(source.pool, source.image, target.parent.snapshot));
  return clones.includes(target.id);
});
