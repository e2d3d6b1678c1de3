/**
 * Writes the journal entry of a volume anew from what its PersistentVolume says: after a failover to a cluster to which
 * images are mirrored, and their journal is not.
 *
 * Not here: which PersistentVolumes there are (services/journal-controller.ts).
 *
 * 1. An entry is written only for an image that exists, and takes the name and the UUID that the PersistentVolume has.
 * 2. What the journal has already is kept: only what is missing is added, and the claim's namespace is brought up to date.
 * 3. A name that the journal gives to another UUID, or to an image in another pool, is left alone: whose it is cannot be told
 *    from here.
 * 4. A PersistentVolume whose `journalPool` is not its `pool` (drivers before ceph-csi 3.11 made such) gets what ceph-csi
 *    writes: name and attributes in the journal pool, and an empty object of the UUID in the image's pool.
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
  const { pool, poolId, cluster, journalPool, split } = yield* placeOf(volume, clusterId);
  const prefix = yield* Effect.fromResult(readNamePrefix(prefixOf(volume, uuid))).pipe(
    Effect.mapError((reason) => wrong("volumeAttributes.volumeNamePrefix", reason)),
  );
  const { instanceId } = yield* DriverSettings;
  const found = yield* journal.lookUp(VOLUMES, journalPool, instanceId, requestName);
  if (found !== undefined && found.uuid !== uuid) {
    const problem = `has the UUID ${found.uuid} in the journal of pool ${journalPool.pool}, not ${uuid} as its handle says`;
    return yield* new Conflict({ subject: `volume ${requestName}`, problem });
  }
  if (found !== undefined && found.imagePoolId !== split?.imagePoolId) {
    const problem = `has its image in another pool than ${pool.pool}, as the journal of pool ${journalPool.pool} says`;
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
  const image = { pool, journalPool, split, prefix, uuid, imageName, imageId, encryption };
  const what = yield* complete(volume, image, found);
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
  const clusters = yield* Clusters;
  let cluster: Cluster | undefined;
  for (const mapped of yield* (yield* ClusterMapping).mappedClusters(clusterId)) {
    cluster ??= yield* clusters.get(mapped).pipe(Effect.catchTag("ConfigMissing", () => Effect.succeed(undefined)));
  }
  cluster ??= yield* clusters.get(clusterId);
  const access = clusterAccess(cluster, credentials);
  const pool: PoolRef = { access, pool: poolName, namespace: cluster.radosNamespace };
  const rados = yield* Rados;
  const imagePoolId = yield* rados.poolId(access, poolName);
  const place = { cluster, pool, poolId: imagePoolId };
  const journalPoolName = attributes["journalPool"] || poolName;
  if (journalPoolName === poolName) return { ...place, journalPool: pool, split: undefined };
  const journalPoolId = yield* rados.poolId(access, journalPoolName);
  return { ...place, journalPool: { ...pool, pool: journalPoolName }, split: { imagePoolId, journalPoolId } };
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
  readonly journalPool: PoolRef;
  /** Absent: the journal is in the image's pool. */
  readonly split: journal.ReservationRequest["split"] | undefined;
  readonly prefix: string;
  readonly uuid: string;
  readonly imageName: string;
  readonly imageId: string;
  readonly encryption: Encryption | undefined;
}

const complete = Effect.fnUntraced(function* (
  { requestName, claim }: ClaimedVolume,
  { pool, journalPool, split, prefix, uuid, imageName, imageId, encryption }: FoundImage,
  found: journal.Reservation | undefined,
): Effect.fn.Return<Regenerated["what"], CephError, Rados | Rbd | DriverSettings> {
  const settings = yield* DriverSettings;
  const wanted = { requestName, prefix, owner: claim.namespace, uuid, encryption, ...(split && { split }) };
  if (split !== undefined) yield* journal.markImagePool(VOLUMES, pool, uuid);
  const { attributes } = yield* journal.reserve(VOLUMES, journalPool, settings.instanceId, wanted, found);
  const changed = attributes.imageId === undefined || attributes.owner !== claim.namespace;
  if (attributes.owner !== claim.namespace) yield* journal.storeOwner(VOLUMES, journalPool, uuid, claim.namespace);
  const names = {
    "csi.storage.k8s.io/pvc/name": claim.name,
    "csi.storage.k8s.io/pvc/namespace": claim.namespace,
  };
  if (changed) yield* (yield* Rbd).imageMetaSet(pool, imageName, volumeMetadata(settings, names, false));
  // Last: with the image's ID an entry is complete.
  if (attributes.imageId === undefined) {
    yield* journal.storeImageId(VOLUMES, journalPool, uuid, imageId, attributes);
  }
  if (found === undefined) return "was written anew";
  return changed ? "was completed" : "was there";
});
