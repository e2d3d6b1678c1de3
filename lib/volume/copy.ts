/**
 * Volumes made of other volumes' data: from a snapshot, from a volume. The images in between and their names are
 * ceph-csi's (`<image>-temp`), so that either driver can finish, clone again and delete what the other made.
 *
 * Not here: the journal entry of the new volume, and growing it to its size (./create.ts).
 *
 * 1. Restores of one snapshot run side by side; only its deletion waits for them, and they for it.
 * 2. A chain is kept short before it grows, by flattening the source that the request names and no other image.
 * 3. The source is what it was at one moment between the request and its answer.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { type CephError, ImageNotFound, Raced } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd, type SnapshotRef } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import type { CloneDepthLimits, VolumeOptions } from "../config/settings.ts";
import { InvalidRequest, NotReadyYet, Precondition } from "../csi/errors.ts";
import { requiredText } from "../csi/request-fields.ts";
import { cloneThrough, resumeClone, type Target, type Transient } from "../images/clone.ts";
import { Flatten } from "../images/flatten.ts";
import { dropLeftOver, tempImage } from "../images/intermediate.ts";
import { holderSpec } from "../images/layout.ts";
import { noMetadata } from "../images/metadata.ts";
import { asRaced, orRaced } from "../images/races.ts";
import { clearUnfinished, discardUnfinished } from "../images/removal.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import { type LocatedVolume, locateSnapshot, locateVolume } from "../journal/locate.ts";
import { stage } from "../operations/pipeline.ts";

export interface SourceRequest {
  readonly kind: "snapshot" | "volume";
  readonly id: string;
}

interface SnapshotSource {
  readonly kind: "snapshot";
  readonly found: LocatedVolume;
  readonly sizeBytes: bigint;
}
interface VolumeSource {
  readonly kind: "volume";
  readonly found: LocatedVolume;
  readonly sizeBytes: bigint;
  readonly status: ImageStatus;
}

/** A source that exists. A snapshot's image is its own and does not change: its header tells enough. */
export type Source = SnapshotSource | VolumeSource;

/** Each clone adds one parent to a restore, two to a clone of a volume. */
const below = ({ softDepth, hardDepth }: CloneDepthLimits, links: number): CloneDepthLimits => ({
  softDepth: Math.max(1, softDepth - links),
  hardDepth: Math.max(1, hardDepth - links),
});

/** The field of the request that names the source. */
const fieldOf = ({ kind }: SourceRequest): string => `volume_content_source.${kind}.${kind}_id`;

/** Whether the request names something at all; asks no cluster. */
export const readSource = (request: SourceRequest) => Effect.fromResult(requiredText(fieldOf(request), request.id));

/** The source of the request, fit to be cloned into a volume of that size. */
export const findSource = (request: SourceRequest, credentials: Credentials, sizeBytes: bigint, pool: PoolRef) =>
  Effect.gen(function* () {
    const resolve = request.kind === "snapshot" ? locateSnapshot : locateVolume;
    const found = yield* resolve(request.id, credentials);
    if (found.pool.access.monitors.join() !== pool.access.monitors.join() || found.pool.namespace !== pool.namespace) {
      const reason = `is in cluster ${found.cluster.clusterId}, the new volume is to be in another one or in another namespace`;
      return yield* new InvalidRequest({ field: fieldOf(request), reason });
    }
    const { attributes } = found;
    if (attributes?.encryptKms !== undefined) {
      const message = `${request.kind} ${request.id} is encrypted, and this driver does not know its keys yet; it never makes a plain volume of it`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    const source = yield* request.kind === "snapshot" ? snapshotSource(found) : volumeSource(found);
    if (sizeBytes < source.sizeBytes) {
      const reason = `asks for ${sizeBytes} bytes, the ${request.kind} has ${source.sizeBytes}`;
      return yield* new InvalidRequest({ field: "capacity_range", reason });
    }
    return source;
  });

const snapshotSource = (found: LocatedVolume) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { pool, imageName } = found;
    const subject = imageLabel(pool, imageName);
    // The name decides whether it is there: a removal takes it away first.
    if ((yield* rbd.imageId(pool, imageName)) === undefined) {
      return yield* new ImageNotFound({ op: "rbd_open", subject });
    }
    const [brief] = yield* rbd.imageBriefs(pool, [imageName], []);
    if (brief === undefined) return yield* new Raced({ op: "rbd_open", subject });
    const source: Source = { kind: "snapshot", found, sizeBytes: brief.sizeBytes };
    return source;
  });

const volumeSource = (found: LocatedVolume) =>
  Effect.gen(function* () {
    const status = yield* (yield* Rbd).imageStatus(found.pool, found.imageName);
    const source: Source = { kind: "volume", found, sizeBytes: status.sizeBytes, status };
    return source;
  });

/** Fails while the source can't be cloned once more: `NotReadyYet` until it is flattened, `TooMany` snapshots. */
export const keepSourceFit = (source: Source, options: VolumeOptions) =>
  Effect.gen(function* () {
    const { found } = source;
    const flatten = yield* Flatten;
    const links = source.kind === "snapshot" ? 1 : 2;
    yield* flatten.keepShort(found.pool, found.imageName, below(options.cloneDepth, links));
    if (source.kind === "snapshot") return;
    yield* limitSnapshots(options, found, source.status);
    yield* dropLeftOver(found, source.status);
  });

/** What a snapshot's ID stands for: the image of its name, and on it the snapshot of the same name. */
const snapshotOf = ({ found }: Source): SnapshotRef => ({
  pool: found.pool,
  image: found.imageName,
  snapshot: found.imageName,
});

/** The snapshots that the two clones of a volume's copy go through: of the source, and of the image in between. */
const steps = ({ found }: VolumeSource, pool: PoolRef, image: string): readonly [Transient, Transient] => [
  { pool: found.pool, image: found.imageName, snapshot: tempImage(image) },
  { pool, image: tempImage(image), snapshot: image, clients: "unasked" },
];

const between = ({ status }: VolumeSource, { pool, image }: Target): Target => ({
  pool,
  image: tempImage(image),
  spec: holderSpec(status),
  snapshots: [image],
});

/** What an earlier try has left of the copy: whether the image in between, and the image itself, are whole. */
export interface Progress {
  readonly temp: boolean;
  readonly image: boolean;
}

export const NOTHING_DONE: Progress = { temp: false, image: false };

/** Looks what there is, and takes away what was cut off. */
export const resumeCopy = (source: Source, target: Target) =>
  Effect.gen(function* () {
    const { pool, image } = target;
    if (source.kind === "snapshot") {
      yield* clearUnfinished(pool, image);
      return NOTHING_DONE;
    }
    const [first, second] = steps(source, pool, image);
    const temp = yield* resumeClone(first, between(source, target));
    if (temp) {
      // Not the source: another driver has taken the image in between away.
      const whole = Effect.catchTag(resumeClone(second, target), "ImageNotFound", asRaced);
      return { temp, image: yield* whole };
    }
    // An undo that was cut off, or a request for a snapshot.
    yield* clearUnfinished(pool, image);
    return NOTHING_DONE;
  });

/** Makes the image from the source, as far as it is not done. */
export const copySource = (source: Source, target: Target, done: Progress) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { pool, image, spec } = target;
    if (source.kind === "snapshot") {
      return yield* stage("clone", rbd.imageClone(snapshotOf(source), pool, image, spec).pipe(notReady(source)));
    }
    const [first, second] = steps(source, pool, image);
    const temp = between(source, target);
    if (!done.temp) yield* stage("snapshot source", cloneThrough(first, temp));
    if (done.image) return;
    yield* stage(
      "clone",
      // The image in between is nobody's but this request's: who takes it away works on the same one.
      orRaced(Effect.andThen(rbd.imageMetaSet(pool, temp.image, noMetadata), cloneThrough(second, target))),
    );
  });

/** A snapshot that the journal knows, without the one that restores are made of: it is still being made. */
const notReady =
  ({ found }: Source) =>
  <A, R>(clone: Effect.Effect<A, CephError, R>) =>
    Effect.catchTag(
      clone,
      ["Exists", "ImageSnapshotNotFound"],
      (error): Effect.Effect<never, CephError | NotReadyYet> => {
        if (error._tag === "Exists") return asRaced(error);
        if (found.attributes === undefined) return Effect.fail(error);
        return Effect.fail(
          new NotReadyYet({ subject: "", problem: `snapshot ${found.handle} is not ready to use yet; retry later` }),
        );
      },
    );

/** Takes away a copy that was not finished, with the image that it goes through. */
export const discardCopy = (pool: PoolRef, image: string) =>
  Effect.andThen(discardUnfinished(pool, image), discardUnfinished(pool, tempImage(image), [image]));

/** Takes away what `copySource` made beside the image itself, which is gone. The mark on the source goes last. */
export const removeTraces = (source: Source, pool: PoolRef, image: string) =>
  Effect.gen(function* () {
    if (source.kind === "snapshot") return;
    const [first] = steps(source, pool, image);
    yield* discardUnfinished(pool, tempImage(image), [image]);
    yield* (yield* Rbd).snapshotRemove(first.pool, first.image, first.snapshot);
  });
