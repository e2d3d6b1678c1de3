/**
 * What makes an image a clone: its link to the snapshot of its parent, with the metadata of the parent, and the link of
 * the snapshot to it. Headers name parents by ids. Loaded in cells only.
 *
 * Not here: the image itself (./plain-clone.ts, ./clone-by-id.ts).
 *
 * 1. It writes what librbd writes, by the same methods of the object class (stable from Ceph 14 on) and in the same
 *    order, the first link and the metadata at once. A crash on the way leaves an image without a parent, or one that its
 *    parent does not know, as a crash of librbd does.
 * 2. The link of the snapshot proves that the snapshot exists. If it does not, or an OSD refuses a link, the clone is
 *    removed by its id, and the call fails as one that did nothing.
 * 3. A clone that is not ours any more once it is linked is unlinked, and the call fails as `Raced`.
 */
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { parentIn } from "./ancestry.ts";
import { type Call, changeAll, WITHOUT_EFFECT } from "./changes.ts";
import { encode, type Field } from "./encoder.ts";
import { check, ECANCELED, ENOENT } from "./ffi.ts";
import { METADATA } from "./image-headers.ts";
import { setCalls } from "./image-metadata.ts";
import { list } from "./omaps.ts";
import { execute, type PoolArg, poolId } from "./rados.ts";
import { id as idInName } from "./rbd.ts";
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
export const linked = (parent: ParentSnapshot, child: Child, idOf: () => string): void => {
  const { where, io } = child;
  const id = midway(idOf);
  try {
    attach(parent, io, id);
    adopt(parent, where, id);
  } catch (error) {
    throw midway(() => undone(error, child, id));
  }
  proveOurs(parent, child, id);
};

/** Removes a clone whose link was refused. -> what the call fails with. Throws what stays midway. */
const undone = (error: unknown, { io, image }: Child, id: string): Errno => {
  if (!(error instanceof Errno)) throw error;
  const { op, errno } = error;
  if (op === RACED) return error;
  // a write of which nobody knows what became may still come, and only the name leads to it
  if (op !== SNAPSHOT_GONE && !WITHOUT_EFFECT.includes(errno)) throw error;
  moveOwn(io, image, id);
  remove(io, id);
  return op === SNAPSHOT_GONE ? error : new Errno("rbd_clone", errno);
};

const SNAPSHOT_GONE = "rbd_snap_set";
/** With ECANCELED: another driver was faster (lib/ceph/live/errno.ts). */
const RACED = "rados_write_op_operate";

/**
 * Nobody has the clone open: another driver may have taken it for one that a crash left. If that one began before the
 * snapshot knew of the clone, nobody else unlinks the two, and the source could never be removed.
 */
const proveOurs = (parent: ParentSnapshot, { where, io, image }: Child, id: string): void =>
  midway(
    () => {
      if (idInName(io, image) === id && parentIn(io, id) !== "no header") return;
      execute(parent.io, `rbd_header.${parent.id}`, "child_detach", membership(parent, where, id));
      throw new Errno(RACED, ECANCELED);
    },
    ({ op }) => op === RACED,
  );

/** Links the child to its parent, and gives it the parent's metadata. */
const attach = (parent: ParentSnapshot, io: bigint, id: string): void => {
  const calls = [...link(parent), ...metadata(parent)];
  const [result = 0] = changeAll(io, [{ object: `rbd_header.${id}`, state: "require", calls }]);
  if (result === -ENOENT) throw new Errno(RACED, ECANCELED);
  check("rbd_clone", result);
};

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
  return setCalls(entries.flatMap(([key, value]): readonly Field[] => [{ text: key }, { bytes: value }]));
};

/** Links the snapshot to its child. */
const adopt = (parent: ParentSnapshot, where: PoolArg, child: string): void => {
  const input = membership(parent, where, child);
  const answer = execute(parent.io, `rbd_header.${parent.id}`, "child_attach", input);
  if (answer === undefined) throw new Errno(SNAPSHOT_GONE, ENOENT);
};

const membership = ({ snapshotId }: ParentSnapshot, where: PoolArg, child: string): Uint8Array => {
  const image: Field = {
    version: 2,
    of: [{ i64: poolId(where.cluster, where.pool) }, { text: child }, { text: where.namespace }],
  };
  return encode({ u64: snapshotId }, image);
};
