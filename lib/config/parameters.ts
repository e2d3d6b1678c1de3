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
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";
import type { Encryption } from "./encryption.ts";
import { InvalidParameter } from "./errors.ts";
import { lockingOption, refusalOfMapOptions } from "./krbd-options.ts";
import { readNamePrefix } from "./name-prefix.ts";
import { asksReadOnly, NODE_PARAMETERS, type NodeParameters, parseNodeParameters } from "./node-parameters.ts";
import { name, type ParameterMap, read, readParameters } from "./parameter-kinds.ts";

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
  /** What maps the volume on a node; `either`: the kernel, or rbd-nbd where the kernel cannot. */
  readonly mappedBy: "krbd" | "rbd-nbd" | "either";
  /** Whether nodes map the volume read-only, whatever it is used for. */
  readonly mapsReadOnly: boolean;
  /** With which a node makes the filesystem; undefined: its own. */
  readonly mkfsOptions: readonly string[] | undefined;
  /** `undefined`: the volume is plain. */
  readonly encryption: Encryption | undefined;
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
  return undefined;
};

/** What a node cannot map, and why. */
const unmappable = (fields: Fields, node: NodeParameters): readonly [string, string] | undefined => {
  if (node.mounter === "rbd-nbd") return undefined;
  if (fields.imageFeatures?.needsNbd === true && !node.tryOtherMounters) {
    return ["imageFeatures", "journaling is not for the kernel's driver: leave it out, or write mounter: rbd-nbd"];
  }
  const { krbd } = node.mapOptions;
  const refusal = refusalOfMapOptions(krbd) ?? lockMissing(krbd, fields);
  return refusal === undefined ? undefined : ["mapOptions", refusal];
};

const lockMissing = (mapOptions: string, { imageFeatures }: Fields): string | undefined => {
  const option = lockingOption(mapOptions);
  if (option === undefined || imageFeatures === undefined || imageFeatures.names.includes("exclusive-lock")) return;
  return `has ${option}, which needs exclusive-lock in imageFeatures: add it, or leave the option out`;
};

const mappedBy = ({ mounter, tryOtherMounters }: NodeParameters): VolumeParameters["mappedBy"] => {
  if (mounter === "rbd-nbd") return "rbd-nbd";
  return tryOtherMounters ? "either" : "krbd";
};

type OfNodes = "mappedBy" | "mapsReadOnly" | "mkfsOptions" | "encryption" | "remarks";

const typed = (fields: Fields): Omit<VolumeParameters, OfNodes> => ({
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

const NAMES: readonly string[] = [...Object.keys(schema.shape), ...NODE_PARAMETERS];

/** On parameters that nobody reads, and that are almost one which the class lacks. */
const remarksOnNames = (parameters: ParameterMap): readonly string[] => {
  const lacking = NAMES.filter((each) => !Object.hasOwn(parameters, each));
  return Object.keys(parameters).flatMap((written): readonly string[] => {
    if (NAMES.includes(written) || written.includes("/")) return [];
    const meant = closest(written, lacking);
    return meant === undefined ? [] : [`parameter ${oneLine(written)} has no effect: write ${meant}`];
  });
};

/** Reads the parameters of a volume to be created, and proves that a node would stage it. Names the field that is wrong. */
export const parseParameters = (parameters: ParameterMap): Result.Result<VolumeParameters, InvalidParameter> =>
  Result.gen(function* () {
    const fields = yield* readParameters(schema, parameters);
    const wrong = across(fields);
    if (wrong !== undefined) return yield* Result.fail(new InvalidParameter({ field: wrong[0], reason: wrong[1] }));
    const node = yield* parseNodeParameters(parameters);
    const { mkfsOptions, encryption, remarks } = node;
    const refused = unmappable(fields, node);
    if (refused !== undefined)
      return yield* Result.fail(new InvalidParameter({ field: refused[0], reason: refused[1] }));
    const ofNodes = {
      mappedBy: mappedBy(node),
      mapsReadOnly: asksReadOnly(node),
      mkfsOptions,
      encryption,
      remarks: [...remarks, ...remarksOnNames(parameters)],
    };
    return { ...typed(fields), ...ofNodes };
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
