/**
 * Snapshots as the journal lists them (ListSnapshots), and one as it is now (GetSnapshot).
 *
 * The journal keeps of a snapshot's source the image's name only. Every image that a driver makes ends in its volume's
 * UUID, so that name is enough for the volume's ID, also when the volume is gone.
 *
 * 1. A name whose image was never made, or is being deleted, is no snapshot, and not listed.
 * 2. `ready` as CreateSnapshot says it: the image ID in the journal is written last.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type ImageBrief, Rbd } from "../ceph/rbd.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { Credentials } from "../config/secrets.ts";
import { SnapshotNotFound } from "../csi/errors.ts";
import type { TakenSnapshot } from "../csi/messages.ts";
import { sourceVolume } from "../csi/source-volume-id.ts";
import { encodeVolumeId, parseVolumeId } from "../csi/volume-id.ts";
import { type Attributes, readManyAttributes, SNAPSHOTS } from "../journal/journal.ts";
import { locateSnapshot } from "../journal/locate.ts";
import { allClusters, reachOf } from "./cluster-credentials.ts";
import { briefsOf, imagePoolOf } from "./image-headers.ts";
import type { Position } from "./page-token.ts";
import { LARGEST_PAGE, type Name, type Page, pageOf, type Place } from "./page.ts";

const describe = (ofUuid: string | undefined) => (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    if (names.length === 0) return [];
    const uuids = names.map(({ uuid }) => uuid);
    const read = yield* readManyAttributes(SNAPSHOTS, place.pool, uuids);
    const entries = names.map((name, i) => {
      const attributes = read[i];
      const imageName = attributes?.imageName ?? SNAPSHOTS.defaultImagePrefix + name.uuid;
      const source = attributes?.source;
      const wanted = source !== undefined && (ofUuid === undefined || source.endsWith(ofUuid));
      return { name, attributes, imageName, pool: wanted ? imagePoolOf(place, name) : undefined };
    });
    const imageOf = yield* briefsOf(entries);
    const { clusterId } = place.cluster;
    return entries.map((entry): TakenSnapshot | undefined => {
      const { name, attributes } = entry;
      const image = imageOf(entry);
      const poolId = name.imagePoolId ?? place.poolId;
      const id = encodeVolumeId({ clusterId, poolId, uuid: name.uuid });
      if (image === undefined || attributes === undefined || Result.isFailure(id)) return undefined;
      return told(id.success, { clusterId, poolId }, attributes, image);
    });
  });

const told = (
  snapshotId: string,
  home: { readonly clusterId: string; readonly poolId: bigint },
  { source, imageId, groupId }: Attributes,
  { sizeBytes, createdAt }: ImageBrief,
): TakenSnapshot => ({
  snapshotId,
  sourceVolumeId: sourceVolume(home.clusterId, home.poolId, source),
  sizeBytes,
  createdAt,
  ready: imageId !== undefined,
  ...(groupId !== undefined && { groupSnapshotId: groupId }),
});

/** `credentials` of the request, for clusters that the administrator has given none for. */
export const getSnapshot = (snapshotId: string, credentials: Credentials | undefined) =>
  Effect.gen(function* () {
    const gone = (reason: string) => new SnapshotNotFound({ snapshotId, reason });
    const parsed = parseVolumeId(snapshotId);
    if (Result.isFailure(parsed)) return yield* gone(parsed.failure.reason);
    const given = credentials ?? (yield* reachOf(parsed.success.clusterId, undefined)).secret.credentials;
    const { pool, imageName, attributes } = yield* locateSnapshot(snapshotId, given);
    if (attributes?.source === undefined) return yield* gone("the journal does not know it");
    const [image] = yield* (yield* Rbd).imageBriefs(pool, [imageName], []);
    if (image === undefined) return yield* gone("its image is gone");
    return told(snapshotId, parsed.success, attributes, image);
  });

export interface SnapshotFilter {
  /** "" for any. */
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
}

const NOTHING: Page<TakenSnapshot> = { entries: [], next: undefined };

/** `maxEntries` 0: as many as a page takes. */
export const listSnapshots = (
  instanceId: string,
  { snapshotId, sourceVolumeId }: SnapshotFilter,
  credentials: Credentials | undefined,
  after: Position | undefined,
  maxEntries: number,
) =>
  Effect.gen(function* () {
    if (snapshotId !== "") {
      // A filter that fits nothing is no error.
      const found = yield* getSnapshot(snapshotId, credentials).pipe(
        Effect.catchTag("SnapshotNotFound", () => Effect.succeed(undefined)),
      );
      if (found === undefined || (sourceVolumeId !== "" && found.sourceVolumeId !== sourceVolumeId)) return NOTHING;
      return { entries: [found], next: undefined } satisfies Page<TakenSnapshot>;
    }
    let clusters: readonly Cluster[];
    let ofUuid: string | undefined;
    if (sourceVolumeId === "") clusters = yield* allClusters(after?.clusterId);
    else {
      const parsed = parseVolumeId(sourceVolumeId);
      if (Result.isFailure(parsed)) return NOTHING;
      clusters = [yield* (yield* Clusters).get(parsed.success.clusterId)];
      ofUuid = parsed.success.uuid;
    }
    const limit = maxEntries === 0 ? LARGEST_PAGE : Math.min(maxEntries, LARGEST_PAGE);
    return yield* pageOf(clusters, ({ clusterId }) => reachOf(clusterId, credentials), {
      kind: SNAPSHOTS,
      instanceId,
      after,
      limit,
      describe: describe(ofUuid),
    });
  });
