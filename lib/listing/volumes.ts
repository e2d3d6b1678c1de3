/**
 * Volumes as the journal lists them (ListVolumes), and one as it is now (ControllerGetVolume).
 *
 * A list opens no image: per page one question for the journal's entries and one for the images' headers, both at
 * once. So it tells whether an image is there and whether its pool is full; that an image is another cluster's mirror,
 * or its data pool full, only `volumeStatus` tells.
 *
 * 1. A name whose image was never complete is no volume yet, and not listed.
 * 2. A volume that was complete and has lost its image is listed, as abnormal.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Ceph, type ImageBrief, type PoolRef } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { VolumeNotFound } from "../errors.ts";
import { resolveVolume } from "../handles.ts";
import { statusIfThere } from "../images.ts";
import { readManyAttributes, VOLUMES } from "../journal.ts";
import { parseMigratedId } from "../migrated-id.ts";
import { encodeVolumeId, parseVolumeId, volumeKind } from "../volume-id.ts";
import { allClusters, reachOf } from "./access.ts";
import { type Condition, conditionOf, HEALTHY, imageGone, isFull, poolFull, poolGone } from "./condition.ts";
import { LARGEST_PAGE, type Name, type Page, pageOf, type Place } from "./page.ts";
import { NODES_KEY, nodesIn, publishedNodes } from "./published.ts";
import type { Position } from "./token.ts";

export interface ListedVolume {
  readonly volumeId: string;
  /** 0 for one whose image is gone. */
  readonly capacityBytes: bigint;
  readonly nodes: readonly string[];
  readonly condition: Condition;
}

/** What a name of the journal leads to, as far as its entry tells. */
interface Entry {
  readonly name: Name;
  /** `undefined`: it is gone. */
  readonly imagePool: PoolRef | undefined;
  readonly imageName: string;
  readonly complete: boolean;
  readonly imageId: string | undefined;
  readonly nodes: readonly string[];
}

const imagePoolOf = ({ pool, poolId, poolNames }: Place, { imagePoolId }: Name): PoolRef | undefined => {
  if (imagePoolId === undefined || imagePoolId === poolId) return pool;
  const name = poolNames.get(imagePoolId);
  return name === undefined ? undefined : { ...pool, pool: name };
};

const defaultName = ({ uuid }: Name): string => VOLUMES.defaultImagePrefix + uuid;

type Images = ReadonlyMap<string, ImageBrief>;

/** By pool and name; those that are there. */
const briefsOf = (
  wanted: readonly { readonly pool: PoolRef; readonly image: string }[],
): Effect.Effect<Images, CephError, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const byPool = Map.groupBy(wanted, ({ pool }) => pool.pool);
    const found = yield* Effect.forEach(
      byPool.values(),
      (inPool) => {
        const [first] = inPool;
        if (first === undefined) return Effect.succeed([]);
        const images = inPool.map(({ image }) => image);
        return Effect.map(ceph.imageBriefs(first.pool, images, []), (briefs) =>
          images.flatMap((image, i) => {
            const brief = briefs[i];
            return brief === undefined ? [] : [[imageKey(first.pool, image), brief] as const];
          }),
        );
      },
      { concurrency: "unbounded" },
    );
    return new Map(found.flat());
  });

const imageKey = ({ pool }: PoolRef, image: string): string => `${pool}/${image}`;

/** The images that carry default names are looked for at once with the entries; others after them. */
const imagesOf = (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    const guesses = names.flatMap((name) => {
      const pool = imagePoolOf(place, name);
      return pool === undefined ? [] : [{ pool, image: defaultName(name) }];
    });
    const [read, guessed] = yield* Effect.all(
      [
        readManyAttributes(
          VOLUMES,
          place.pool,
          names.map(({ uuid }) => uuid),
          [NODES_KEY],
        ),
        briefsOf(guesses),
      ],
      { concurrency: "unbounded" },
    );
    const entries = names.map((name, i): Entry => {
      const { attributes, more } = read[i] ?? {};
      const imageName = attributes?.imageName ?? defaultName(name);
      const imageId = attributes?.imageId;
      const nodes = nodesIn(more?.get(NODES_KEY));
      return {
        name,
        imagePool: imagePoolOf(place, name),
        imageName,
        complete: imageId !== undefined,
        imageId,
        nodes,
      };
    });
    const others = entries.flatMap(({ name, imagePool: pool, imageName: image }) =>
      pool === undefined || image === defaultName(name) ? [] : [{ pool, image }],
    );
    const named = others.length === 0 ? new Map<string, ImageBrief>() : yield* briefsOf(others);
    const imageOf = ({ imagePool, imageName }: Entry) => {
      if (imagePool === undefined) return undefined;
      const key = imageKey(imagePool, imageName);
      return named.get(key) ?? guessed.get(key);
    };
    return { entries, imageOf };
  });

const describe = (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    if (names.length === 0) return [];
    const ceph = yield* Ceph;
    const { entries, imageOf } = yield* imagesOf(place, names);
    const pools = new Map(
      entries.flatMap(({ imagePool }) => (imagePool === undefined ? [] : [[imagePool.pool, imagePool]])),
    );
    const lost = new Set(
      entries.flatMap((entry) =>
        entry.complete && entry.imagePool !== undefined && imageOf(entry) === undefined ? [entry.imagePool.pool] : [],
      ),
    );
    const about = yield* Effect.forEach(
      pools.values(),
      (pool) =>
        Effect.all({
          full: isFull(pool, pool.pool),
          trash: lost.has(pool.pool) ? ceph.trashList(pool) : Effect.succeed([]),
        }).pipe(Effect.map((found) => [pool.pool, found] as const)),
      { concurrency: "unbounded" },
    );
    const aboutPool = new Map(about);
    return entries.map((entry): ListedVolume | undefined => {
      const { name, imagePool, imageName, complete, imageId, nodes } = entry;
      const image = imageOf(entry);
      if (image === undefined && !complete) return undefined;
      const poolId = name.imagePoolId ?? place.poolId;
      const id = encodeVolumeId({ clusterId: place.cluster.clusterId, poolId, uuid: name.uuid });
      if (Result.isFailure(id)) return undefined;
      const { full = false, trash = [] } = aboutPool.get(imagePool?.pool ?? "") ?? {};
      const condition = () => {
        if (imagePool === undefined) return poolGone(poolId);
        if (image === undefined)
          return imageGone(
            imagePool,
            imageName,
            trash.find((entry) => entry.id === imageId),
          );
        return full ? poolFull(imagePool.pool) : HEALTHY;
      };
      return { volumeId: id.success, capacityBytes: image?.sizeBytes ?? 0n, nodes, condition: condition() };
    });
  });

/** `maxEntries` 0: as many as a page takes. */
export const listVolumes = (instanceId: string, after: Position | undefined, maxEntries: number) =>
  Effect.gen(function* () {
    const clusters = yield* allClusters(after?.clusterId);
    const limit = maxEntries === 0 ? LARGEST_PAGE : Math.min(maxEntries, LARGEST_PAGE);
    const page: Page<ListedVolume> = yield* pageOf(clusters, ({ clusterId }) => reachOf(clusterId, undefined), {
      kind: VOLUMES,
      instanceId,
      after,
      limit,
      describe,
    });
    return page;
  });

/** The cluster whose credentials a volume ID asks for. */
const clusterIn = (volumeId: string): Result.Result<string, VolumeNotFound> => {
  const parsed: Result.Result<{ readonly clusterId: string }, string> =
    volumeKind(volumeId) === "migrated"
      ? parseMigratedId(volumeId)
      : Result.mapError(parseVolumeId(volumeId), ({ reason }) => reason);
  return Result.mapBoth(parsed, {
    onSuccess: ({ clusterId }) => clusterId,
    onFailure: (reason) => new VolumeNotFound({ volumeId, reason }),
  });
};

export const volumeStatus = (volumeId: string) =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const { secret } = yield* reachOf(yield* Effect.fromResult(clusterIn(volumeId)), undefined);
    const { pool, imageName, uuid, attributes } = yield* resolveVolume(volumeId, secret.credentials);
    const image = yield* statusIfThere(pool, imageName);
    if (image === undefined) {
      const imageId = attributes?.imageId;
      if (imageId === undefined) return yield* new VolumeNotFound({ volumeId, reason: "it has no image" });
      const condition = imageGone(pool, imageName, yield* ceph.trashGet(pool, imageId));
      return { volumeId, capacityBytes: 0n, nodes: [], condition } satisfies ListedVolume;
    }
    const used = image.watchers.length > 0 && attributes !== undefined;
    const nodes = used ? yield* publishedNodes(pool, uuid) : [];
    const condition = yield* conditionOf(pool, image);
    return { volumeId, capacityBytes: image.sizeBytes, nodes, condition } satisfies ListedVolume;
  });
