/**
 * A CreateVolume request, read: everything that it says, or why it can't be served. Asks no cluster.
 *
 * Not here: the capabilities of the request, which the wire reads (services/controller.ts), and where the volume is
 * made (./pool-choice.ts).
 */
import * as Effect from "effect/Effect";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import { hasHeader, LUKS_HEADER_BYTES } from "../config/encryption.ts";
import { type ConfigError, InvalidParameter, type InvalidSecret } from "../config/errors.ts";
import type { ParameterMap } from "../config/parameter-kinds.ts";
import { parseParameters, type VolumeParameters } from "../config/parameters.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import { InvalidRequest, type Unplaceable } from "../csi/errors.ts";
import { refusalOfSize } from "../csi/filesystems.ts";
import { chooseSize, type InvalidSize, type SizeOutOfRange, type SizeRequest } from "../csi/size.ts";
import { ownerOf } from "../images/metadata.ts";
import { clusterAccess } from "../journal/locate.ts";
import { remark } from "../operations/remark.ts";
import { type Asked, overlaid, readClassLimits, readMutableParameters, remarksOnLimits } from "../qos/parameters.ts";
import { readSource, type SourceRequest } from "./copy-source.ts";
import { poolsFor, type Requirement, type Segments } from "./topology.ts";

export interface CreateVolumeRequest {
  readonly requestName: string;
  readonly parameters: ParameterMap;
  /** Of the VolumeAttributesClass; they take precedence. */
  readonly mutableParameters: ParameterMap;
  readonly secrets: Readonly<Record<string, string>>;
  readonly size: SizeRequest;
  readonly source: SourceRequest | undefined;
  /** Types of the filesystems that it is to be mounted as; "" is for any. */
  readonly filesystems: readonly string[];
  /** Absent: the caller does not ask for topology. */
  readonly topology: Requirement | undefined;
}

/** The request for one pool in which its volume may be. */
export interface CreateVolumeSpec {
  readonly requestName: string;
  readonly cluster: Cluster;
  readonly credentials: Credentials;
  /** Those of the request, in which a key store may have its own. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Pool of the journal, and of the image but for entries of older drivers. */
  readonly pool: PoolRef;
  /** With the data pool that goes with the pool. */
  readonly parameters: VolumeParameters;
  /** As they were given; volume_context repeats them. */
  readonly requestParameters: ParameterMap;
  /** The limits of I/O that its classes ask for. */
  readonly limits: Asked;
  /** In bytes; a limit of 0 is none. */
  readonly size: { readonly sizeBytes: bigint; readonly limitBytes: bigint };
  /** Kubernetes namespace of the claim. */
  readonly owner: string | undefined;
  readonly source: SourceRequest | undefined;
  /** From where the volume can be reached; absent: from everywhere. */
  readonly segments: Segments | undefined;
}

export interface CreateVolumePlan {
  readonly requestName: string;
  readonly clusterId: string;
  /** In the order of the request's preference; never empty. */
  readonly candidates: readonly CreateVolumeSpec[];
  /** Pools of the class that can't be reached from where the request asks for. */
  readonly others: readonly PoolRef[];
}

export type CreateRequestError =
  | ConfigError
  | InvalidParameter
  | InvalidRequest
  | InvalidSecret
  | InvalidSize
  | SizeOutOfRange
  | Unplaceable;

export const readCreateRequest = Effect.fnUntraced(function* (
  request: CreateVolumeRequest,
): Effect.fn.Return<CreateVolumePlan, CreateRequestError, Clusters> {
  const parameters = yield* Effect.fromResult(parseParameters(request.parameters));
  const ofClass = yield* Effect.fromResult(readClassLimits(request.parameters, parameters.mappedBy));
  const ofAttributes = yield* Effect.fromResult(readMutableParameters(request.mutableParameters));
  const limits = overlaid(ofClass.asked, ofAttributes);
  const remarks = [...ofClass.remarks, ...remarksOnLimits(limits, parameters.mappedBy)];
  yield* remark([...parameters.remarks, ...remarks]);
  const choice = yield* Effect.fromResult(poolsFor(parameters, request.topology));
  const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
  const sizeBytes = yield* Effect.fromResult(chooseSize(request.size));
  if (hasHeader(parameters.encryption)) yield* proveHeaderFits(sizeBytes);
  if (request.source === undefined) yield* proveFilesystemsFit(request.filesystems, sizeBytes, parameters);
  else yield* proveLayering(parameters);
  const cluster = yield* (yield* Clusters).get(parameters.clusterId);
  const { requestName, source } = request;
  if (source !== undefined) yield* readSource(source);
  const access = clusterAccess(cluster, credentials);
  const poolRef = (pool: string): PoolRef => ({ access, pool, namespace: cluster.radosNamespace });
  const candidates = choice.candidates.map(
    ({ pool, dataPool, segments }): CreateVolumeSpec => ({
      requestName,
      cluster,
      credentials,
      secrets: request.secrets,
      pool: poolRef(pool),
      parameters: { ...parameters, dataPool: dataPool ?? parameters.dataPool },
      requestParameters: request.parameters,
      limits,
      size: { sizeBytes, limitBytes: request.size.limitBytes ?? 0n },
      owner: ownerOf(request.parameters),
      source,
      segments,
    }),
  );
  return { requestName, clusterId: parameters.clusterId, candidates, others: choice.others.map(poolRef) };
});

/** The header of a LUKS device is on the image itself. */
const proveHeaderFits = (sizeBytes: bigint): Effect.Effect<void, InvalidRequest> =>
  sizeBytes > LUKS_HEADER_BYTES
    ? Effect.void
    : Effect.fail(
        new InvalidRequest({
          field: "capacity_range",
          reason: `asks for ${sizeBytes} bytes, and an encrypted volume needs ${LUKS_HEADER_BYTES} for its header. Ask for more`,
        }),
      );

/** A blank volume gets its filesystem from a node, by the parameters of its class. */
const proveFilesystemsFit = Effect.fnUntraced(function* (
  filesystems: readonly string[],
  sizeBytes: bigint,
  { mapsReadOnly, mkfsOptions, encryption }: VolumeParameters,
): Effect.fn.Return<void, InvalidParameter | InvalidRequest> {
  if (filesystems.length > 0 && mapsReadOnly) {
    const reason =
      "asks for a read-only device, on which no node makes the filesystem of a volume without a content source: leave ro and read-only out";
    return yield* new InvalidParameter({ field: "mapOptions", reason });
  }
  for (const type of filesystems) {
    const usable = hasHeader(encryption) ? sizeBytes - LUKS_HEADER_BYTES : sizeBytes;
    const reason = refusalOfSize(type, usable, mkfsOptions);
    if (reason !== undefined) return yield* new InvalidRequest({ field: "volume_capabilities", reason });
  }
});

/** A copy reads from its parent, which the feature layering is for. */
const proveLayering = ({ features }: VolumeParameters): Effect.Effect<void, InvalidParameter> =>
  features === undefined || (features.mask & FEATURE_BITS.layering) !== 0n
    ? Effect.void
    : Effect.fail(
        new InvalidParameter({
          field: "imageFeatures",
          reason: "lacks layering, which a volume with a content source needs: add it",
        }),
      );
