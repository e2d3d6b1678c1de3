/**
 * A StorageClass's parameters, from the text map of a CreateVolume request (or its copy in volume_context) to typed
 * values. Knows no cluster: whether a pool exists is found out later. Which parameters make two requests the same is
 * decided elsewhere.
 *
 * Invariants:
 * 1. What passes here, librbd and the journal can take: no name holds NUL, a layout is one librbd accepts.
 * 2. Unknown parameters are accepted, and kept for volume_context.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { type ImageFeatures, parseImageFeatures } from "../ceph/features.ts";
import { MAX_CLUSTER_ID_BYTES } from "../csi/volume-id.ts";
import { InvalidParameter } from "./errors.ts";
import { lockingOption, refusalOfMapOptions } from "./krbd-options.ts";
import { readNamePrefix } from "./name-prefix.ts";
import { parseNodeParameters } from "./node-parameters.ts";
import { bool, name, type ParameterMap, read, readParameters } from "./parameter-kinds.ts";

export interface VolumeParameters {
  readonly clusterId: string;
  /** Undefined only when `topologyConstrainedPools` chooses it. */
  readonly pool: string | undefined;
  /** JSON text, not looked into here. */
  readonly topologyConstrainedPools: string | undefined;
  readonly dataPool: string | undefined;
  readonly volumeNamePrefix: string;
  /** Undefined: librbd's own default on create, the parent's on a clone. */
  readonly features: ImageFeatures | undefined;
  /** Undefined: none asked for, or a count of 0, which is the same. */
  readonly striping: { readonly unit: bigint; readonly count: bigint } | undefined;
  /** log2 of the object size in bytes. */
  readonly objectOrder: number | undefined;
  /** Options of `rbd map` for the kernel's driver; "" for none. */
  readonly mapOptions: string;
  /** With which a node makes the filesystem; undefined: its own. */
  readonly mkfsOptions: readonly string[] | undefined;
  /** What was given and has no effect, for the log. */
  readonly remarks: readonly string[];
}

export const DEFAULT_VOLUME_NAME_PREFIX = "csi-vol-";
/** librbd's own limits for objects: 4 KiB to 32 MiB. */
const MIN_OBJECT_ORDER = 12;
const MAX_OBJECT_ORDER = 25;
const MAX_UINT64 = 2n ** 64n - 1n;

const clusterId = name
  .refine((value) => value.isWellFormed(), "must be valid Unicode")
  .refine(
    (value) => Buffer.byteLength(value) <= MAX_CLUSTER_ID_BYTES,
    `must have at most ${MAX_CLUSTER_ID_BYTES} bytes`,
  );

/** Empty means absent, as it always has. */
const uint64 = read<bigint | undefined>((value) => {
  if (value === "") return Result.succeed(undefined);
  const parsed = /^\d{1,20}$/.test(value) ? BigInt(value) : MAX_UINT64 + 1n;
  return parsed > MAX_UINT64 ? Result.fail("write a decimal number of bytes or stripes") : Result.succeed(parsed);
});

const order = read<number | undefined>((value) => {
  if (value === "") return Result.succeed(undefined);
  const orders = Array.from({ length: MAX_OBJECT_ORDER - MIN_OBJECT_ORDER + 1 }, (_, at) => MIN_OBJECT_ORDER + at);
  const bytes = /^\d{1,20}$/.test(value) ? BigInt(value) : 0n;
  const found = orders.find((each) => 1n << BigInt(each) === bytes);
  return found === undefined
    ? Result.fail("write a power of two from 4096 to 33554432 (bytes)")
    : Result.succeed(found);
});

const schema = z.object({
  clusterID: clusterId,
  pool: name.optional(),
  topologyConstrainedPools: z.string().optional(),
  dataPool: name.optional(),
  // Checked as ceph-csi does, and of no effect: the namespace comes from config.json.
  radosNamespace: name.optional(),
  volumeNamePrefix: read(readNamePrefix).default(DEFAULT_VOLUME_NAME_PREFIX),
  imageFeatures: read(parseImageFeatures).optional(),
  stripeUnit: uint64.optional(),
  stripeCount: uint64.optional(),
  objectSize: order.optional(),
  tryOtherMounters: bool.default(false),
});
type Fields = z.output<typeof schema>;

/** Checks parameters against each other. Returns the field and what is wrong with it. */
const across = (fields: Fields): readonly [string, string] | undefined => {
  if (fields.pool === undefined && !fields.topologyConstrainedPools) return ["pool", "is missing"];
  const { stripeUnit, stripeCount, objectSize } = fields;
  if ((stripeUnit === undefined) !== (stripeCount === undefined)) {
    const [missing, given] = stripeUnit === undefined ? ["stripeUnit", "stripeCount"] : ["stripeCount", "stripeUnit"];
    return [missing, `is missing: ${given} needs it`];
  }
  if (stripeUnit !== undefined && stripeCount !== undefined && stripeCount !== 0n) {
    if (stripeUnit === 0n) return ["stripeUnit", "must not be 0"];
    if (objectSize !== undefined && (1n << BigInt(objectSize)) % stripeUnit !== 0n) {
      return ["stripeUnit", "must divide objectSize"];
    }
  }
  if (fields.imageFeatures?.needsNbd === true) {
    return ["imageFeatures", "journaling needs mounter rbd-nbd, which this release does not have: leave it out"];
  }
  return undefined;
};

const lockMissing = (mapOptions: string, { imageFeatures }: Fields): string | undefined => {
  const option = lockingOption(mapOptions);
  if (option === undefined || imageFeatures === undefined || imageFeatures.names.includes("exclusive-lock")) return;
  return `has ${option}, which needs exclusive-lock in imageFeatures: add it, or leave the option out`;
};

/** ceph-csi's limits of I/O, in the spelling of its documents since 3.17 and in the older one. */
const QOS =
  /^(?:(?:base|max)(?:read|write)?(?:iops|bps|bytespersecond)|(?:read|write)?(?:iops|bps)pergib|basevolsizebytes)$/i;

const remarksOn = (parameters: ParameterMap, fields: Fields): readonly string[] => {
  const limits = Object.keys(parameters).filter((key) => QOS.test(key));
  return [
    ...(fields.tryOtherMounters
      ? ["parameter tryOtherMounters has no effect: this release has the kernel's mounter only"]
      : []),
    ...(limits.length > 0
      ? [`parameters ${limits.toSorted().join(", ")} have no effect: this release does not limit the I/O of volumes`]
      : []),
  ];
};

const typed = (fields: Fields): Omit<VolumeParameters, "mapOptions" | "mkfsOptions" | "remarks"> => ({
  clusterId: fields.clusterID,
  pool: fields.pool,
  topologyConstrainedPools: fields.topologyConstrainedPools || undefined,
  dataPool: fields.dataPool,
  volumeNamePrefix: fields.volumeNamePrefix,
  features: fields.imageFeatures,
  striping:
    fields.stripeUnit !== undefined && fields.stripeCount
      ? { unit: fields.stripeUnit, count: fields.stripeCount }
      : undefined,
  objectOrder: fields.objectSize,
});

/** Reads the parameters of a volume to be created, and proves that a node would stage it. Names the field that is wrong. */
export const parseParameters = (parameters: ParameterMap): Result.Result<VolumeParameters, InvalidParameter> =>
  Result.gen(function* () {
    const fields = yield* readParameters(schema, parameters);
    const wrong = across(fields);
    if (wrong !== undefined) return yield* Result.fail(new InvalidParameter({ field: wrong[0], reason: wrong[1] }));
    const { mapOptions, mkfsOptions, remarks } = yield* parseNodeParameters(parameters);
    const refusal = refusalOfMapOptions(mapOptions) ?? lockMissing(mapOptions, fields);
    if (refusal !== undefined)
      return yield* Result.fail(new InvalidParameter({ field: "mapOptions", reason: refusal }));
    return { ...typed(fields), mapOptions, mkfsOptions, remarks: [...remarks, ...remarksOn(parameters, fields)] };
  });

/** Values that the driver chose for a volume. */
export interface DriverValues {
  readonly pool: string;
  readonly journalPool: string;
  readonly imageName: string;
  /** "" for the default namespace. */
  readonly radosNamespace: string;
  readonly dataPool: string | undefined;
}

const SIDECAR_PREFIX = "csi.storage.k8s.io/";

/**
 * The volume_context of a created volume: the driver's values, with the request's parameters laid over them. The
 * sidecars' own keys and topologyConstrainedPools stay out.
 */
export const volumeContext = (parameters: ParameterMap, driver: DriverValues): Record<string, string> => {
  const { pool, journalPool, imageName, radosNamespace, dataPool } = driver;
  const own = {
    pool,
    journalPool,
    imageName,
    ...(radosNamespace && { radosNamespace }),
    ...(dataPool && { dataPool }),
  };
  const kept = Object.entries(parameters).filter(
    ([key]) => key !== "topologyConstrainedPools" && !key.startsWith(SIDECAR_PREFIX),
  );
  return { ...own, ...Object.fromEntries(kept) };
};
