/**
 * The layout of an image: which one a StorageClass asks for, and in what an existing image differs from it.
 *
 * 1. An image is compared with what a request asks for, never with what a request leaves open.
 */
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import type { CloneSpec, ImageSpec, ImageHeader } from "../ceph/rbd.ts";
import type { VolumeParameters } from "../config/parameters.ts";

/** The layout that a StorageClass asks for, of a clone or of a new image. */
export const cloneSpec = (parameters: VolumeParameters): CloneSpec => ({
  ...(parameters.features && { features: parameters.features.mask }),
  ...(parameters.dataPool !== undefined && { dataPool: parameters.dataPool }),
  ...(parameters.striping && { stripeUnit: parameters.striping.unit, stripeCount: parameters.striping.count }),
  ...(parameters.objectOrder !== undefined && { objectSize: 1n << BigInt(parameters.objectOrder) }),
});

const HOLDER_FEATURES = FEATURE_BITS.layering | FEATURE_BITS["deep-flatten"];

/**
 * The layout of a copy of a volume. A class that names no features gets those of ceph-csi's copies, whichever way the copy
 * takes: the source's own may be some that the class never asked for.
 */
export const volumeCopySpec = (parameters: VolumeParameters): CloneSpec => ({
  features: HOLDER_FEATURES,
  ...cloneSpec(parameters),
});

export const imageSpec = (parameters: VolumeParameters, sizeBytes: bigint): ImageSpec => ({
  sizeBytes,
  ...cloneSpec(parameters),
});

/** The layout of images that only hold a point in time: a snapshot's, and the one in between of a copy. Their data stays in the pool of the source. */
export const holderSpec = (source: ImageHeader): CloneSpec => ({
  features: HOLDER_FEATURES,
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

/** How the image differs from the request, as a clause; `undefined` if it fits. */
export const difference = (
  image: ImageHeader,
  wanted: VolumeParameters,
  size: { readonly sizeBytes: bigint; readonly limitBytes: bigint },
): string | undefined => {
  const { features, dataPool, objectOrder, striping } = wanted;
  if (image.sizeBytes < size.sizeBytes)
    return `it has ${image.sizeBytes} bytes, and the request asks for ${size.sizeBytes}`;
  if (size.limitBytes > 0n && image.sizeBytes > size.limitBytes) {
    return `it has ${image.sizeBytes} bytes, and the request asks for at most ${size.limitBytes}`;
  }
  if (features !== undefined && (image.features & ~IMPLICIT) !== (features.mask & ~IMPLICIT)) {
    return `its features are 0x${image.features.toString(16)}, and the request asks for 0x${features.mask.toString(16)}`;
  }
  if (dataPool !== undefined && image.dataPool !== dataPool) {
    return `its data is in ${image.dataPool === undefined ? "its own pool" : `pool ${image.dataPool}`}, and the request asks for ${dataPool}`;
  }
  if (objectOrder !== undefined && image.objectSize !== 1n << BigInt(objectOrder)) {
    return `its objects have ${image.objectSize} bytes, and the request asks for ${1n << BigInt(objectOrder)}`;
  }
  if (striping !== undefined && (image.stripeUnit !== striping.unit || image.stripeCount !== striping.count)) {
    return `its striping is ${image.stripeCount} x ${image.stripeUnit} bytes, and the request asks for ${striping.count} x ${striping.unit}`;
  }
  return undefined;
};
