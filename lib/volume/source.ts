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
import { Ceph, type CloneSpec, type ImageStatus, type PoolRef, type SnapshotRef } from "../ceph/ceph.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition } from "../errors.ts";
import { Flatten, type Limits } from "../flatten.ts";
import { type Found, resolveSnapshot, resolveVolume } from "../handles.ts";
import { cloneThrough, discardUnfinished, holderSpec } from "../images.ts";
import { stage } from "../pipeline.ts";
import { requiredText } from "../request.ts";
import { noMetadata } from "./metadata.ts";

export interface SourceRequest {
  readonly kind: "snapshot" | "volume";
  readonly id: string;
}

/** A source that exists, opened for its size. */
export interface Source {
  readonly kind: "snapshot" | "volume";
  readonly found: Found;
  readonly status: ImageStatus;
}

/** Each clone adds one parent to a restore, two to a clone of a volume. */
const below = ({ softDepth, hardDepth }: Limits, links: number): Limits => ({
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
    const resolve = request.kind === "snapshot" ? resolveSnapshot : resolveVolume;
    const found = yield* resolve(request.id, credentials);
    if (found.pool.access.monitors.join() !== pool.access.monitors.join() || found.pool.namespace !== pool.namespace) {
      const reason = `is in cluster ${found.cluster.clusterId}, the new volume is to be in another one or in another namespace`;
      return yield* new InvalidRequest({ field: fieldOf(request), reason });
    }
    const { attributes } = found;
    if (attributes?.encryptKms !== undefined) {
      const message = `${request.kind} ${request.id} is encrypted, and this driver does not know its keys yet; it never makes a plain volume of it`;
      return yield* new Precondition({ message });
    }
    const status = yield* (yield* Ceph).imageStatus(found.pool, found.imageName);
    if (sizeBytes < status.sizeBytes) {
      const reason = `asks for ${sizeBytes} bytes, the ${request.kind} has ${status.sizeBytes}`;
      return yield* new InvalidRequest({ field: "capacity_range", reason });
    }
    const source: Source = { kind: request.kind, found, status };
    return source;
  });

/** Fails with `LockHeld` while the source has to be flattened first. */
export const keepChainShort = ({ kind, found }: Source, chain: Limits) =>
  Effect.flatMap(Flatten, (flatten) =>
    flatten.keepShort(found.pool, found.imageName, below(chain, kind === "snapshot" ? 1 : 2)),
  );

/** What a snapshot's ID stands for: the image of its name, and on it the snapshot of the same name. */
const snapshotOf = ({ found }: Source): SnapshotRef => ({
  pool: found.pool,
  image: found.imageName,
  snapshot: found.imageName,
});

export const tempImage = (imageName: string): string => `${imageName}-temp`;

/** Makes `image` from the source. `fresh`: no earlier try can have left anything. */
export const cloneSource = (
  source: Source,
  target: { readonly pool: PoolRef; readonly image: string; readonly spec: CloneSpec },
  fresh: boolean,
) =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const { pool, image, spec } = target;
    if (source.kind === "snapshot") {
      if (!fresh) yield* stage("clear", discardUnfinished(pool, image));
      return yield* stage("clone", ceph.imageClone(snapshotOf(source), pool, image, spec));
    }
    const temp = tempImage(image);
    const { pool: sourcePool, imageName: sourceImage } = source.found;
    yield* stage(
      "snapshot source",
      cloneThrough(
        { pool: sourcePool, image: sourceImage, snapshot: temp },
        { pool, image: temp, spec: holderSpec(source.status) },
        fresh,
      ),
    );
    yield* stage("clear", ceph.imageMetaSet(pool, temp, noMetadata));
    yield* stage("clone", cloneThrough({ pool, image: temp, snapshot: image }, { pool, image, spec }, fresh));
  });

/** Takes away what `cloneSource` made beside the image itself. */
export const removeTraces = (source: Source, pool: PoolRef, image: string) =>
  Effect.gen(function* () {
    if (source.kind === "snapshot") return;
    const ceph = yield* Ceph;
    const temp = tempImage(image);
    yield* ceph.snapshotRemove(source.found.pool, source.found.imageName, temp);
    yield* discardUnfinished(pool, temp, [image]);
  });
