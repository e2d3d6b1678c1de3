/**
 * Volumes as the journal lists them (ListVolumes, ControllerListVolumeHealth), and one volume as it is now
 * (ControllerGetVolume, ControllerGetVolumeHealth).
 *
 * A list opens no image: a page costs one read of its images' headers, all at once, and a few calls more. It reads the
 * journal's own entries only for names whose images do not have their default names. So a list says whether an image
 * exists and whether its pool is full. Only a look at one volume says that an image is a mirror of another cluster's
 * image, that its parent is lost, or that its data pool is full.
 *
 * Not here: how a page is filled (./page.ts), and the words for a volume's health (./volume-health.ts).
 *
 * 1. A name that never had an image is not a volume yet, and is not listed. An image that is being made is one, in lists
 *    as in looks at one volume: only the journal's entry of each tells it from a whole image, and a list reads those of
 *    missing images alone.
 * 2. A volume that was complete and has lost its image is listed, with that fault.
 * 3. Both kinds of list, and both looks at one volume, tell the same fault of it.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError, ParentLost } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import { type ImageBrief, type ImageStatus, Rbd, type TrashEntry } from "../ceph/rbd.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import { type Precondition, VolumeNotFound } from "../csi/errors.ts";
import { parseMigratedId } from "../csi/migrated-volume-id.ts";
import { encodeVolumeId, parseVolumeId, volumeKind } from "../csi/volume-id.ts";
import type { Fault } from "../csi/volume-health.ts";
import { statusIfThere } from "../images/races.ts";
import { imageNameOf, readManyAttributes, VOLUMES } from "../journal/journal.ts";
import { type LocatedVolume, locateVolume } from "../journal/locate.ts";
import { publishedNodes } from "../journal/published-nodes.ts";
import { allClusters, credentialsFor } from "./cluster-credentials.ts";
import { imageHeaders, imagePoolOf, type NamedImage } from "./image-headers.ts";
import type { Position } from "./page-token.ts";
import { type JournalName, type JournalPool, type Page, type PageError, pageOf } from "./page.ts";
import { faultOf, imageGone, isFull, parentLost, poolFull, poolGone } from "./volume-health.ts";

export interface VolumeHealth {
  readonly volumeId: string;
  /** `undefined`: nothing is wrong with it. */
  readonly fault: Fault | undefined;
}

export interface ListedVolume extends VolumeHealth {
  /** 0 for a volume whose image is gone. */
  readonly capacityBytes: bigint;
  readonly nodes: readonly string[];
}

// --------------------------------------------------------------------------------------------------------- a page

/** `maxEntries` 0: as many as a page takes. */
export const listVolumes = Effect.fn("listing.listVolumes")(function* (
  after: Position | undefined,
  maxEntries: number,
): Effect.fn.Return<Page<ListedVolume>, PageError, Rbd | Rados | Clusters | ClusterSecrets | DriverSettings> {
  const clusters = yield* allClusters(after?.clusterId);
  return yield* pageOf({ kind: VOLUMES, clusters, credentials: undefined, after, maxEntries, describe: describeNames });
});

/** The volumes that something is wrong with. A page without any may have others after it. */
export const listVolumeHealth = Effect.fn("listing.listVolumeHealth")(function* (
  credentials: Credentials | undefined,
  after: Position | undefined,
  maxEntries: number,
): Effect.fn.Return<Page<VolumeHealth>, PageError, Rbd | Rados | Clusters | ClusterSecrets | DriverSettings> {
  const clusters = yield* allClusters(after?.clusterId);
  const describe = (journal: JournalPool, names: readonly JournalName[]) =>
    Effect.map(volumesOf(journal, names, NO_NODES), (volumes) =>
      volumes.map((volume) => (volume?.fault === undefined ? undefined : volume)),
    );
  return yield* pageOf({ kind: VOLUMES, clusters, credentials, after, maxEntries, sparse: true, describe });
});

const describeNames = Effect.fnUntraced(function* (
  journal: JournalPool,
  names: readonly JournalName[],
): Effect.fn.Return<readonly (ListedVolume | undefined)[], CephError, Rbd | Rados | DriverSettings> {
  const { instanceId } = yield* DriverSettings;
  return yield* volumesOf(journal, names, publishedNodes(journal.pool, instanceId, names));
});

const NO_NODES = Effect.succeed<readonly (readonly string[])[]>([]);

/** In the order of the names; `undefined` for a name that has no volume. `nodesOfAll` reads the nodes of each name. */
const volumesOf = Effect.fnUntraced(function* <R>(
  journal: JournalPool,
  names: readonly JournalName[],
  nodesOfAll: Effect.Effect<readonly (readonly string[])[], CephError, R>,
): Effect.fn.Return<readonly (ListedVolume | undefined)[], CephError, Rbd | Rados | R> {
  if (names.length === 0) return [];
  const [volumes, nodes, full] = yield* Effect.all(
    [lookUpImages(journal, names), nodesOfAll, fullPools(journal, names)],
    { concurrency: "unbounded" },
  );
  const trash = yield* trashOf(volumes);
  return volumes.map((volume, i): ListedVolume | undefined => {
    const { name, header, imageId } = volume;
    if (header === undefined && imageId === undefined) return undefined;
    const poolId = name.imagePoolId ?? journal.poolId;
    const id = encodeVolumeId({ clusterId: journal.cluster.clusterId, poolId, uuid: name.uuid });
    if (Result.isFailure(id)) return undefined;
    return {
      volumeId: id.success,
      capacityBytes: header?.sizeBytes ?? 0n,
      nodes: nodes[i] ?? [],
      fault: listedFault(volume, poolId, trash, full),
    };
  });
});

/** The image that a name of the journal stands for. */
interface VolumeImage extends NamedImage {
  readonly name: JournalName;
  /** As in the journal, which has it once the image is complete; not read for an image that exists. */
  readonly imageId: string | undefined;
  /** Absent: the image does not exist. */
  readonly header: ImageBrief | undefined;
}

const listedFault = (
  { pool, imageName, imageId, header }: VolumeImage,
  poolId: bigint,
  trash: ReadonlyMap<string, TrashEntry>,
  full: ReadonlySet<string>,
): Fault | undefined => {
  if (pool === undefined) return poolGone(poolId);
  if (header === undefined) return imageGone(pool, imageName, trash.get(imageId ?? ""));
  return full.has(pool.pool) ? poolFull(pool.pool) : undefined;
};

/** Looks for images with default names first; for the others the journal has the name, and whether they were there once. */
const lookUpImages = Effect.fnUntraced(function* (
  journal: JournalPool,
  names: readonly JournalName[],
): Effect.fn.Return<readonly VolumeImage[], CephError, Rbd | Rados> {
  const byDefault = names.map((name) => {
    const imageName = imageNameOf(VOLUMES, name.uuid, undefined);
    return { name, pool: imagePoolOf(journal, name), imageName, imageId: undefined };
  });
  const headerOf = yield* imageHeaders(byDefault);
  const missing = byDefault.filter((image) => headerOf(image) === undefined).map(({ name }) => name.uuid);
  if (missing.length === 0) return byDefault.map((image) => ({ ...image, header: headerOf(image) }));
  const read = yield* readManyAttributes(VOLUMES, journal.pool, missing);
  const attributesOf = new Map(missing.map((uuid, i) => [uuid, read[i]] as const));
  const images = byDefault.map((image) => {
    const attributes = attributesOf.get(image.name.uuid);
    const imageName = imageNameOf(VOLUMES, image.name.uuid, attributes);
    return { ...image, imageName, imageId: attributes?.imageId };
  });
  const renamed = images.filter(({ imageName }, i) => imageName !== byDefault[i]?.imageName);
  const headerOfRenamed = yield* imageHeaders(renamed);
  return images.map((image) => ({ ...image, header: headerOfRenamed(image) ?? headerOf(image) }));
});

/** The pools of these names' images that are full, by name. */
const fullPools = Effect.fnUntraced(function* (
  journal: JournalPool,
  names: readonly JournalName[],
): Effect.fn.Return<ReadonlySet<string>, CephError, Rados> {
  const pools = new Set(names.flatMap((name) => imagePoolOf(journal, name)?.pool ?? []));
  const full = yield* Effect.filter([...pools], (name) => isFull(journal.pool, name), { concurrency: "unbounded" });
  return new Set(full);
});

/** By image ID, the trash of the pools in which complete volumes have lost their images; there are seldom any. */
const trashOf = Effect.fnUntraced(function* (
  volumes: readonly VolumeImage[],
): Effect.fn.Return<ReadonlyMap<string, TrashEntry>, CephError, Rbd> {
  const rbd = yield* Rbd;
  const lost = volumes.flatMap(({ pool, header, imageId }) =>
    pool !== undefined && header === undefined && imageId !== undefined ? [[pool.pool, pool] as const] : [],
  );
  const entries = yield* Effect.forEach(new Map(lost).values(), (pool) => rbd.trashList(pool));
  return new Map(entries.flat().map((entry) => [entry.id, entry] as const));
});

// ------------------------------------------------------------------------------------------------------ one volume

export type VolumeStatusError = CephError | ConfigError | Precondition | VolumeNotFound;
type StatusNeeds = Ceph | Clusters | ClusterSecrets | ClusterMapping | DriverSettings;

/** A volume as a look at its image finds it. */
interface VolumeNow {
  readonly volume: LocatedVolume;
  readonly capacityBytes: bigint;
  /** Whether a node may have it open. */
  readonly open: boolean;
  /** The image, or why it cannot be opened. */
  readonly found: { readonly image: ImageStatus } | { readonly fault: Fault };
}

export const volumeStatus = Effect.fn("listing.volumeStatus")(function* (
  volumeId: string,
): Effect.fn.Return<ListedVolume, VolumeStatusError, StatusNeeds> {
  const now = yield* lookAtVolume(volumeId, undefined);
  const nodes = now.open ? yield* nodesOf(now.volume) : [];
  return { volumeId, capacityBytes: now.capacityBytes, nodes, fault: yield* faultNow(now) };
});

/** Without credentials of the request, it uses those that the administrator has given for the cluster. */
export const volumeHealth = Effect.fn("listing.volumeHealth")(function* (
  volumeId: string,
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<VolumeHealth, VolumeStatusError, StatusNeeds> {
  return { volumeId, fault: yield* faultNow(yield* lookAtVolume(volumeId, requestCredentials)) };
});

const faultNow = ({ volume, found }: VolumeNow) =>
  "fault" in found ? Effect.succeed(found.fault) : faultOf(volume.pool, found.image);

const lookAtVolume = Effect.fnUntraced(function* (
  volumeId: string,
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<VolumeNow, VolumeStatusError, StatusNeeds> {
  const gone = (reason: string) => new VolumeNotFound({ volumeId, reason });
  const volume = yield* locateVolume(volumeId, yield* credentialsFor(clusterIdIn(volumeId), requestCredentials, gone));
  return yield* Effect.matchEffect(statusIfThere(volume.pool, volume.imageName), {
    onSuccess: (image): Described =>
      image === undefined ? withoutImage(volume) : Effect.succeed(opened(volume, image)),
    onFailure: (error): Described => (error._tag === "ParentLost" ? withoutParent(volume, error) : Effect.fail(error)),
  });
});

type Described = Effect.Effect<VolumeNow, VolumeStatusError, StatusNeeds>;

const clusterIdIn = (volumeId: string): Result.Result<{ readonly clusterId: string }, { readonly reason: string }> =>
  volumeKind(volumeId) === "migrated"
    ? Result.mapError(parseMigratedId(volumeId), (reason) => ({ reason }))
    : parseVolumeId(volumeId);

const opened = (volume: LocatedVolume, image: ImageStatus): VolumeNow => ({
  volume,
  capacityBytes: image.sizeBytes,
  open: image.watchers.length > 0,
  found: { image },
});

const withoutImage = Effect.fnUntraced(function* (
  volume: LocatedVolume,
): Effect.fn.Return<VolumeNow, CephError | VolumeNotFound, Rbd> {
  const { handle: volumeId, pool, imageName, attributes } = volume;
  const imageId = attributes?.imageId;
  if (imageId === undefined) return yield* new VolumeNotFound({ volumeId, reason: "it has no image" });
  const fault = imageGone(pool, imageName, yield* (yield* Rbd).trashGet(pool, imageId));
  return { volume, capacityBytes: 0n, open: false, found: { fault } };
});

/** The image cannot be opened, so nobody can say that no node has it. */
const withoutParent = Effect.fnUntraced(function* (
  volume: LocatedVolume,
  error: ParentLost,
): Effect.fn.Return<VolumeNow, CephError, Rbd> {
  const [header] = yield* (yield* Rbd).imageBriefs(volume.pool, [volume.imageName], []);
  return { volume, capacityBytes: header?.sizeBytes ?? 0n, open: true, found: { fault: parentLost(error) } };
});

/** The nodes of the journal. */
const nodesOf = Effect.fnUntraced(function* ({
  pool,
  uuid,
  attributes,
}: LocatedVolume): Effect.fn.Return<readonly string[], CephError, Rados | DriverSettings> {
  const requestName = attributes?.requestName;
  if (requestName === undefined) return [];
  const { instanceId } = yield* DriverSettings;
  const [nodes = []] = yield* publishedNodes(pool, instanceId, [{ requestName, uuid }]);
  return nodes;
});
