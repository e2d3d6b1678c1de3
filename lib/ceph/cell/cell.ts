/**
 * A Ceph cell: makes one blocking call of librados or librbd for each request. This file is the entry of the worker.
 *
 * Not here: the calls that wait for the monitors (./waiting-cell.ts), which call is made when, and its limit (lib/ceph/live). Nothing here or below imports Effect, because a cell
 * has to stay small.
 */
import { serveCell } from "../../cells/cell.ts";
import type { Blocked } from "../blocklist.ts";
import type { ObjectLock, OmapLink, OmapWrite } from "../rados.ts";
import type { AdvisoryLock, CloneSpec, ImageSpec } from "../rbd.ts";
import { depth } from "./ancestry.ts";
import { stillThere, thenWithoutBareParent } from "./bare-headers.ts";
import * as blocks from "./blocklist.ts";
import { release } from "./client-library.ts";
import * as clones from "./clones.ts";
import { diff, type DiffArg } from "./diff.ts";
import { trim } from "./ffi.ts";
import { grow } from "./grow.ts";
import * as groups from "./groups.ts";
import { hasData } from "./has-data.ts";
import { headerOf } from "./header-status.ts";
import { create } from "./image-create.ts";
import { briefs, metadataOf, someMetadataOf } from "./image-headers.ts";
import { type MetadataArg, metaSet } from "./image-metadata.ts";
import { unlock } from "./locks.ts";
import { lost } from "./lost-image.ts";
import * as omaps from "./omaps.ts";
import * as pools from "./pools.ts";
import * as rados from "./rados.ts";
import * as rbd from "./rbd.ts";
import { mend } from "./repair.ts";
import { keepForClones } from "./snapshot-trash.ts";
import type { SnapshotArg } from "./snapshots.ts";
import * as snapshots from "./snapshots.ts";
import { sparsify } from "./sparsify.ts";
import { status } from "./status.ts";
import * as tasks from "./tasks.ts";
import * as trash from "./trash.ts";
import { byLibrbd, move } from "./trash-move.ts";
import { listTrashed, type TrashedArg } from "./trashed-snapshots.ts";
import type { WaitingCalls } from "./waiting-cell.ts";

type PoolArg = rados.PoolArg;
const { pooled } = rados;
interface ClusterArg {
  readonly cluster: bigint;
}
interface BlockedArg extends ClusterArg {
  readonly blocked: Blocked;
}
interface ObjectArg extends PoolArg {
  readonly object: string;
}
/** An object, and further ones with keys of the same omap. */
interface SplitArg extends ObjectArg {
  readonly parts: readonly string[];
}
interface ImageArg extends PoolArg {
  readonly image: string;
}

/** Keys of image metadata that are read besides. */
interface Wanted {
  readonly metadata?: readonly string[] | undefined;
}
interface TrashArg extends PoolArg {
  readonly id: string;
}
interface Moved {
  readonly keepSeconds?: number;
  readonly id?: string;
  readonly onlyBegun?: boolean;
}
interface GroupArg extends PoolArg {
  readonly group: string;
}
interface GroupSnapshotArg extends GroupArg {
  readonly snapshot: string;
}

const calls = {
  release: () => release(),
  connect: (arg: rados.ConnectArg) => rados.connect(arg),
  shutdown: ({ cluster }: ClusterArg) => rados.shutdown(cluster),

  poolId: ({ cluster, pool }: ClusterArg & { readonly pool: string }) => rados.poolId(cluster, pool),
  poolFitness: ({
    cluster,
    pool,
    dataPool,
    proven,
  }: ClusterArg & { readonly pool: string; readonly dataPool: string | undefined; readonly proven: string }) =>
    pools.fitness(cluster, pool, dataPool, proven),
  poolName: ({ cluster, id }: ClusterArg & { readonly id: bigint }) => rados.poolName(cluster, id),
  pools: ({ cluster }: ClusterArg) => pools.pools(cluster),
  poolSpace: ({ cluster, pool }: ClusterArg & { readonly pool: string }) => ({
    availableBytes: pools.availableBytes(cluster, pool),
  }),
  omapGet: pooled((io, { object, keys }: ObjectArg & { readonly keys: readonly string[] }) =>
    omaps.omapGet(io, object, keys),
  ),
  omapFollow: pooled((io, { object, key, to, parts }: SplitArg & { readonly key: string; readonly to: OmapLink }) =>
    omaps.omapFollow(io, [object, ...parts], key, to),
  ),
  omapList: pooled((io, { object, page, parts }: SplitArg & { readonly page: omaps.Page }) =>
    omaps.texts(omaps.listAll(io, [object, ...parts], page)),
  ),
  omapGetMany: pooled((io, { wanted }: PoolArg & { readonly wanted: readonly omaps.Wanted[] }) =>
    omaps.readMany(io, wanted).map(omaps.texts),
  ),
  omapWrite: pooled((io, { object, write }: ObjectArg & { readonly write: OmapWrite }) =>
    omaps.omapWrite(io, object, write),
  ),
  objectLock: pooled((io, { object, lock }: ObjectArg & { readonly lock: ObjectLock }) =>
    rados.objectLock(io, object, lock),
  ),
  objectRemove: pooled((io, { object }: ObjectArg) => rados.objectRemove(io, object)),

  imageCreate: pooled((io, arg: ImageArg & { readonly spec: ImageSpec }) => create(arg, io, arg.image, arg.spec)),
  imageId: pooled((io, { image }: ImageArg) => rbd.id(io, image)),
  imageHeader: pooled((io, arg: ImageArg & Wanted) => headerOf(arg, io, arg.image, arg.metadata)),
  imageStatus: pooled((io, arg: ImageArg & Wanted) => status(arg, io, arg.image, arg.metadata)),
  imageGrow: pooled((io, arg: ImageArg & Wanted & { readonly sizeBytes: bigint }) =>
    grow(io, arg.image, arg.sizeBytes, (id) => someMetadataOf(io, id, arg.metadata ?? [])),
  ),
  imageMend: pooled((io, { image }: ImageArg) => mend(io, image)),
  imageHasData: pooled(
    (io, { image, whose, from }: ImageArg & { readonly whose: "own" | "any"; readonly from?: bigint }) =>
      hasData(io, image, whose, from),
  ),
  imageLost: pooled((io, arg: ImageArg) => lost(arg, io, arg.image)),
  imageSparsify: pooled((io, { image }: ImageArg) => sparsify(io, image)),
  imageMetaSet: pooled((io, { image, entries, compare }: ImageArg & MetadataArg) =>
    metaSet(io, image, entries, compare),
  ),
  imageMetaList: pooled((io, { image, prefix }: ImageArg & { readonly prefix: string }) =>
    rbd.existing(metadataOf(io, rbd.existing(rbd.id(io, image)), prefix)),
  ),
  imageBriefs: pooled(
    (
      io,
      { images, metadata }: PoolArg & { readonly images: readonly string[]; readonly metadata: readonly string[] },
    ) => briefs(io, images, metadata),
  ),
  imageUnlock: pooled((io, { image, lock }: ImageArg & { readonly lock: AdvisoryLock }) => unlock(io, image, lock)),
  trashMove: pooled((io, { image, keepSeconds, id, onlyBegun }: ImageArg & Moved) =>
    move(io, image, keepSeconds, byLibrbd, id, onlyBegun),
  ),
  trashGet: pooled((io, { id }: TrashArg) => trash.get(io, id)),
  trashList: (arg: PoolArg) => rados.withPool(arg, trash.list),
  imagesStillThere: pooled((io, { ids }: PoolArg & { readonly ids: readonly string[] }) => stillThere(io, ids)),
  trashRemove: pooled((io, arg: TrashedArg) =>
    thenWithoutBareParent(arg, io, arg.id, () => trash.remove(io, arg.id, arg.onlyMarked)),
  ),
  trashSnapshots: pooled((io, arg: TrashedArg) => listTrashed(io, arg)),

  snapshotChildren: pooled((io, { image, snapshot }: SnapshotArg) => snapshots.children(io, image, snapshot)),
  snapshotKeep: pooled((io, arg: SnapshotArg) => keepForClones(arg, io, arg.image, arg.snapshot)),
  snapshots: pooled((io, { image }: ImageArg) => snapshots.list(io, image)),
  imageClone: pooled((io, arg: ImageArg & { readonly source: clones.SourceArg; readonly spec: CloneSpec }) =>
    clones.clone(arg.source, { where: arg, io, image: arg.image, spec: arg.spec }),
  ),
  cloneDepth: pooled((io, arg: ImageArg) => depth(arg, io, rbd.existing(rbd.id(io, arg.image)))),
  imageFlatten: pooled((io, { image }: ImageArg) => clones.flatten(io, image)),
  diff: pooled((io, arg: DiffArg) => diff(io, arg)),

  groupCreate: pooled((io, { group }: GroupArg) => groups.create(io, group)),
  groupExists: pooled((io, { group }: GroupArg) => groups.exists(io, group)),
  groupRemove: pooled((io, { group }: GroupArg) => groups.remove(io, group)),
  groupAdd: pooled((io, arg: GroupArg & { readonly member: groups.MemberArg }) =>
    groups.add(arg, io, arg.group, arg.member),
  ),
  groupSnapshotCreate: pooled((io, { group, snapshot }: GroupSnapshotArg) =>
    groups.snapshotCreate(io, group, snapshot),
  ),
  groupSnapshotMembers: pooled((io, arg: GroupSnapshotArg) => groups.snapshotMembers(arg, io, arg.group, arg.snapshot)),

  managerTrashRemove: (arg: TrashedArg) => tasks.addTrashRemove(arg, arg.id, arg.onlyMarked),
  managerFlatten: (arg: ImageArg) => tasks.addFlatten(arg, arg.image),
  managerTasks: ({ cluster }: ClusterArg) => tasks.list(cluster),

  blocklist: ({ cluster }: ClusterArg) => blocks.blocklist(cluster),
  blocklistAdd: ({ cluster, blocked, seconds }: BlockedArg & { readonly seconds: number }) =>
    blocks.add(cluster, blocked, seconds),
  blocklistRemove: ({ cluster, blocked }: BlockedArg) => blocks.remove(cluster, blocked),
  blocklistReached: (arg: PoolArg & { readonly blocked: Blocked }) => blocks.reached(arg, arg.blocked),
  clusterIdentity: ({ cluster }: ClusterArg) => blocks.identity(cluster),
};

export type CellCalls = typeof calls & WaitingCalls;

serveCell(calls, () => {
  Bun.gc(true);
  trim();
});
