/**
 * Snapshots as the journal lists them (ListSnapshots), and one snapshot as it is now (GetSnapshot).
 *
 * The journal keeps only the image name of a snapshot's source. Every image that a driver makes ends in its volume's
 * UUID, so the volume's ID follows from that name, also when the volume is gone.
 *
 * Not here: how a page is filled (./page.ts).
 *
 * 1. A name whose image was never made, or is being deleted, is not a snapshot, and is not listed.
 * 2. `ready` means what it means in CreateSnapshot: the image ID in the journal is written last.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { Rados } from "../ceph/rados.ts";
import { type ImageBrief, Rbd } from "../ceph/rbd.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import type { DriverSettings } from "../config/settings.ts";
import { type Precondition, SnapshotNotFound } from "../csi/errors.ts";
import type { CsiSnapshot } from "../csi/messages.ts";
import { sourceVolumeId } from "../csi/source-volume-id.ts";
import { encodeVolumeId, parseVolumeId, type VolumeId } from "../csi/volume-id.ts";
import { type Attributes, imageNameOf, readManyAttributes, SNAPSHOTS } from "../journal/journal.ts";
import { locateSnapshot } from "../journal/locate.ts";
import { allClusters, credentialsFor } from "./cluster-credentials.ts";
import { imageHeaders, imagePoolOf } from "./image-headers.ts";
import type { Position } from "./page-token.ts";
import { type JournalName, type JournalPool, type Page, type PageError, pageOf } from "./page.ts";

export type GetSnapshotError = CephError | ConfigError | Precondition | SnapshotNotFound;

/** Without credentials of the request, it uses those that the administrator has given for the cluster. */
export const getSnapshot = Effect.fn("listing.getSnapshot")(function* (
  snapshotId: string,
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<CsiSnapshot, GetSnapshotError, Ceph | Clusters | ClusterSecrets> {
  const gone = (reason: string) => new SnapshotNotFound({ snapshotId, reason });
  const credentials = yield* credentialsFor(parseVolumeId(snapshotId), requestCredentials, gone);
  const { cluster, pool, poolId, uuid, imageName, attributes } = yield* locateSnapshot(snapshotId, credentials);
  if (attributes?.source === undefined) return yield* gone("the journal does not know it");
  const [header] = yield* (yield* Rbd).imageBriefs(pool, [imageName], []);
  if (header === undefined) return yield* gone("its image is gone");
  return describe({ clusterId: cluster.clusterId, poolId, uuid }, snapshotId, attributes, header);
});

export interface SnapshotFilter {
  /** "": any. */
  readonly snapshotId: string;
  /** "": any. */
  readonly sourceVolumeId: string;
}

export interface SnapshotPage {
  readonly after: Position | undefined;
  /** 0: as many as a page takes. */
  readonly maxEntries: number;
}

type ListNeeds = Ceph | Clusters | ClusterSecrets | DriverSettings;

const NOTHING: Page<CsiSnapshot> = { entries: [], next: undefined };

export const listSnapshots = Effect.fn("listing.listSnapshots")(function* (
  filter: SnapshotFilter,
  credentials: Credentials | undefined,
  page: SnapshotPage,
): Effect.fn.Return<Page<CsiSnapshot>, PageError, ListNeeds> {
  if (filter.snapshotId !== "") return yield* listOne(filter, credentials);
  if (filter.sourceVolumeId === "") {
    const clusters = yield* allClusters(page.after?.clusterId);
    return yield* listPage(clusters, undefined, credentials, page);
  }
  const source = parseVolumeId(filter.sourceVolumeId);
  if (Result.isFailure(source)) return NOTHING;
  const cluster = yield* (yield* Clusters).get(source.success.clusterId);
  return yield* listPage([cluster], source.success.uuid, credentials, page);
});

/** A filter that nothing matches is not an error. */
const listOne = (filter: SnapshotFilter, credentials: Credentials | undefined) =>
  getSnapshot(filter.snapshotId, credentials).pipe(
    Effect.map((snapshot): Page<CsiSnapshot> => {
      const matches = filter.sourceVolumeId === "" || snapshot.sourceVolumeId === filter.sourceVolumeId;
      return matches ? { entries: [snapshot], next: undefined } : NOTHING;
    }),
    Effect.catchTag("SnapshotNotFound", () => Effect.succeed(NOTHING)),
  );

const listPage = (
  clusters: readonly Cluster[],
  sourceUuid: string | undefined,
  credentials: Credentials | undefined,
  page: SnapshotPage,
) =>
  pageOf({
    kind: SNAPSHOTS,
    clusters,
    credentials,
    ...page,
    sparse: sourceUuid !== undefined,
    describe: (journal, names) => describeNames(journal, names, sourceUuid),
  });

/** In the order of the names; `undefined` for a name that has no snapshot, or one of another source. */
const describeNames = Effect.fnUntraced(function* (
  journal: JournalPool,
  names: readonly JournalName[],
  sourceUuid: string | undefined,
): Effect.fn.Return<readonly (CsiSnapshot | undefined)[], CephError, Rbd | Rados> {
  if (names.length === 0) return [];
  const uuids = names.map(({ uuid }) => uuid);
  const all = yield* readManyAttributes(SNAPSHOTS, journal.pool, uuids);
  const images = names.map((name, i) => {
    const attributes = all[i];
    const source = attributes?.source;
    const listed = source !== undefined && (sourceUuid === undefined || source.endsWith(sourceUuid));
    const imageName = imageNameOf(SNAPSHOTS, name.uuid, attributes);
    return { name, attributes, imageName, pool: listed ? imagePoolOf(journal, name) : undefined };
  });
  const headerOf = yield* imageHeaders(images);
  return images.map((image): CsiSnapshot | undefined => {
    const { uuid, imagePoolId } = image.name;
    const id = { clusterId: journal.cluster.clusterId, poolId: imagePoolId ?? journal.poolId, uuid };
    const snapshotId = encodeVolumeId(id);
    const header = headerOf(image);
    if (header === undefined || image.attributes === undefined || Result.isFailure(snapshotId)) return undefined;
    return describe(id, snapshotId.success, image.attributes, header);
  });
});

const describe = (
  { clusterId, poolId }: VolumeId,
  snapshotId: string,
  { source, imageId, groupId }: Attributes,
  { sizeBytes, createdAt }: ImageBrief,
): CsiSnapshot => ({
  snapshotId,
  sourceVolumeId: sourceVolumeId(clusterId, poolId, source),
  sizeBytes,
  createdAt,
  ready: imageId !== undefined,
  ...(groupId !== undefined && { groupSnapshotId: groupId }),
});
