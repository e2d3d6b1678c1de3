/**
 * Volumes made of the data of others: of a snapshot, of a volume. A volume's copy is a clone of the volume, by way of the
 * snapshot `<source>@<image>-temp`; or it goes through an image in between, `<image>-temp`, a clone by way of the same
 * snapshot. These names, and the second way, are ceph-csi's, so that either driver can finish, clone again and delete
 * what the other made. Which way is taken says `VolumeToCopy.direct` (./copy-source.ts).
 *
 * Not here: the source (./copy-source.ts) and the journal entry of the new volume (./create.ts).
 *
 * 1. The copy holds the source as it was at one moment between the request and its answer.
 * 2. An image that an earlier attempt left half made is made again, never trusted (lib/images/clone.ts). While the
 *    snapshot of the source is there, both the image and the one in between may be half made.
 * 3. What an earlier attempt made whole is used, whichever way it took.
 * 4. The copy has the size that is answered, also if its source grew between two attempts.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type Parent, Rbd, type SnapshotRef } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import { type Conflict, NotReadyYet, type Precondition } from "../csi/errors.ts";
import { cloneThrough, dropIfUnneeded, resumeClone, type Target, type Transient } from "../images/clone.ts";
import { removeTemp, tempImage } from "../images/intermediate.ts";
import { cloneSpec, holderSpec, volumeCopySpec } from "../images/layout.ts";
import { noMetadata } from "../images/metadata.ts";
import type { Purge } from "../images/purge.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { clearUnfinished, discardUnfinished } from "../images/removal.ts";
import * as journal from "../journal/journal.ts";
import { locateVolume } from "../journal/locate.ts";
import { holdKey, type HoldKeyError, isHeld, type KeyToKeep } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { stage } from "../operations/pipeline.ts";
import {
  type CopySource,
  findSource,
  type FindSourceError,
  SIZE_FIELD,
  type SourceRequest,
  type VolumeToCopy,
} from "./copy-source.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";
import { discardNew, type ReservedVolume } from "./reserve.ts";

const { VOLUMES } = journal;

/**
 * The source; where it is gone, or has grown beyond the size of the copy, a half-made copy of it can't be finished, so what
 * is left of the copy goes.
 */
export const findSourceOrCleanUp = Effect.fn("volume.findSourceOrCleanUp")(function* (
  spec: CreateVolumeSpec,
  request: SourceRequest,
  begun: journal.Reservation | undefined,
): Effect.fn.Return<CopySource, FindSourceError, Ceph | Clusters | ClusterMapping | DriverSettings | Kms | Purge> {
  const { pool, requestName } = spec;
  const { instanceId } = yield* DriverSettings;
  return yield* findSource(request, spec).pipe(
    Effect.tapErrorTag(["ImageNotFound", "SnapshotNotFound", "VolumeNotFound"], () =>
      begun === undefined
        ? Effect.void
        : Effect.andThen(
            discardCopy(pool, begun),
            journal.unreserve(VOLUMES, pool, instanceId, { ...begun, requestName }),
          ),
    ),
    Effect.tapErrorTag("InvalidRequest", ({ field }) =>
      begun !== undefined && request.kind === "volume" && field === SIZE_FIELD
        ? stage("remove outgrown copy", discardOutgrown(spec, request, begun))
        : Effect.void,
    ),
  );
});

/**
 * Takes away what was begun of a copy that would be smaller than its source is now. What was begun of another source stays: its snapshot
 * there marks it.
 */
const discardOutgrown = Effect.fnUntraced(function* (
  { pool, requestName, credentials }: CreateVolumeSpec,
  { id }: SourceRequest,
  begun: journal.Reservation,
) {
  const { instanceId } = yield* DriverSettings;
  const source = yield* locateVolume(id, credentials);
  const image = journal.imageNameOf(VOLUMES, begun.uuid, begun.attributes);
  const temp = tempImage(image);
  for (const name of [image, temp]) {
    const parent = (yield* statusIfThere(pool, name))?.parent?.image;
    if (parent !== undefined && parent !== source.imageName && parent !== temp) return;
  }
  yield* discardCopy(pool, begun);
  yield* (yield* Rbd).snapshotRemove(source.pool, source.imageName, temp);
  yield* journal.unreserve(VOLUMES, pool, instanceId, { ...begun, requestName });
});

/**
 * Makes the image from its source, as far as an earlier attempt has not, and grows it to its size. -> its size in bytes.
 * An earlier attempt may have begun when the source was smaller than it is now.
 */
export const createCopy = Effect.fn("volume.createCopy")(function* (
  spec: CreateVolumeSpec,
  source: CopySource,
  reserved: ReservedVolume,
  key: KeyToKeep | undefined,
  fresh: boolean,
): Effect.fn.Return<
  bigint,
  HoldKeyError | Conflict | NotReadyYet | Precondition,
  Ceph | DriverSettings | Purge | Compensations
> {
  const rbd = yield* Rbd;
  const { imagePool: pool, imageName: image } = reserved;
  const layout = source.kind === "snapshot" ? cloneSpec : volumeCopySpec;
  const forgotten = journal.isForgotten(VOLUMES, spec.pool, reserved.uuid);
  const { takeOver } = reserved.making;
  const target = { pool, image, spec: layout(spec.parameters), snapshots: [], forgotten, takeOver };
  // The source was there when it was looked for: the next call cleans up where it does not come back.
  const resume = Effect.catchTag(resumeCopy(source, target), "ImageNotFound", asRaced);
  // A resume that fails is not undone, because what it looks at may be another driver's work.
  const found = fresh ? NOTHING_DONE : yield* stage("clear", resume);
  const isUsable = (!found.temp && !found.image) || (yield* stage("look at key", isHeld(key)));
  if (!isUsable) yield* stage("take back copy without key", takeBack(target));
  const done = isUsable ? found : NOTHING_DONE;
  const held = stage("keep key", holdKey(key, reserved.making.proveOwn));
  yield* step("clone", Effect.catchTag(copySource(source, target, done, held), "ImageNotFound", asRaced), {
    when: "started",
    undo: discardNew(reserved, removeTraces(source, pool, image), dropUnneeded(source, target)),
  });
  const { sizeBytes } = spec.size;
  const isLarge = source.sizeBytes >= sizeBytes && (fresh || source.kind === "snapshot");
  return isLarge ? sizeBytes : (yield* stage("grow image", orRaced(rbd.imageGrow(pool, image, sizeBytes)))).sizeBytes;
});

/** What a snapshot's ID stands for: the image of its name, and on it the snapshot of the same name. */
const snapshotOf = ({ located: { pool, imageName } }: CopySource): SnapshotRef => ({
  pool,
  image: imageName,
  snapshot: imageName,
});

/** The snapshots that clones of a volume's copy go through: of the source, and of the image in between if there is one. */
const transients = ({ located }: VolumeToCopy, pool: PoolRef, image: string): readonly [Transient, Transient] => [
  { pool: located.pool, image: located.imageName, snapshot: tempImage(image) },
  { pool, image: tempImage(image), snapshot: image, clients: "unasked" },
];

const imageBetween = ({ header }: VolumeToCopy, { pool, image, forgotten, takeOver }: Target): Target => ({
  pool,
  image: tempImage(image),
  spec: holderSpec(header),
  snapshots: [image],
  forgotten,
  takeOver,
});

/** How far an earlier attempt came: whether the image in between, and the image itself, are whole. */
interface Progress {
  readonly temp: boolean;
  readonly image: boolean;
}

const NOTHING_DONE: Progress = { temp: false, image: false };

/** How far an earlier attempt came. Takes away what was cut off. */
const resumeCopy = Effect.fnUntraced(function* (source: CopySource, target: Target) {
  const { pool, image, takeOver } = target;
  if (source.kind === "snapshot") {
    yield* clearUnfinished(pool, image, takeOver);
    return NOTHING_DONE;
  }
  const [first, second] = transients(source, pool, image);
  const temp = yield* resumeClone(first, imageBetween(source, target));
  if (temp) {
    // If the image in between is gone, another driver has taken it away: the source itself was there.
    const whole = Effect.catchTag(resumeClone(second, target), "ImageNotFound", asRaced);
    return { temp, image: yield* whole };
  }
  // Its image in between is gone where an undo was cut off; it is a restore where the earlier request was for a snapshot.
  const obsolete = (parent: Parent) => parent.image === tempImage(image) || parent.image === parent.snapshot;
  return { temp, image: yield* resumeClone(first, target, obsolete) };
});

/** A copy that is whole, and the image that it goes through. Nobody was told of it. */
const takeBack = Effect.fnUntraced(function* ({ pool, image, takeOver }: Target) {
  yield* clearUnfinished(pool, image, takeOver);
  yield* removeTemp(pool, image);
});

/** Makes the image from the source, as far as it is not done. `held` comes while the snapshot of the source is there. */
const copySource = Effect.fnUntraced(function* <E, R>(
  source: CopySource,
  target: Target,
  done: Progress,
  held: Effect.Effect<void, E, R>,
) {
  const rbd = yield* Rbd;
  const { pool, image, spec } = target;
  if (source.kind === "snapshot") {
    yield* stage("clone", rbd.imageClone(snapshotOf(source), pool, image, spec).pipe(orNotReady(source)));
    return yield* held;
  }
  if (done.image) return;
  const [first, second] = transients(source, pool, image);
  if (source.direct && !done.temp) return yield* stage("clone", cloneThrough(first, target, held));
  const temp = imageBetween(source, target);
  if (!done.temp) yield* stage("snapshot source", cloneThrough(first, temp, held));
  yield* stage(
    "clone",
    // Only this request uses the image in between; whoever removed it serves the same request.
    orRaced(Effect.andThen(rbd.imageMetaSet(pool, temp.image, noMetadata), cloneThrough(second, target))),
  );
});

/** A snapshot that the journal knows, but whose image lacks the snapshot that restores are made of, is still being made. */
const orNotReady =
  ({ located }: CopySource) =>
  <A, R>(clone: Effect.Effect<A, CephError, R>) =>
    Effect.catchTag(
      clone,
      ["Exists", "ImageSnapshotNotFound"],
      (error): Effect.Effect<never, CephError | NotReadyYet> => {
        if (error._tag === "Exists") return asRaced(error);
        if (located.attributes === undefined) return Effect.fail(error);
        const subject = `snapshot ${located.handle}`;
        return Effect.fail(new NotReadyYet({ subject, problem: "is not ready to use yet", remedy: "Retry later" }));
      },
    );

/**
 * Takes away a copy that was not finished, with the image that it goes through, before its name is freed. Stops if another
 * driver finishes it.
 */
const discardCopy = Effect.fnUntraced(function* (pool: PoolRef, { uuid, attributes }: journal.Reservation) {
  const image = journal.imageNameOf(VOLUMES, uuid, attributes);
  yield* journal.giveUp(VOLUMES, pool, uuid, attributes, true);
  yield* discardUnfinished(pool, image, Effect.void);
  yield* removeTemp(pool, image);
});

/** Takes away what `copySource` made beside the image itself, which is gone. The snapshot of the source goes last. */
export const removeTraces = Effect.fnUntraced(function* (source: CopySource, pool: PoolRef, image: string) {
  if (source.kind === "snapshot") return;
  const [first] = transients(source, pool, image);
  yield* removeTemp(pool, image);
  yield* (yield* Rbd).snapshotRemove(first.pool, first.image, first.snapshot);
});

/** Takes the snapshot of the source away that this call has made again after another driver was done with it. */
const dropUnneeded = Effect.fnUntraced(function* (source: CopySource, target: Target) {
  if (source.kind === "snapshot") return;
  const [first] = transients(source, target.pool, target.image);
  yield* dropIfUnneeded(first, source.direct ? target : imageBetween(source, target));
});
