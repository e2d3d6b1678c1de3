/**
 * What a Ceph cell does: one blocking call of librados or librbd per request. This file is the worker's entry.
 *
 * Not here: who calls, when, and for how long (./live.ts). Nothing here or below imports Effect: a cell stays small.
 */
import { serveCell } from "../cells/cell.ts";
import { mend } from "./mend.ts";
import * as rados from "./rados.ts";
import * as rbd from "./rbd.ts";
import { status } from "./status.ts";
import * as trash from "./trash.ts";

export interface ImageArg extends rados.PoolArg {
  readonly image: string;
}
export interface ObjectArg extends rados.PoolArg {
  readonly object: string;
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
  managerTrashRemove: (arg: TrashArg) => trash.managerRemove(arg, arg.id),
};

export type CephCalls = typeof calls;

serveCell(calls);
