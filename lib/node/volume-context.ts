/**
 * What NodeStageVolume reads from volume_context (a copy of the StorageClass's parameters, or what a person wrote into
 * a static PersistentVolume), and the image that volume_id and context name together.
 *
 * Not here: whether the image exists, and what is done with it (services/node.ts).
 *
 * 1. What a node acts on is read as CreateVolume reads it (lib/config/node-parameters.ts).
 * 2. A dynamic volume's image comes from its journal; of a static one the context has to name pool and cluster.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { ClusterMapping } from "../config/mapping.ts";
import { type NodeParameters, parseNodeParameters } from "../config/node-parameters.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition, type VolumeNotFound } from "../csi/errors.ts";
import { clusterAccess, locateVolume } from "../journal/locate.ts";
import { goBool } from "../text/go-values.ts";
import { hasControl, oneLine } from "../text/printable.ts";

export interface VolumeContext extends NodeParameters {
  readonly volumeId: string;
  /** A static volume's own image, which the driver never formats; `undefined`: the journal knows it. */
  readonly fixed: { readonly clusterId: string; readonly pool: string; readonly imageName: string } | undefined;
}

export interface VolumeImage {
  readonly cluster: Cluster;
  readonly pool: PoolRef;
  readonly imageName: string;
  /** Its entry in the journal; `undefined`: it has none. */
  readonly journal: { readonly pool: PoolRef; readonly uuid: string; readonly requestName: string } | undefined;
}

type Context = Readonly<Record<string, string>>;

const refuse = (key: string, reason: string) =>
  Result.fail(new InvalidRequest({ field: `volume_context.${key}`, reason }));

export const readVolumeContext = (volumeId: string, context: Context): Result.Result<VolumeContext, InvalidRequest> =>
  Result.gen(function* () {
    const value = (key: string): string => (Object.hasOwn(context, key) ? (context[key] ?? "") : "");
    const flag = (key: string) => {
      const text = value(key);
      const parsed = text === "" ? false : goBool(text);
      return parsed === undefined ? refuse(key, `is ${oneLine(text)}: write true or false`) : Result.succeed(parsed);
    };
    const parameters = yield* Result.mapError(
      parseNodeParameters(context),
      ({ field, reason }) => new InvalidRequest({ field: `volume_context.${field}`, reason }),
    );
    const fixed = (yield* flag("staticVolume"))
      ? yield* fixedImage(volumeId, value("migration") === "true" ? value("imageName") : volumeId, value)
      : undefined;
    return { volumeId, fixed, ...parameters };
  });

const fixedImage = (volumeId: string, imageName: string, value: (key: string) => string) => {
  for (const key of ["pool", "clusterID"]) {
    if (value(key) === "") return refuse(key, `is missing: a static volume (${oneLine(volumeId)}) needs it`);
    if (hasControl(value(key)) || value(key).includes("/")) return refuse(key, "is no name that Ceph takes");
  }
  if (imageName === "" || /[/@]/.test(imageName)) {
    return refuse("imageName", `names no image: ${oneLine(imageName)}`);
  }
  return Result.succeed({ clusterId: value("clusterID"), pool: value("pool"), imageName });
};

export const resolveImage = (
  context: VolumeContext,
  credentials: Credentials,
): Effect.Effect<
  VolumeImage,
  VolumeNotFound | CephError | ConfigError | Precondition,
  Ceph | Clusters | ClusterMapping
> =>
  Effect.gen(function* () {
    const { volumeId, fixed } = context;
    if (fixed !== undefined) {
      const cluster = yield* staticCluster(fixed.clusterId);
      const access = clusterAccess(cluster, credentials);
      return {
        cluster,
        pool: { access, pool: fixed.pool, namespace: cluster.radosNamespace },
        imageName: fixed.imageName,
        journal: undefined,
      };
    }
    const { cluster, pool, imageName, uuid, attributes } = yield* locateVolume(volumeId, credentials);
    if (attributes?.encryptKms !== undefined) {
      const message = `volume ${volumeId} is encrypted, and this driver does not decrypt yet; it never stages such a volume plain`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    const requestName = attributes?.requestName;
    return { cluster, pool, imageName, journal: requestName === undefined ? undefined : { pool, uuid, requestName } };
  });

/** A static volume's cluster, or after a failover the first one configured that stands in for it. */
const staticCluster = (clusterId: string) =>
  Effect.gen(function* () {
    const clusters = yield* Clusters;
    const mapping = yield* ClusterMapping;
    return yield* clusters
      .get(clusterId)
      .pipe(
        Effect.catchTag("ConfigMissing", (missing) =>
          Effect.flatMap(mapping.mappedClusters(clusterId), (others) =>
            others.reduce(
              (found, other) => Effect.catchTag(found, "ConfigMissing", () => clusters.get(other)),
              Effect.fail(missing) as Effect.Effect<Cluster, ConfigError>,
            ),
          ),
        ),
      );
  });
