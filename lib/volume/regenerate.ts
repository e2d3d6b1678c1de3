/**
 * Writes the journal entry of a volume anew from what its PersistentVolume says: after a failover to a cluster to which
 * images are mirrored, and their journal is not.
 *
 * Not here: which PersistentVolumes there are (services/journal-controller.ts).
 *
 * 1. An entry is written only for an image that exists, and takes the name and the UUID that the PersistentVolume has.
 * 2. What the journal has already is kept: only what is missing is added, and the claim's namespace is brought up to date.
 * 3. A name that the journal gives to another UUID is left alone: whose it is cannot be told from here.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { type Encryption, readEncryption } from "../config/encryption.ts";
import { ClusterMapping } from "../config/mapping.ts";
import { readNamePrefix } from "../config/name-prefix.ts";
import type { Credentials } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict, InvalidRequest, type JournalCorrupt, Precondition } from "../csi/errors.ts";
import { newHandle } from "../csi/new-handle.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { volumeMetadata } from "../images/metadata.ts";
import * as journal from "../journal/journal.ts";
import { clusterAccess } from "../journal/locate.ts";

const { VOLUMES } = journal;

/** What a PersistentVolume says of its volume. */
export interface ClaimedVolume {
  /** The name of the PersistentVolume, which is that of the request. */
  readonly requestName: string;
  readonly handle: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly claim: { readonly namespace: string; readonly name: string };
  readonly credentials: Credentials;
}

export interface Regenerated {
  readonly what: "was there" | "was completed" | "was written anew";
  /** The handle of the volume in the cluster where it is now. */
  readonly handle: string;
}

type Failure = CephError | ConfigError | Conflict | InvalidRequest | JournalCorrupt | Precondition;
type Needs = Rados | Rbd | Clusters | ClusterMapping | DriverSettings;

export const regenerateJournal = Effect.fnUntraced(function* (
  volume: ClaimedVolume,
): Effect.fn.Return<Regenerated, Failure, Needs> {
  const { requestName, handle } = volume;
  const wrong = (field: string, reason: string) => new InvalidRequest({ field, reason });
  const { uuid, clusterId } = yield* Effect.fromResult(parseVolumeId(handle)).pipe(
    Effect.mapError(({ reason }) => wrong("volumeHandle", reason)),
  );
  const { pool, poolId, cluster } = yield* placeOf(volume, clusterId);
  const prefix = yield* Effect.fromResult(readNamePrefix(prefixOf(volume, uuid))).pipe(
    Effect.mapError((reason) => wrong("volumeAttributes.volumeNamePrefix", reason)),
  );
  const { instanceId } = yield* DriverSettings;
  const found = yield* journal.lookUp(VOLUMES, pool, instanceId, requestName);
  if (found !== undefined && found.uuid !== uuid) {
    const problem = `has the UUID ${found.uuid} in the journal of pool ${pool.pool}, not ${uuid} as its handle says`;
    return yield* new Conflict({ subject: `volume ${requestName}`, problem });
  }
  const imageName = found?.attributes.imageName ?? prefix + uuid;
  const imageId = yield* (yield* Rbd).imageId(pool, imageName);
  if (imageId === undefined) {
    return yield* new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `of volume ${requestName} does not exist, so its journal is not written`,
      remedy: "If it is mirrored, it appears once the mirror daemon has copied it",
    });
  }
  const encryption = yield* Effect.fromResult(readEncryption(volume.attributes)).pipe(
    Effect.mapError(({ field, reason }) => wrong(`volumeAttributes.${field}`, reason)),
  );
  const what = yield* complete(volume, { pool, prefix, uuid, imageName, imageId, encryption }, found);
  const local = yield* Effect.fromResult(newHandle({ clusterId: cluster.clusterId, poolId, uuid }));
  return { what, handle: local };
});

/** The cluster that stands in for the handle's, if it is configured; else the handle's own. */
const placeOf = Effect.fnUntraced(function* ({ attributes, credentials }: ClaimedVolume, clusterId: string) {
  const poolName = attributes["pool"] ?? "";
  if (poolName === "") {
    return yield* new InvalidRequest({
      field: "volumeAttributes.pool",
      reason: "is missing: it names the image's pool",
    });
  }
  const journalPool = attributes["journalPool"] || poolName;
  if (journalPool !== poolName) {
    return yield* new Precondition({
      subject: `journal pool ${journalPool}`,
      problem: `is not the image's pool ${poolName}, and this release keeps both in one`,
      remedy: "Let ceph-csi write this volume's journal",
    });
  }
  const clusters = yield* Clusters;
  let cluster: Cluster | undefined;
  for (const mapped of yield* (yield* ClusterMapping).mappedClusters(clusterId)) {
    cluster ??= yield* clusters.get(mapped).pipe(Effect.catchTag("ConfigMissing", () => Effect.succeed(undefined)));
  }
  cluster ??= yield* clusters.get(clusterId);
  const access = clusterAccess(cluster, credentials);
  const pool: PoolRef = { access, pool: poolName, namespace: cluster.radosNamespace };
  return { cluster, pool, poolId: yield* (yield* Rados).poolId(access, poolName) };
});

/** As the class had it; else what is before the UUID in the image's name; else the default. */
const prefixOf = ({ attributes }: ClaimedVolume, uuid: string): string => {
  const { volumeNamePrefix = "", imageName = "" } = attributes;
  if (volumeNamePrefix !== "") return volumeNamePrefix;
  const named = imageName.endsWith(uuid) ? imageName.slice(0, -uuid.length) : "";
  return named || VOLUMES.defaultImagePrefix;
};

interface FoundImage {
  readonly pool: PoolRef;
  readonly prefix: string;
  readonly uuid: string;
  readonly imageName: string;
  readonly imageId: string;
  readonly encryption: Encryption | undefined;
}

const complete = Effect.fnUntraced(function* (
  { requestName, claim }: ClaimedVolume,
  { pool, prefix, uuid, imageName, imageId, encryption }: FoundImage,
  found: journal.Reservation | undefined,
): Effect.fn.Return<Regenerated["what"], CephError, Rados | Rbd | DriverSettings> {
  const settings = yield* DriverSettings;
  const wanted = { requestName, prefix, owner: claim.namespace, uuid, encryption };
  const { attributes } = yield* journal.reserve(VOLUMES, pool, settings.instanceId, wanted, found);
  const changed = attributes.imageId === undefined || attributes.owner !== claim.namespace;
  if (attributes.owner !== claim.namespace) yield* journal.storeOwner(VOLUMES, pool, uuid, claim.namespace);
  const names = {
    "csi.storage.k8s.io/pvc/name": claim.name,
    "csi.storage.k8s.io/pvc/namespace": claim.namespace,
  };
  if (changed) yield* (yield* Rbd).imageMetaSet(pool, imageName, volumeMetadata(settings, names, false));
  // Last: with the image's ID an entry is complete.
  if (attributes.imageId === undefined) yield* journal.storeImageId(VOLUMES, pool, uuid, imageId, attributes);
  if (found === undefined) return "was written anew";
  return changed ? "was completed" : "was there";
});
