/**
 * Volumes as the journal lists them (ListVolumes), and one as it is now (ControllerGetVolume).
 *
 * A list opens no image: what a page costs is one read of its images' headers, all at once, and a few calls more. The
 * journal's own entries are read only for the names whose images are not found under their default names. So a list
 * tells whether an image is there and whether its pool is full; that an image is another cluster's mirror, that what it
 * is a copy of is lost, or its data pool full, only `volumeStatus` tells.
 *
 * 1. A name whose image was never complete is no volume yet, and not listed.
 * 2. A volume that was complete and has lost its image is listed, as abnormal.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { type ImageBrief, Rbd } from "../ceph/rbd.ts";
import { VolumeNotFound } from "../csi/errors.ts";
import { parseMigratedId } from "../csi/migrated-volume-id.ts";
import { encodeVolumeId, parseVolumeId, volumeKind } from "../csi/volume-id.ts";
import { statusIfThere } from "../images/races.ts";
import { readManyAttributes, VOLUMES } from "../journal/journal.ts";
import { locateVolume } from "../journal/locate.ts";
import { publishedNodes } from "../journal/published-nodes.ts";
import { allClusters, reachOf } from "./cluster-credentials.ts";
import { briefsOf, type ImagePlace, imagePoolOf } from "./image-headers.ts";
import type { Position } from "./page-token.ts";
import { LARGEST_PAGE, type Name, type Page, pageOf, type Place } from "./page.ts";
import {
  abnormal,
  type Condition,
  conditionOf,
  HEALTHY,
  imageGone,
  isFull,
  poolFull,
  poolGone,
} from "./volume-health.ts";

export interface ListedVolume {
  readonly volumeId: string;
  /** 0 for one whose image is gone. */
  readonly capacityBytes: bigint;
  readonly nodes: readonly string[];
  readonly condition: Condition;
}

const defaultName = ({ uuid }: Name): string => VOLUMES.defaultImagePrefix + uuid;

/** What a name of the journal leads to. */
interface Entry extends ImagePlace {
  readonly name: Name;
  /** In the journal once the image is complete; not looked for where there is an image. */
  readonly imageId: string | undefined;
  readonly image: ImageBrief | undefined;
}

/** The images with default names first; the journal tells the names of others, and which were complete. */
const entriesOf = (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    const guessed = names.map(
      (name): Omit<Entry, "image"> => ({
        name,
        pool: imagePoolOf(place, name),
        imageName: defaultName(name),
        imageId: undefined,
      }),
    );
    const first = yield* briefsOf(guessed);
    const missing = guessed.filter((entry) => first(entry) === undefined);
    if (missing.length === 0) return guessed.map((entry): Entry => ({ ...entry, image: first(entry) }));
    const uuids = missing.map(({ name }) => name.uuid);
    const read = yield* readManyAttributes(VOLUMES, place.pool, uuids);
    const known = new Map(uuids.map((uuid, i) => [uuid, read[i]] as const));
    const told = guessed.map((entry) => {
      const { imageName = entry.imageName, imageId } = known.get(entry.name.uuid) ?? {};
      return { ...entry, imageName, imageId };
    });
    const second = yield* briefsOf(told.filter(({ name, imageName }) => imageName !== defaultName(name)));
    return told.map((entry): Entry => ({ ...entry, image: second(entry) ?? first(entry) }));
  });

/** Those of `names`, by name. */
const fullPools = (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    const pools = new Set(names.map((name) => imagePoolOf(place, name)?.pool));
    const full = yield* Effect.filter(
      [...pools],
      (name) => (name === undefined ? Effect.succeed(false) : isFull(place.pool, name)),
      { concurrency: "unbounded" },
    );
    return new Set(full);
  });

/** What is in the trash of the pools of complete volumes without images; seldom any. */
const trashOf = (entries: readonly Entry[]) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const lost = entries.flatMap(({ pool, image, imageId }) =>
      pool !== undefined && image === undefined && imageId !== undefined ? [[pool.pool, pool] as const] : [],
    );
    const found = yield* Effect.forEach(new Map(lost).values(), (pool) => rbd.trashList(pool));
    return new Map(found.flat().map((entry) => [entry.id, entry] as const));
  });

const describe = (instanceId: string) => (place: Place, names: readonly Name[]) =>
  Effect.gen(function* () {
    if (names.length === 0) return [];
    const [entries, nodes, full] = yield* Effect.all(
      [entriesOf(place, names), publishedNodes(place.pool, instanceId, names), fullPools(place, names)],
      { concurrency: "unbounded" },
    );
    const trash = yield* trashOf(entries);
    return entries.map(({ name, pool, imageName, imageId, image }, i): ListedVolume | undefined => {
      if (image === undefined && imageId === undefined) return undefined;
      const poolId = name.imagePoolId ?? place.poolId;
      const id = encodeVolumeId({ clusterId: place.cluster.clusterId, poolId, uuid: name.uuid });
      if (Result.isFailure(id)) return undefined;
      const condition = () => {
        if (pool === undefined) return poolGone(poolId);
        if (image === undefined) return imageGone(pool, imageName, trash.get(imageId ?? ""));
        return full.has(pool.pool) ? poolFull(pool.pool) : HEALTHY;
      };
      return {
        volumeId: id.success,
        capacityBytes: image?.sizeBytes ?? 0n,
        nodes: nodes[i] ?? [],
        condition: condition(),
      };
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
      describe: describe(instanceId),
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

export const volumeStatus = (instanceId: string, volumeId: string) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { secret } = yield* reachOf(yield* Effect.fromResult(clusterIn(volumeId)), undefined);
    const { pool, imageName, uuid, attributes } = yield* locateVolume(volumeId, secret.credentials);
    const nodesOf = (requestName: string | undefined) =>
      requestName === undefined
        ? Effect.succeed([])
        : Effect.map(publishedNodes(pool, instanceId, [{ requestName, uuid }]), ([nodes = []]) => nodes);
    const looked = yield* Effect.result(statusIfThere(pool, imageName));
    if (Result.isFailure(looked)) {
      if (looked.failure._tag !== "ParentLost") return yield* looked.failure;
      // It can't be opened, so nobody can say that no node has it.
      const [brief] = yield* rbd.imageBriefs(pool, [imageName], []);
      const nodes = yield* nodesOf(attributes?.requestName);
      const condition = abnormal(looked.failure.message);
      return { volumeId, capacityBytes: brief?.sizeBytes ?? 0n, nodes, condition } satisfies ListedVolume;
    }
    const image = looked.success;
    if (image === undefined) {
      const imageId = attributes?.imageId;
      if (imageId === undefined) return yield* new VolumeNotFound({ volumeId, reason: "it has no image" });
      const condition = imageGone(pool, imageName, yield* rbd.trashGet(pool, imageId));
      return { volumeId, capacityBytes: 0n, nodes: [], condition } satisfies ListedVolume;
    }
    const nodes = yield* nodesOf(image.watchers.length === 0 ? undefined : attributes?.requestName);
    const condition = yield* conditionOf(pool, image);
    return { volumeId, capacityBytes: image.sizeBytes, nodes, condition } satisfies ListedVolume;
  });
