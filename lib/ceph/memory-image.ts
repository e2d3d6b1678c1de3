/**
 * One image of the cluster in memory: its state, and which layouts and features Ceph takes.
 *
 * Not here: where images are and what is done with them (./memory-cluster.ts, ./memory.ts).
 */
import type { ImageSpec, ImageStatus } from "./ceph.ts";

export const FEATURE = {
  layering: 1n,
  striping: 2n,
  exclusiveLock: 4n,
  objectMap: 8n,
  fastDiff: 16n,
  deepFlatten: 32n,
  journaling: 64n,
  dataPool: 128n,
} as const;

/** What Ceph's own default of `rbd_default_features` comes to: layering to deep-flatten. */
export const DEFAULT_FEATURES = 61n;

export interface MemoryImage {
  readonly id: string;
  sizeBytes: bigint;
  readonly features: bigint;
  readonly objectSize: bigint;
  readonly stripeUnit: bigint;
  readonly stripeCount: bigint;
  readonly dataPool: string | undefined;
  readonly meta: Map<string, string>;
  readonly watchers: Set<string>;
  hasData: boolean;
  /** Lost: what a crash in the middle of a creation leaves. */
  objectMap: "whole" | "lost" | "none";
  mirror: ImageStatus["mirror"];
}

const DEFAULT_OBJECT_SIZE = 4_194_304n;
const has = (features: bigint, feature: bigint): boolean => (features & feature) !== 0n;
const powerOfTwo = (n: bigint): boolean => n > 0n && (n & (n - 1n)) === 0n;

/** `undefined` for what Ceph refuses as invalid. */
export const makeImage = (id: string, spec: ImageSpec, defaultFeatures: bigint): MemoryImage | undefined => {
  const objectSize = spec.objectSize ?? DEFAULT_OBJECT_SIZE;
  const stripeUnit = spec.stripeUnit ?? 0n;
  const stripeCount = spec.stripeCount ?? 0n;
  const striped = stripeUnit !== 0n && stripeCount !== 0n && (stripeUnit !== objectSize || stripeCount !== 1n);
  let features = spec.features ?? defaultFeatures;
  if (
    !powerOfTwo(objectSize) ||
    objectSize < 4096n ||
    objectSize > 33_554_432n ||
    (stripeUnit === 0n) !== (stripeCount === 0n) ||
    (striped && (objectSize % stripeUnit !== 0n || stripeUnit > objectSize)) ||
    (has(features, FEATURE.objectMap) && !has(features, FEATURE.exclusiveLock)) ||
    (has(features, FEATURE.journaling) && !has(features, FEATURE.exclusiveLock))
  ) {
    return undefined;
  }
  // not an error to Ceph: it leaves fast-diff out
  if (!has(features, FEATURE.objectMap)) features &= ~FEATURE.fastDiff;
  if (striped) features |= FEATURE.striping;
  if (spec.dataPool !== undefined) features |= FEATURE.dataPool;
  return {
    id,
    sizeBytes: spec.sizeBytes,
    features,
    objectSize,
    stripeUnit: striped ? stripeUnit : objectSize,
    stripeCount: striped ? stripeCount : 1n,
    dataPool: spec.dataPool,
    meta: new Map(),
    watchers: new Set(),
    hasData: false,
    objectMap: has(features, FEATURE.objectMap) ? "whole" : "none",
    mirror: "disabled",
  };
};

/** What Ceph makes of a name without a header when it is moved to the trash: an image of nothing. */
export const bareImage = (id: string | undefined): MemoryImage | undefined =>
  id === undefined
    ? undefined
    : {
        id,
        sizeBytes: 0n,
        features: 0n,
        objectSize: DEFAULT_OBJECT_SIZE,
        stripeUnit: DEFAULT_OBJECT_SIZE,
        stripeCount: 1n,
        dataPool: undefined,
        meta: new Map(),
        watchers: new Set(),
        hasData: false,
        objectMap: "none",
        mirror: "disabled",
      };

export interface ImageDump {
  readonly id: string;
  readonly sizeBytes: string;
  readonly features: string;
  readonly objectSize: string;
  readonly stripeUnit: string;
  readonly stripeCount: string;
  readonly dataPool: string | null;
  readonly hasData: boolean;
  readonly objectMap: string;
  readonly meta: Readonly<Record<string, string>>;
}

/** Plain JSON, keys in order: equal maps give equal text. */
export const sorted = <V, W>(entries: ReadonlyMap<string, V>, show: (value: V) => W): Readonly<Record<string, W>> =>
  Object.fromEntries([...entries].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => [key, show(value)]));

export const dumpImage = (image: MemoryImage): ImageDump => ({
  id: image.id,
  sizeBytes: String(image.sizeBytes),
  features: String(image.features),
  objectSize: String(image.objectSize),
  stripeUnit: String(image.stripeUnit),
  stripeCount: String(image.stripeCount),
  dataPool: image.dataPool ?? null,
  hasData: image.hasData,
  objectMap: image.objectMap,
  meta: sorted(image.meta, String),
});
