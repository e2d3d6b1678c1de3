/**
 * The volume_context of NodeStageVolume, and the image that it and volume_id name together. The context is a copy of
 * the StorageClass's parameters, or is written by hand in a static PersistentVolume.
 *
 * Not here: whether the image exists (./mappable.ts), and the parameters that CreateVolume reads as well
 * (lib/config/node-parameters.ts).
 *
 * 1. The image of a dynamic volume is found in its journal. For a static one the context must name pool and cluster.
 * 2. Whether a dynamic volume is encrypted is what its journal says, and for a static one what the context says. A
 *    volume that either of them calls encrypted is never staged as a plain one, and one whose files are encrypted only
 *    if both say so.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { Cluster, Clusters } from "../config/clusters.ts";
import { type Encryption, encryptionIn, encryptionLabel, isOfFiles } from "../config/encryption.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { type NodeParameters, parseNodeParameters } from "../config/node-parameters.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition, type VolumeNotFound } from "../csi/errors.ts";
import type { ImageName, MapperName } from "../host/mapped-device.ts";
import { locateVolume } from "../journal/locate.ts";
import { locateStatic, type StaticImage } from "../journal/locate-static.ts";
import { goBool } from "../text/go-values.ts";
import { hasControl, oneLine } from "../text/printable.ts";

export interface VolumeContext extends NodeParameters {
  readonly volumeId: string;
  /** The image of a static volume; `undefined`: the volume is in a journal. */
  readonly fixed: StaticImage | undefined;
  /** The one that is asked first. */
  readonly mapper: MapperName;
}

export interface VolumeImage {
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly imageName: string;
  /** Where its key is; `undefined`: the volume is plain. */
  readonly encryption: (Encryption & { readonly owner: string | undefined }) | undefined;
  /** Its entry in the journal; `undefined`: it has none. */
  readonly journal: { readonly pool: PoolRef; readonly uuid: string; readonly requestName: string } | undefined;
}

// ------------------------------------------------------------------------------------------------------ the context

type ContextMap = Readonly<Record<string, string>>;

const refuse = (key: string, reason: string) =>
  Result.fail(new InvalidRequest({ field: `volume_context.${key}`, reason }));

const valueOf = (context: ContextMap, key: string): string => (Object.hasOwn(context, key) ? (context[key] ?? "") : "");

export const readVolumeContext = (
  volumeId: string,
  context: ContextMap,
): Result.Result<VolumeContext, InvalidRequest> =>
  Result.gen(function* () {
    const parameters = yield* Result.mapError(
      parseNodeParameters(context),
      ({ field, reason }) => new InvalidRequest({ field: `volume_context.${field}`, reason }),
    );
    const written = valueOf(context, "staticVolume");
    const isStatic = written === "" ? false : goBool(written);
    if (isStatic === undefined)
      return yield* refuse("staticVolume", `must be true or false, and not ${oneLine(written)}`);
    const fixed = isStatic ? yield* staticImage(volumeId, context) : undefined;
    return { volumeId, fixed, mapper: parameters.mounter === "rbd-nbd" ? "rbd-nbd" : "krbd", ...parameters };
  });

/** By what a mapping of rbd-nbd is known again: the volume ID or, of a migrated volume, the image, as in ceph-csi. */
export const cookieOf = ({ volumeId, fixed }: Pick<VolumeContext, "volumeId" | "fixed">): string =>
  fixed?.imageName ?? volumeId;

/** The name of a static volume's image is the volume ID, unless it was migrated from the in-tree plugin. */
const staticImage = (volumeId: string, context: ContextMap): Result.Result<StaticImage, InvalidRequest> => {
  for (const key of ["pool", "clusterID"]) {
    const value = valueOf(context, key);
    if (value === "") return refuse(key, `is missing, and the static volume ${oneLine(volumeId)} needs it`);
    if (hasControl(value) || value.includes("/")) {
      return refuse(key, 'must not contain "/" or control characters');
    }
  }
  const isMigrated = valueOf(context, "migration") === "true";
  const imageName = isMigrated ? valueOf(context, "imageName") : volumeId;
  if (imageName === "" || /[/@]/.test(imageName)) {
    return refuse("imageName", `must be the name of an image, and not ${oneLine(imageName)}`);
  }
  return Result.succeed({ clusterId: valueOf(context, "clusterID"), pool: valueOf(context, "pool"), imageName });
};

// -------------------------------------------------------------------------------------------------------- the image

/** An image as the host names it. */
export const toImageName = ({ pool: { pool, namespace }, imageName }: VolumeImage): ImageName => ({
  pool,
  namespace,
  image: imageName,
});

export type LocateImageError = CephError | ConfigError | Precondition | VolumeNotFound;

export const locateImage = Effect.fnUntraced(function* (
  context: VolumeContext,
  credentials: Credentials,
): Effect.fn.Return<VolumeImage, LocateImageError, Ceph | Clusters | ClusterMapping> {
  const { volumeId, fixed } = context;
  if (fixed !== undefined) {
    const encryption = context.encryption && { ...context.encryption, owner: undefined };
    return { ...(yield* locateStatic(fixed, credentials)), encryption, journal: undefined };
  }
  const { cluster, pool, imageName, uuid, attributes } = yield* locateVolume(volumeId, credentials);
  const requestName = attributes?.requestName;
  const recorded = encryptionIn(attributes);
  if (recorded === undefined && requestName !== undefined && context.encryption !== undefined) {
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem: "is encrypted as its volume_context says, and plain as its journal says. It was not staged",
      remedy: "Use the PersistentVolume that CreateVolume made",
    });
  }
  if (recorded !== undefined && isOfFiles(recorded) !== isOfFiles(context.encryption)) {
    // What is published is told by volume_context alone.
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem: `is ${encryptionLabel(recorded)} as its journal says, and ${encryptionLabel(context.encryption)} as its volume_context says. It was not staged`,
      remedy: "Use the PersistentVolume that CreateVolume made",
    });
  }
  const found = recorded ?? context.encryption;
  const encryption = found && { ...found, owner: attributes?.owner };
  const journal = requestName === undefined ? undefined : { pool, uuid, requestName };
  return { cluster, pool, imageName, encryption, journal };
});
