/**
 * What volumes and snapshots ask of RBD images beyond single calls: making one for parameters, telling whether one fits
 * a request, making a clone in steps that survive a crash, getting rid of one.
 *
 * Not here: the journal, and when an image may go (lib/volume, lib/snapshot).
 *
 * 1. Getting rid of an image is always: prove that nobody uses it, move it to the trash, have it purged.
 * 2. An image is compared with what a request asks for, never with what a request leaves open.
 * 3. A clone that a crash may have cut off is never trusted: librbd attaches it to its parent in two writes, and one
 *    that has only the first would lose its data with the parent's snapshot. It is made again, which loses nothing as
 *    long as it has no data of its own; one that has is left for a person.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Schedule from "effect/Schedule";
import { Ceph, type CloneSpec, type ImageSpec, type ImageStatus, imageSubject, type PoolRef } from "../ceph/ceph.ts";
import { Busy, type CephError, Raced } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/features.ts";
import type { VolumeParameters } from "../config/parameters.ts";
import { Conflict, LockHeld, Precondition } from "../operations/outcomes.ts";
import { Purge } from "./purge.ts";

/** The layout that a StorageClass asks for; for a clone as for a new image. */
export const cloneSpec = (parameters: VolumeParameters): CloneSpec => ({
  ...(parameters.features && { features: parameters.features.mask }),
  ...(parameters.dataPool !== undefined && { dataPool: parameters.dataPool }),
  ...(parameters.striping && { stripeUnit: parameters.striping.unit, stripeCount: parameters.striping.count }),
  ...(parameters.objectOrder !== undefined && { objectSize: 1n << BigInt(parameters.objectOrder) }),
});

export const imageSpec = (parameters: VolumeParameters, sizeBytes: bigint): ImageSpec => ({
  sizeBytes,
  ...cloneSpec(parameters),
});

/** Of images that only hold a point in time: a snapshot's, a clone's intermediate one. Their data stays where it was. */
export const holderSpec = (source: ImageStatus): CloneSpec => ({
  features: FEATURE_BITS.layering | FEATURE_BITS["deep-flatten"],
  ...(source.dataPool !== undefined && { dataPool: source.dataPool }),
});

/**
 * Features that follow from others, from a layout or from what is done with the image: asking for them or not makes no
 * difference. fast-diff comes with object-map and goes without it.
 */
const IMPLICIT =
  FEATURE_BITS["fast-diff"] |
  FEATURE_BITS.striping |
  FEATURE_BITS["data-pool"] |
  FEATURE_BITS.operations |
  FEATURE_BITS.migrating;

/** In what the image differs from the request; `undefined` when it is what was asked for. */
export const difference = (
  image: ImageStatus,
  wanted: VolumeParameters,
  size: { readonly sizeBytes: bigint; readonly limitBytes: bigint },
): string | undefined => {
  const { features, dataPool, objectOrder, striping } = wanted;
  if (image.sizeBytes < size.sizeBytes) return `its size is ${image.sizeBytes} bytes, ${size.sizeBytes} are asked for`;
  if (size.limitBytes > 0n && image.sizeBytes > size.limitBytes) {
    return `its size is ${image.sizeBytes} bytes, at most ${size.limitBytes} are asked for`;
  }
  if (features !== undefined && (image.features & ~IMPLICIT) !== (features.mask & ~IMPLICIT)) {
    return `its features are 0x${image.features.toString(16)}, 0x${features.mask.toString(16)} are asked for`;
  }
  if (dataPool !== undefined && image.dataPool !== dataPool) {
    return `its data pool is ${image.dataPool ?? "its own"}, ${dataPool} is asked for`;
  }
  if (objectOrder !== undefined && image.objectSize !== 1n << BigInt(objectOrder)) {
    return `its object size is ${image.objectSize} bytes, ${1n << BigInt(objectOrder)} are asked for`;
  }
  if (striping !== undefined && (image.stripeUnit !== striping.unit || image.stripeCount !== striping.count)) {
    return `its striping is ${image.stripeCount} x ${image.stripeUnit} bytes, ${striping.count} x ${striping.unit} are asked for`;
  }
  return undefined;
};

/** For a failure that only somebody else's work on the same can explain: the next call looks anew. */
export const asRaced = ({ op, subject }: CephError): Effect.Effect<never, Raced> =>
  Effect.fail(new Raced({ op, subject }));

/** What another driver removes meanwhile. NOT_FOUND would say that the source of a copy is missing. */
export const orRaced = <A, R>(found: Effect.Effect<A, CephError, R>): Effect.Effect<A, CephError, R> =>
  Effect.catchTag(found, ["ImageNotFound", "ObjectNotFound"], asRaced);

/** `undefined` for an image that does not exist. */
export const statusIfThere = (pool: PoolRef, image: string): Effect.Effect<ImageStatus | undefined, CephError, Ceph> =>
  Effect.flatMap(Ceph, (ceph) =>
    ceph.imageStatus(pool, image).pipe(Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined))),
  );

/** Fails unless nobody but mirror daemons has the image open, and it is ours to remove. */
export const proveUnused = (
  pool: PoolRef,
  imageName: string,
  image: ImageStatus,
  mirrorDaemons: number,
): Effect.Effect<void, Busy | Precondition> => {
  const subject = imageSubject(pool, imageName);
  if (image.mirror === "non-primary") {
    const message = `image ${subject} is a mirror of another cluster's image: delete the volume there, or promote the image first`;
    return Effect.fail(new Precondition({ message }));
  }
  const allowed = image.mirror === "primary" ? mirrorDaemons : 0;
  if (image.watchers.length <= allowed) return Effect.void;
  return Effect.fail(new Busy({ op: `watched by ${image.watchers.join(", ")}`, subject: `image ${subject}` }));
};

/**
 * Milliseconds that a removal waits for an image to fall out of use. Whoever purges a child of it, the manager say, has
 * it open for a moment: no reason to send the caller away.
 */
export const InUsePatience = Context.Reference<number>("csi-rbd/InUsePatience", { defaultValue: () => 0 });

const LOOK_AGAIN_MS = 250;

/** The image once nobody uses it; `undefined` when it is not there. */
const provenUnused = (pool: PoolRef, imageName: string, mirrorDaemons: number) =>
  Effect.gen(function* () {
    const patience = yield* InUsePatience;
    const look = Effect.tap(statusIfThere(pool, imageName), (image) =>
      image === undefined ? Effect.void : proveUnused(pool, imageName, image, mirrorDaemons),
    );
    return yield* Effect.retry(look, {
      times: Math.floor(patience / LOOK_AGAIN_MS),
      schedule: Schedule.spaced(LOOK_AGAIN_MS),
      while: (error) => error._tag === "Busy",
    });
  });

/** Moves an image that nobody uses to the trash and has it purged; done when that is queued. */
export const discardImage = (
  pool: PoolRef,
  imageName: string,
  imageId: string,
): Effect.Effect<void, CephError, Ceph | Purge> =>
  Effect.gen(function* () {
    yield* moveToTrash(pool, imageName);
    yield* (yield* Purge).discard(pool, imageId);
  });

/** A second move finishes one that was cut off. Without the image, another driver has moved it. */
const moveToTrash = (pool: PoolRef, imageName: string) =>
  Effect.flatMap(Ceph, (ceph) =>
    ceph.trashMove(pool, imageName).pipe(Effect.catchTag("ImageNotFound", () => Effect.void)),
  );

/** For an image that is gone under its name: finishes a removal that was cut off, in the trash or on the way there. */
export const finishRemoval = (
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
  followers: readonly string[] = [],
): Effect.Effect<void, CephError, Ceph | Purge> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const known = imageId !== undefined && followers.length === 0;
    const left = known ? [yield* ceph.trashGet(pool, imageId)] : yield* ceph.trashList(pool);
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
  readonly prepare?: (image: ImageStatus) => Effect.Effect<void, CephError | Precondition, Ceph | Purge>;
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
): Effect.Effect<void, CephError | Precondition, Ceph | Purge> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
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
      yield* ceph.imageMend(pool, imageName);
      const left = followers.filter((follower) => !stillThere.has(follower));
      yield* finishRemoval(pool, imageName, imageId, left);
    }
    for (const { removal, image } of there) {
      const { pool, imageName, snapshots = [], prepare } = removal;
      if (prepare !== undefined) yield* prepare(image);
      for (const snapshot of snapshots) yield* orRaced(ceph.snapshotRemove(pool, imageName, snapshot));
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
): Effect.Effect<void, CephError | Precondition, Ceph | Purge> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    if (!(yield* ceph.imageMend(pool, imageName))) return yield* finishRemoval(pool, imageName, undefined);
    const image = yield* orRaced(ceph.imageStatus(pool, imageName));
    yield* proveUnused(pool, imageName, image, 0);
    if (yield* orRaced(ceph.imageHasData(pool, imageName, "own"))) {
      return yield* new Precondition({
        message: `image ${imageSubject(pool, imageName)} is in the way: it looks like a clone that was cut off, but it holds data of its own; look at it, and remove it by hand ("rbd trash mv") if nobody needs it`,
      });
    }
    for (const snapshot of snapshots) yield* orRaced(ceph.snapshotRemove(pool, imageName, snapshot));
    yield* discardImage(pool, imageName, image.id);
  });

/** Before it is made again: only a driver has it open, and one that died does so for half a minute more. */
export const clearUnfinished = (
  pool: PoolRef,
  imageName: string,
  snapshots: readonly string[] = [],
): Effect.Effect<void, CephError | Precondition | LockHeld, Ceph | Purge> =>
  Effect.catchTag(discardUnfinished(pool, imageName, snapshots), "Busy", ({ message }) =>
    Effect.fail(new LockHeld({ message: `${message}; a driver that has died has it open for half a minute` })),
  );

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
): Effect.Effect<boolean, CephError | Precondition | Conflict | LockHeld, Ceph | Purge> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const marked = (yield* ceph.snapshots(source.pool, source.image)).some(
      ({ kind, name }) => kind === "user" && name === source.snapshot,
    );
    if (marked) {
      yield* clearUnfinished(pool, image, snapshots);
      return false;
    }
    if (!(yield* ceph.imageMend(pool, image))) {
      yield* finishRemoval(pool, image, undefined);
      return false;
    }
    const { id, parent } = yield* orRaced(ceph.imageStatus(pool, image));
    if ((yield* ceph.trashGet(pool, id)) !== undefined) {
      // An undo was cut off that was about to move it there.
      yield* clearUnfinished(pool, image, snapshots);
      return false;
    }
    const from = parent && imageSubject({ ...source.pool, ...parent }, parent.image);
    if (from === imageSubject(source.pool, source.image)) return true;
    if (from !== undefined) {
      const message = `image ${imageSubject(pool, image)} is a copy of ${from}, one of ${imageSubject(source.pool, source.image)} is asked for`;
      return yield* new Conflict({ message });
    }
    // Flattened meanwhile; or never attached, and then there is nothing in it.
    if (yield* orRaced(ceph.imageHasData(pool, image, "own"))) return true;
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
    const ceph = yield* Ceph;
    yield* ceph
      .snapshotCreate(source.pool, source.image, source.snapshot, source.clients)
      .pipe(Effect.catchTag("Exists", () => Effect.void));
    // Another driver works on the same request: it has made the clone already, or is done with the mark.
    yield* Effect.catchTag(ceph.imageClone(source, pool, image, spec), ["Exists", "SnapshotNotFound"], asRaced);
    yield* ceph.snapshotRemove(source.pool, source.image, source.snapshot);
  });
