/**
 * What a Ceph cell does: one blocking call of librados or librbd per request. This file is the worker's entry.
 *
 * Not here: who calls, when, and for how long (lib/ceph/live/live.ts). Nothing here or below imports Effect: a cell stays small.
 */
import { serveCell } from "../../cells/cell.ts";
import type { OmapLink } from "../rados.ts";
import { depth } from "./ancestry.ts";
import * as clones from "./clones.ts";
import { diff, type DiffArg } from "./diff.ts";
import { trim } from "./ffi.ts";
import * as groups from "./groups.ts";
import { briefs } from "./image-headers.ts";
import { list, type Page, readMany, texts, type Wanted } from "./omaps.ts";
import * as pools from "./pools.ts";
import * as rados from "./rados.ts";
import * as rbd from "./rbd.ts";
import { mend } from "./repair.ts";
import * as snapshots from "./snapshots.ts";
import { status } from "./status.ts";
import * as tasks from "./tasks.ts";
import * as trash from "./trash.ts";

export interface ImageArg extends rados.PoolArg {
  readonly image: string;
}
export interface SnapshotArg extends ImageArg {
  readonly snapshot: string;
}
export interface ObjectArg extends rados.PoolArg {
  readonly object: string;
}
export interface GroupArg extends rados.PoolArg {
  readonly group: string;
}
export interface GroupSnapshotArg extends GroupArg {
  readonly snapshot: string;
}
export interface ClusterArg {
  readonly cluster: bigint;
}
export interface TrashArg extends rados.PoolArg {
  readonly id: string;
}

const calls = {
  release: () => rados.release(),
  connect: (arg: rados.ConnectArg) => rados.connect(arg),
  shutdown: (arg: { readonly cluster: bigint }) => rados.shutdown(arg.cluster),
  poolId: (arg: { readonly cluster: bigint; readonly pool: string }) => rados.poolId(arg.cluster, arg.pool),
  poolName: (arg: { readonly cluster: bigint; readonly id: bigint }) => rados.poolName(arg.cluster, arg.id),
  omapGet: (arg: ObjectArg & { readonly keys: readonly string[] }) =>
    rados.withPool(arg, (io) => rados.omapGet(io, arg.object, arg.keys)),
  omapFollow: (arg: ObjectArg & { readonly key: string; readonly to: OmapLink }) =>
    rados.withPool(arg, (io) => rados.omapFollow(io, arg.object, arg.key, arg.to)),
  omapWrite: (arg: ObjectArg & { readonly change: rados.OmapChange }) =>
    rados.withPool(arg, (io) => rados.omapWrite(io, arg.object, arg.change)),
  objectRemove: (arg: ObjectArg) => rados.withPool(arg, (io) => rados.objectRemove(io, arg.object)),
  imageCreate: (arg: ImageArg & { readonly spec: rbd.CreateArg }) =>
    rados.withPool(arg, (io) => rbd.create(arg, io, arg.image, arg.spec)),
  imageId: (arg: ImageArg) => rados.withPool(arg, (io) => rbd.id(io, arg.image)),
  imageStatus: (arg: ImageArg) => rados.withPool(arg, (io) => status(arg, io, arg.image)),
  imageGrow: (arg: ImageArg & { readonly sizeBytes: bigint }) =>
    rados.withPool(arg, (io) => rbd.grow(io, arg.image, arg.sizeBytes)),
  imageMend: (arg: ImageArg) => rados.withPool(arg, (io) => mend(io, arg.image)),
  imageHasData: (arg: ImageArg & { readonly whose: "own" | "any" }) =>
    rados.withPool(arg, (io) => rbd.hasData(io, arg.image, arg.whose)),
  imageMetaGet: (arg: ImageArg & { readonly key: string }) =>
    rados.withPool(arg, (io) => rbd.metaGet(io, arg.image, arg.key)),
  imageMetaSet: (arg: ImageArg & { readonly entries: readonly (readonly [string, string | undefined])[] }) =>
    rados.withPool(arg, (io) => rbd.metaSet(io, arg.image, arg.entries)),
  trashMove: (arg: ImageArg) => rados.withPool(arg, (io) => trash.move(io, arg.image)),
  trashGet: (arg: TrashArg) => rados.withPool(arg, (io) => trash.get(io, arg.id)),
  trashList: (arg: rados.PoolArg) => rados.withPool(arg, (io) => trash.list(io)),
  trashRemove: (arg: TrashArg) => rados.withPool(arg, (io) => trash.remove(io, arg.id)),
  managerTrashRemove: (arg: TrashArg) => tasks.addTrashRemove(arg, arg.id),

  snapshotCreate: (arg: SnapshotArg & { readonly clients: "asked" | "unasked" }) =>
    rados.withPool(arg, (io) => snapshots.create(io, arg.image, arg.snapshot, arg.clients)),
  snapshotRemove: (arg: SnapshotArg) => rados.withPool(arg, (io) => snapshots.remove(io, arg.image, arg.snapshot)),
  snapshots: (arg: ImageArg) => rados.withPool(arg, (io) => snapshots.list(io, arg.image)),
  imageClone: (arg: ImageArg & { readonly source: clones.SourceArg; readonly layout: rbd.LayoutArg }) =>
    rados.withPool(arg, (io) => clones.clone(arg.source, { where: arg, io, image: arg.image, layout: arg.layout })),
  cloneDepth: (arg: ImageArg) => rados.withPool(arg, (io) => depth(arg, io, rbd.existing(rbd.id(io, arg.image)))),
  imageMetaList: (arg: ImageArg) => rados.withPool(arg, (io) => rbd.metaList(io, arg.image)),
  imageFlatten: (arg: ImageArg) => rados.withPool(arg, (io) => clones.flatten(io, arg.image)),
  managerFlatten: (arg: ImageArg) => tasks.addFlatten(arg, arg.image),
  managerTasks: (arg: ClusterArg) => tasks.list(arg.cluster),
  diff: (arg: DiffArg) => rados.withPool(arg, (io) => diff(io, arg)),

  pools: (arg: ClusterArg) => pools.pools(arg.cluster),
  poolSpace: (arg: ClusterArg & { readonly pool: string }) => ({
    availableBytes: pools.availableBytes(arg.cluster, arg.pool),
  }),
  omapList: (arg: ObjectArg & { readonly page: Page }) =>
    rados.withPool(arg, (io) => texts(list(io, arg.object, arg.page))),
  omapGetMany: (arg: rados.PoolArg & { readonly wanted: readonly Wanted[] }) =>
    rados.withPool(arg, (io) => readMany(io, arg.wanted).map(texts)),
  imageBriefs: (arg: rados.PoolArg & { readonly images: readonly string[]; readonly metadata: readonly string[] }) =>
    rados.withPool(arg, (io) => briefs(io, arg.images, arg.metadata)),

  groupCreate: (arg: GroupArg) => rados.withPool(arg, (io) => groups.create(io, arg.group)),
  groupRemove: (arg: GroupArg) => rados.withPool(arg, (io) => groups.remove(io, arg.group)),
  groupImages: (arg: GroupArg) => rados.withPool(arg, (io) => groups.images(arg, io, arg.group)),
  groupAdd: (arg: GroupArg & { readonly member: groups.MemberArg }) =>
    rados.withPool(arg, (io) => groups.add(arg, io, arg.group, arg.member)),
  groupDrop: (arg: GroupArg & { readonly member: groups.MemberArg }) =>
    rados.withPool(arg, (io) => groups.drop(arg, io, arg.group, arg.member)),
  groupSnapshotCreate: (arg: GroupSnapshotArg) =>
    rados.withPool(arg, (io) => groups.snapshotCreate(io, arg.group, arg.snapshot)),
  groupSnapshotRemove: (arg: GroupSnapshotArg) =>
    rados.withPool(arg, (io) => groups.snapshotRemove(io, arg.group, arg.snapshot)),
  groupSnapshots: (arg: GroupArg) => rados.withPool(arg, (io) => groups.snapshots(io, arg.group)),
  groupSnapshotMembers: (arg: GroupSnapshotArg) =>
    rados.withPool(arg, (io) => groups.snapshotMembers(arg, io, arg.group, arg.snapshot)),
};

export type CephCalls = typeof calls;

serveCell(calls, () => {
  Bun.gc(true);
  trim();
});
