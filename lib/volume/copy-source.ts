/**
 * The source of a copy: the snapshot or volume that a request names, whether it is there, and whether it can be cloned
 * once more.
 *
 * Not here: making the copy (./copy.ts), and keeping its key (./key.ts).
 *
 * 1. A chain of clones is kept short before it grows, by flattening the source that the request names and no other
 *    image.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { type CephError, ImageNotFound, Raced } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import { sameMonitors } from "../ceph/same-monitors.ts";
import type { Clusters } from "../config/clusters.ts";
import { type Encryption, encryptionIn } from "../config/encryption.ts";
import { type ConfigError, InvalidParameter } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings, type Settings } from "../config/settings.ts";
import {
  InvalidRequest,
  type NotReadyYet,
  Precondition,
  type SnapshotNotFound,
  type TooMany,
  type VolumeNotFound,
} from "../csi/errors.ts";
import { requiredText, requiredVolumeId } from "../csi/request-fields.ts";
import { Flatten } from "../images/flatten.ts";
import { removeLeftOverTemp } from "../images/intermediate.ts";
import type { Purge } from "../images/purge.ts";
import { limitSnapshots } from "../images/snapshot-limit.ts";
import { type LocatedVolume, locateSnapshot, locateVolume } from "../journal/locate.ts";
import type { KeyNotFound, KmsError } from "../kms/errors.ts";
import { type SourceKey, sourceKey } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { stage } from "../operations/pipeline.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";

export interface SourceRequest {
  readonly kind: "snapshot" | "volume";
  readonly id: string;
}

/** A snapshot's image is its own and does not change: its header tells enough. */
export interface SnapshotToCopy {
  readonly kind: "snapshot";
  readonly located: LocatedVolume;
  readonly sizeBytes: bigint;
  readonly key: SourceKey | undefined;
}
export interface VolumeToCopy {
  readonly kind: "volume";
  readonly located: LocatedVolume;
  readonly sizeBytes: bigint;
  /** `undefined`: it is plain, and so is the copy. */
  readonly key: SourceKey | undefined;
  readonly header: ImageHeader;
  /** The copy is a clone of the volume itself. Otherwise it goes through an image in between (see `clonedDirectly`). */
  readonly direct: boolean;
}

/** A source that exists. */
export type CopySource = SnapshotToCopy | VolumeToCopy;

/** The field of the request that a copy is too small by. */
export const SIZE_FIELD = "capacity_range";

/** The field of the request that names the source. */
const fieldOf = ({ kind }: SourceRequest): string => `volume_content_source.${kind}.${kind}_id`;

/** Whether the request names something at all; asks no cluster. */
export const readSource = (request: SourceRequest): Effect.Effect<string, InvalidRequest> =>
  Effect.fromResult((request.kind === "volume" ? requiredVolumeId : requiredText)(fieldOf(request), request.id));

export type FindSourceError =
  | CephError
  | ConfigError
  | InvalidParameter
  | InvalidRequest
  | KeyNotFound
  | KmsError
  | Precondition
  | SnapshotNotFound
  | VolumeNotFound;

/** What a copy is to be. */
export type CopyRequest = Pick<CreateVolumeSpec, "credentials" | "parameters" | "pool" | "secrets" | "size">;

/** The source of the request, fit to be cloned into a volume of that size in that pool. */
export const findSource = Effect.fn("volume.findSource")(function* (
  request: SourceRequest,
  copy: CopyRequest,
): Effect.fn.Return<CopySource, FindSourceError, Ceph | Clusters | ClusterMapping | DriverSettings | Kms> {
  const {
    credentials,
    pool,
    size: { sizeBytes },
  } = copy;
  const locate = request.kind === "snapshot" ? locateSnapshot : locateVolume;
  const located = yield* locate(request.id, credentials);
  const { access, namespace } = located.pool;
  if (!sameMonitors(access.monitors, pool.access.monitors) || namespace !== pool.namespace) {
    const reason = `is in cluster ${located.cluster.clusterId}. A copy has to be in the cluster and the RADOS namespace of its source`;
    return yield* new InvalidRequest({ field: fieldOf(request), reason });
  }
  const encryption = encryptionIn(located.attributes);
  yield* proveSameKind(request, encryption, copy);
  const source = yield* request.kind === "snapshot" ? snapshotToCopy(located) : volumeToCopy(located);
  if (source.kind === "volume" && (source.header.features & FEATURE_BITS.layering) === 0n) {
    const subject = `image ${imageLabel(located.pool, located.imageName)}`;
    const problem = "cannot be cloned, because it lacks the feature layering";
    const remedy = "Copy its data to a volume that has it: the feature cannot be added to an image";
    return yield* new Precondition({ subject, problem, remedy });
  }
  if (sizeBytes < source.sizeBytes) {
    const reason = `asks for ${sizeBytes} bytes, but the ${request.kind} has ${source.sizeBytes}. Ask for at least as many`;
    return yield* new InvalidRequest({ field: SIZE_FIELD, reason });
  }
  if (encryption === undefined) return source;
  return { ...source, key: yield* readSourceKey(request, located, encryption, copy.secrets) };
});

/** A copy shares its source's blocks: both are encrypted, or neither. */
const proveSameKind = (
  { kind, id }: SourceRequest,
  source: Encryption | undefined,
  { parameters: { encryption } }: CopyRequest,
): Effect.Effect<void, InvalidParameter> => {
  if (source !== undefined && encryption !== undefined && source.type !== encryption.type) {
    const reason = `is ${encryption.type}, but the ${kind} ${id} is encrypted by ${source.type}, and so is its copy. Use a StorageClass with encryptionType: ${source.type}`;
    return Effect.fail(new InvalidParameter({ field: "encryptionType", reason }));
  }
  if ((source === undefined) === (encryption === undefined)) return Effect.void;
  const reason =
    source === undefined
      ? `is true, but the ${kind} ${id} is plain, and so would be its copy. Use a StorageClass without it, or copy the files into a new volume`
      : `is not true, but the ${kind} ${id} is encrypted, and so is its copy. Use a StorageClass with it`;
  return Effect.fail(new InvalidParameter({ field: "encrypted", reason }));
};

const readSourceKey = (
  { kind }: SourceRequest,
  located: LocatedVolume,
  encryption: Encryption,
  secrets: CopyRequest["secrets"],
) => {
  const request = { ...encryption, volumeId: located.handle, owner: located.attributes?.owner, secrets };
  return stage("read key of source", sourceKey(request, located, kind === "snapshot"));
};

const snapshotToCopy = Effect.fnUntraced(function* (located: LocatedVolume) {
  const rbd = yield* Rbd;
  const { pool, imageName } = located;
  const subject = imageLabel(pool, imageName);
  // The name decides whether it is there, because a removal takes it away first.
  if ((yield* rbd.imageId(pool, imageName)) === undefined) {
    return yield* new ImageNotFound({ op: "rbd_open", subject });
  }
  const [header] = yield* rbd.imageBriefs(pool, [imageName], []);
  if (header === undefined) return yield* new Raced({ op: "rbd_open", subject });
  return { kind: "snapshot", located, sizeBytes: header.sizeBytes, key: undefined } satisfies SnapshotToCopy;
});

const volumeToCopy = Effect.fnUntraced(function* (located: LocatedVolume) {
  const header = yield* (yield* Rbd).imageHeader(located.pool, located.imageName);
  const direct = clonedDirectly(header, yield* DriverSettings);
  return {
    kind: "volume",
    located,
    sizeBytes: header.sizeBytes,
    key: undefined,
    header,
    direct,
  } satisfies VolumeToCopy;
});

/**
 * Whether a copy of the volume may be a clone of the volume itself, which saves the second of two snapshots. It may not,
 * so that nobody flattens a volume that no request names:
 *
 * - where the volume is a clone: ceph-csi flattens the parent of what it clones, as soon as that has a parent in turn;
 * - where it has half as many snapshots as flattening begins at: room for one more is made by flattening the clone behind
 *   an old one, and only an image in between can be flattened for that.
 */
const clonedDirectly = ({ parent, snapshotCount }: ImageHeader, { minSnapshots }: Settings): boolean =>
  parent === undefined && 2 * snapshotCount < minSnapshots;

/** How many parents a restore adds to the chain, and a copy of a volume that goes through an image in between. */
const ADDED = { snapshot: 1, volume: 2 } as const;

/**
 * Has the source flattened where its chain or its snapshots are too many; fails while it can't be cloned once more.
 * Takes away what an earlier copy left beside a volume.
 */
export const keepSourceCloneable = Effect.fn("volume.keepSourceCloneable")(function* (
  source: CopySource,
): Effect.fn.Return<void, CephError | NotReadyYet | TooMany, Ceph | DriverSettings | Flatten | Purge> {
  const { pool, imageName } = source.located;
  yield* stage("limit chain", (yield* Flatten).keepShort(pool, imageName, ADDED[source.kind]));
  if (source.kind === "snapshot") return;
  yield* stage("limit snapshots", limitSnapshots(source.located, source.header));
  yield* stage("remove left-over copy", removeLeftOverTemp(source.located, source.header));
});
