/**
 * Clones a snapshot by its id, for a librbd that clones by name only (until Ceph 19): the snapshot of a group has no name
 * by which it can be opened. Headers name parents by ids, so that the rest of a clone needs no name. Loaded in cells only.
 *
 * Not here: clones of snapshots with a name, and all clones if librbd takes an id (./clones.ts).
 *
 * 1. It writes what librbd writes, by the same methods of the object class (stable from Ceph 14 on) and in the same order:
 *    the image, its link to the snapshot, the link of the snapshot to it, the metadata. A crash on the way leaves what a
 *    crash of librbd would leave.
 * 2. The link of the snapshot proves that the snapshot exists. If it cannot be written, the clone is removed and the call
 *    fails.
 */
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import type { CloneSpec } from "../rbd.ts";
import { encode, type Field } from "./encoder.ts";
import { EINVAL, ENOENT } from "./ffi.ts";
import { metadataOf } from "./image-headers.ts";
import { metaSet } from "./image-metadata.ts";
import { execute, type PoolArg, poolId } from "./rados.ts";
import { create, existing } from "./rbd.ts";
import { status } from "./status.ts";
import { remove } from "./trash.ts";
import { move } from "./trash-move.ts";

const { layering, striping: STRIPING, "data-pool": DATA_POOL, operations, migrating } = FEATURE_BITS;
/** The first two come with the layout, and librbd sets the others itself. */
const NOT_INHERITED = STRIPING | DATA_POOL | operations | migrating;
/** `RBD_OPERATION_FEATURE_CLONE_CHILD`. */
const CLONE_CHILD = 2n;

export interface Source {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly image: string;
  readonly snapshotId: bigint;
  readonly sizeBytes: bigint;
}

export const cloneById = (source: Source, { where, io, image, spec }: Target): void => {
  const parent = status(source.where, source.io, source.image);
  const features = spec.features ?? parent.features & ~NOT_INHERITED;
  if ((parent.features & features & layering) === 0n) throw new Errno("rbd_clone", EINVAL);
  const { objectSize, stripeUnit, stripeCount } = spec;
  const striping =
    objectSize === undefined && stripeUnit === undefined && stripeCount === undefined
      ? { objectSize: parent.objectSize, stripeUnit: parent.stripeUnit, stripeCount: parent.stripeCount }
      : {};
  const made = create(where, io, image, { ...striping, ...spec, features, sizeBytes: source.sizeBytes });
  midway(
    () => {
      const child = existing(made);
      link(source, parent.id, io, child);
      try {
        adopt(source, parent.id, where, child);
      } catch (error) {
        move(io, image);
        remove(io, child);
        throw error;
      }
      const metadata = metadataOf(source.io, parent.id) ?? new Map<string, string>();
      if (metadata.size > 0) metaSet(io, image, Object.fromEntries(metadata));
    },
    // `adopt` found no snapshot, and the clone is removed
    ({ op }) => op === SNAPSHOT_GONE,
  );
};

const SNAPSHOT_GONE = "rbd_snap_set";

/** Links the child to its parent. */
const link = (source: Source, parentId: string, io: bigint, child: string): void => {
  const parent: Field = {
    version: 1,
    of: [
      { i64: poolId(source.where.cluster, source.where.pool) },
      { text: source.where.namespace },
      { text: parentId },
      { u64: source.snapshotId },
    ],
  };
  const overlap: Field = { u64: source.sizeBytes };
  must(io, child, "parent_attach", encode(parent, overlap, { u8: 0 }));
  must(io, child, "op_features_set", encode({ u64: CLONE_CHILD }, { u64: CLONE_CHILD }));
};

/** Links the snapshot to its child. */
const adopt = (source: Source, parentId: string, where: PoolArg, child: string): void => {
  const image: Field = {
    version: 2,
    of: [{ i64: poolId(where.cluster, where.pool) }, { text: child }, { text: where.namespace }],
  };
  const answer = execute(
    source.io,
    `rbd_header.${parentId}`,
    "child_attach",
    encode({ u64: source.snapshotId }, image),
  );
  if (answer === undefined) throw new Errno(SNAPSHOT_GONE, ENOENT);
};

const must = (io: bigint, id: string, method: string, input: Uint8Array): void => {
  if (execute(io, `rbd_header.${id}`, method, input) === undefined) throw new Errno("rbd_clone", ENOENT);
};

/** The clone to make. */
export interface Target {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly image: string;
  readonly spec: CloneSpec;
}
