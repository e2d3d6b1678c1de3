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
import { SnapshotNotFound } from "../ceph/errors.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { Credentials } from "../config/secrets.ts";
import { resolveSnapshot } from "../handles.ts";
import { statusIfThere } from "../images.ts";
import { readManyAttributes, SNAPSHOTS } from "../journal.ts";
import type { TakenSnapshot } from "../snapshot/create.ts";
import { encodeVolumeId, isUuid, parseVolumeId } from "../volume-id.ts";
import { allClusters, reachOf } from "./access.ts";
import { LARGEST_PAGE, type Name, type Page, pageOf, type Place } from "./page.ts";
import type { Position } from "./token.ts";

const UUID_LENGTH = 36;

/** "" where the image is none that a driver made. */
export const sourceVolume = (clusterId: string, poolId: bigint, sourceImage: string | undefined): string => {
  const uuid = sourceImage?.slice(-UUID_LENGTH) ?? "";
  return isUuid(uuid) ? Result.getOrElse(encodeVolumeId({ clusterId, poolId, uuid }), () => "") : "";
};

/** How many images are opened at once for their age and size. */
const AT_ONCE = 8;

const describe = (ofUuid: string | undefined) => (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    if (names.length === 0) return [];
    const uuids = names.map(({ uuid }) => uuid);
    const read = yield* readManyAttributes(SNAPSHOTS, place.pool, uuids);
    const { clusterId } = place.cluster;
    return yield* Effect.forEach(
      names,
      (name, i) =>
        Effect.gen(function* () {
          const { source, imageName, imageId, groupId } = read[i] ?? {};
          if (source === undefined) return undefined;
          if (ofUuid !== undefined && !source.endsWith(ofUuid)) return undefined;
          const poolId = name.imagePoolId ?? place.poolId;
          const poolName = place.poolNames.get(poolId);
          const id = encodeVolumeId({ clusterId, poolId, uuid: name.uuid });
          if (poolName === undefined || Result.isFailure(id)) return undefined;
          const pool = { ...place.pool, pool: poolName };
          const image = yield* statusIfThere(pool, imageName ?? SNAPSHOTS.defaultImagePrefix + name.uuid);
          if (image === undefined) return undefined;
          const { sizeBytes, createdAt } = image;
          const sourceVolumeId = sourceVolume(clusterId, poolId, source);
          const ready = imageId !== undefined;
          return {
            snapshotId: id.success,
            sourceVolumeId,
            sizeBytes,
            createdAt,
            ready,
            ...(groupId !== undefined && { groupSnapshotId: groupId }),
          } satisfies TakenSnapshot;
        }),
      { concurrency: AT_ONCE },
    );
  });

/** `credentials` of the request, for clusters that the administrator has given none for. */
export const getSnapshot = (snapshotId: string, credentials: Credentials | undefined) =>
  Effect.gen(function* () {
    const gone = (reason: string) => new SnapshotNotFound({ op: "find", subject: `${snapshotId} (${reason})` });
    const parsed = parseVolumeId(snapshotId);
    if (Result.isFailure(parsed)) return yield* gone(parsed.failure.reason);
    const { clusterId, poolId } = parsed.success;
    const given = credentials ?? (yield* reachOf(clusterId, undefined)).secret.credentials;
    const { pool, imageName, attributes } = yield* resolveSnapshot(snapshotId, given);
    if (attributes?.source === undefined) return yield* gone("the journal does not know it");
    const image = yield* statusIfThere(pool, imageName);
    if (image === undefined) return yield* gone("its image is gone");
    const sourceVolumeId = sourceVolume(clusterId, poolId, attributes.source);
    const { sizeBytes, createdAt } = image;
    return {
      snapshotId,
      sourceVolumeId,
      sizeBytes,
      createdAt,
      ready: attributes.imageId !== undefined,
      ...(attributes.groupId !== undefined && { groupSnapshotId: attributes.groupId }),
    } satisfies TakenSnapshot;
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
