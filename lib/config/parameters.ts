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
import { goBool } from "../text/go-values.ts";
import { hasControl } from "../text/printable.ts";
import { InvalidParameter } from "./errors.ts";
import { type MapOptions, NO_MAP_OPTIONS, parseMapOptions } from "./map-options.ts";

export type ParameterMap = Readonly<Record<string, string>>;
export type Mounter = "rbd" | "rbd-nbd";

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
  readonly encryption: { readonly type: "block" | "file"; readonly kmsId: string } | undefined;
  readonly mounter: Mounter;
  readonly tryOtherMounters: boolean;
  readonly mapOptions: MapOptions;
  readonly unmapOptions: MapOptions;
  /** Text that replaces mkfs's default arguments; undefined or "" keeps them. */
  readonly mkfsOptions: string | undefined;
}

export const DEFAULT_VOLUME_NAME_PREFIX = "csi-vol-";
const MAX_PREFIX_BYTES = 200;
/** librbd's own limits for objects: 4 KiB to 32 MiB. */
const MIN_OBJECT_ORDER = 12;
const MAX_OBJECT_ORDER = 25;
const MAX_UINT64 = 2n ** 64n - 1n;

const text = z.string("is missing").refine((value) => !hasControl(value), "must not hold control characters");
const name = text.refine((value) => value !== "", "must not be empty");

const prefix = name
  .refine((value) => !/[/@]/.test(value), 'must not hold "/" or "@"')
  .refine((value) => value.isWellFormed(), "must be valid Unicode")
  .refine((value) => Buffer.byteLength(value) <= MAX_PREFIX_BYTES, `must have at most ${MAX_PREFIX_BYTES} bytes`);

const clusterId = name
  .refine((value) => value.isWellFormed(), "must be valid Unicode")
  .refine(
    (value) => Buffer.byteLength(value) <= MAX_CLUSTER_ID_BYTES,
    `must have at most ${MAX_CLUSTER_ID_BYTES} bytes`,
  );

/** A schema from a reader that tells what is wrong. */
const read = <T>(reader: (value: string) => Result.Result<T, string>) =>
  z.string().transform((value, context) => {
    const result = reader(value);
    if (Result.isSuccess(result)) return result.success;
    context.addIssue({ code: "custom", message: result.failure });
    return z.NEVER;
  });

const bool = read((value) => {
  const parsed = goBool(value);
  return parsed === undefined ? Result.fail("write true or false") : Result.succeed(parsed);
});

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
  volumeNamePrefix: prefix.default(DEFAULT_VOLUME_NAME_PREFIX),
  imageFeatures: read(parseImageFeatures).optional(),
  stripeUnit: uint64.optional(),
  stripeCount: uint64.optional(),
  objectSize: order.optional(),
  encrypted: bool.default(false),
  encryptionType: z.string().default("block"),
  encryptionKMSID: text.default(""),
  mounter: z.enum(["", "rbd", "rbd-nbd"], "write rbd or rbd-nbd").default("rbd"),
  tryOtherMounters: bool.default(false),
  mapOptions: read(parseMapOptions).default(NO_MAP_OPTIONS),
  unmapOptions: read(parseMapOptions).default(NO_MAP_OPTIONS),
  mkfsOptions: text.optional(),
});
type Fields = z.output<typeof schema>;

/** What no single parameter can tell: [field, what is wrong with it]. */
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
  if (fields.imageFeatures?.needsNbd === true && fields.mounter !== "rbd-nbd") {
    return ["imageFeatures", "journaling needs mounter rbd-nbd"];
  }
  if (fields.encrypted && fields.encryptionType !== "block" && fields.encryptionType !== "file") {
    return ["encryptionType", "write block or file"];
  }
  return undefined;
};

const typed = (fields: Fields): VolumeParameters => ({
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
  encryption: fields.encrypted
    ? { type: fields.encryptionType === "file" ? "file" : "block", kmsId: fields.encryptionKMSID || "default" }
    : undefined,
  mounter: fields.mounter === "rbd-nbd" ? "rbd-nbd" : "rbd",
  tryOtherMounters: fields.tryOtherMounters,
  mapOptions: fields.mapOptions,
  unmapOptions: fields.unmapOptions,
  mkfsOptions: fields.mkfsOptions,
});

/** Reads the parameters of a volume to be created. Names the first field that is wrong. */
export const parseParameters = (parameters: ParameterMap): Result.Result<VolumeParameters, InvalidParameter> => {
  // Without the prototype, a field is there only if the request has it.
  const parsed = schema.safeParse(Object.assign(Object.create(null), parameters));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const field = String(issue?.path[0] ?? "parameters");
    return Result.fail(new InvalidParameter({ field, reason: issue?.message ?? "is wrong" }));
  }
  const wrong = across(parsed.data);
  if (wrong === undefined) return Result.succeed(typed(parsed.data));
  return Result.fail(new InvalidParameter({ field: wrong[0], reason: wrong[1] }));
};

/** What the driver has decided about a volume. */
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
