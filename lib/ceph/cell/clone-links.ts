/**
 * What makes an image a clone: its link to the snapshot of its parent, with the metadata of the parent, and the link of
 * the snapshot to it. Headers name parents by ids. Loaded in cells only.
 *
 * Not here: the image itself (./plain-clone.ts, ./clone-by-id.ts).
 *
 * 1. It writes what librbd writes, by the same methods of the object class (stable from Ceph 14 on) and in the same
 *    order, the first link and the metadata at once. A crash on the way leaves an image without a parent, or one that its
 *    parent does not know, as a crash of librbd does.
 * 2. The link of the snapshot proves that the snapshot exists. If it does not, the clone is removed and the call fails.
 */
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { type Call, changeAll } from "./changes.ts";
import { encode, type Field } from "./encoder.ts";
import { check, ENOENT } from "./ffi.ts";
import { METADATA } from "./image-headers.ts";
import { list } from "./omaps.ts";
import { execute, type PoolArg, poolId } from "./rados.ts";
import { remove } from "./trash.ts";
import { moveOwn } from "./trash-move.ts";

const { striping: STRIPING, "data-pool": DATA_POOL, operations, migrating } = FEATURE_BITS;
/** Features that no clone has of its parent: the first two come with the layout, and librbd sets the others itself. */
export const NOT_INHERITED = STRIPING | DATA_POOL | operations | migrating;
/** `RBD_OPERATION_FEATURE_CLONE_CHILD`. */
const CLONE_CHILD = 2n;

/** The snapshot of an image that becomes the parent. */
export interface ParentSnapshot {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly id: string;
  readonly snapshotId: bigint;
  readonly sizeBytes: bigint;
}

interface Child {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly image: string;
}

/** Links an image that was just made; `idOf` gives its id. */
export const linked = (parent: ParentSnapshot, { where, io, image }: Child, idOf: () => string): void =>
  midway(
    () => {
      const child = idOf();
      const [result = 0] = changeAll(io, [
        { object: `rbd_header.${child}`, state: "require", calls: [...link(parent), ...metadata(parent)] },
      ]);
      check("rbd_clone", result);
      try {
        adopt(parent, where, child);
      } catch (error) {
        moveOwn(io, image, child);
        remove(io, child);
        throw error;
      }
    },
    // `adopt` found no snapshot, and the clone is removed
    ({ op }) => op === SNAPSHOT_GONE,
  );

const SNAPSHOT_GONE = "rbd_snap_set";

/** Links the child to its parent. */
const link = ({ where, id, snapshotId, sizeBytes }: ParentSnapshot): readonly Call[] => {
  const parent: Field = {
    version: 1,
    of: [{ i64: poolId(where.cluster, where.pool) }, { text: where.namespace }, { text: id }, { u64: snapshotId }],
  };
  return [
    { method: "parent_attach", input: encode(parent, { u64: sizeBytes }, { u8: 0 }) },
    { method: "op_features_set", input: encode({ u64: CLONE_CHILD }, { u64: CLONE_CHILD }) },
  ];
};

/** Begins the keys of metadata that no clone gets. */
const INTERNAL = ".rbd";

const metadata = ({ io, id }: ParentSnapshot): readonly Call[] => {
  const keys = { prefix: METADATA, after: "", limit: Number.MAX_SAFE_INTEGER };
  const entries = [...(list(io, `rbd_header.${id}`, keys) ?? [])]
    .map(([key, value]) => [key.slice(METADATA.length), value] as const)
    .filter(([key]) => !key.startsWith(INTERNAL));
  if (entries.length === 0) return [];
  const fields = entries.flatMap(([key, value]): readonly Field[] => [{ text: key }, { bytes: value }]);
  return [{ method: "metadata_set", input: encode({ u32: entries.length }, ...fields) }];
};

/** Links the snapshot to its child. */
const adopt = ({ io, id, snapshotId }: ParentSnapshot, where: PoolArg, child: string): void => {
  const image: Field = {
    version: 2,
    of: [{ i64: poolId(where.cluster, where.pool) }, { text: child }, { text: where.namespace }],
  };
  const answer = execute(io, `rbd_header.${id}`, "child_attach", encode({ u64: snapshotId }, image));
  if (answer === undefined) throw new Errno(SNAPSHOT_GONE, ENOENT);
};
