/**
 * What volumes ask of RBD images beyond single calls: making one for parameters, telling whether one fits a request,
 * getting rid of one.
 *
 * Not here: the journal, and when a volume may go (services/controller.ts).
 *
 * 1. Getting rid of an image is always: prove that nobody uses it, move it to the trash, have it purged.
 * 2. An image is compared with what a request asks for, never with what a request leaves open.
 */
import * as Effect from "effect/Effect";
import { Ceph, type ImageSpec, type ImageStatus, imageSubject, type PoolRef } from "./ceph/ceph.ts";
import { Busy, type CephError } from "./ceph/errors.ts";
import { FEATURE_BITS } from "./config/image-features.ts";
import type { VolumeParameters } from "./config/parameters.ts";
import { Precondition } from "./errors.ts";
import { Purge } from "./purge.ts";

export const imageSpec = (parameters: VolumeParameters, sizeBytes: bigint): ImageSpec => ({
  sizeBytes,
  ...(parameters.features && { features: parameters.features.mask }),
  ...(parameters.dataPool !== undefined && { dataPool: parameters.dataPool }),
  ...(parameters.striping && { stripeUnit: parameters.striping.unit, stripeCount: parameters.striping.count }),
  ...(parameters.objectOrder !== undefined && { objectSize: 1n << BigInt(parameters.objectOrder) }),
});

/** Features that follow from a layout or from what is done with the image; nobody asks for them. */
const IMPLICIT = FEATURE_BITS.striping | FEATURE_BITS["data-pool"] | FEATURE_BITS.operations | FEATURE_BITS.migrating;

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

/** Moves an image that nobody uses to the trash and has it purged; done when that is queued. */
export const discardImage = (
  pool: PoolRef,
  imageName: string,
  imageId: string,
): Effect.Effect<void, CephError, Ceph | Purge> =>
  Effect.gen(function* () {
    // A second move finishes one that was cut off. Without the image, another driver has moved it.
    yield* (yield* Ceph).trashMove(pool, imageName).pipe(Effect.catchTag("ImageNotFound", () => Effect.void));
    yield* (yield* Purge).discard(pool, imageId);
  });

/** For an image that is gone under its name: finishes a removal that was cut off, in the trash or on the way there. */
export const finishRemoval = (
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
): Effect.Effect<void, CephError, Ceph | Purge> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const left = imageId === undefined ? yield* ceph.trashList(pool) : [yield* ceph.trashGet(pool, imageId)];
    for (const entry of left) {
      if (entry?.source === "user" && entry.name === imageName) yield* discardImage(pool, imageName, entry.id);
    }
  });
