/**
 * The calls of librbd that make a clone and that flatten it. Loaded in cells only.
 *
 * Not here: the depth of a chain of clones (./ancestry.ts), the queue of the manager (./tasks.ts), clones by id for a librbd
 * that takes names only (./clone-by-id.ts), clones that need no librbd (./plain-clone.ts).
 *
 * 1. Every clone has format 2: its snapshot is not protected, and can be removed while it has clones.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { cloneById, type Target } from "./clone-by-id.ts";
import { bind, check, EINVAL, ENOENT, optional, plain } from "./ffi.ts";
import { clonePlain } from "./plain-clone.ts";
import { withPool } from "./rados.ts";
import { explaining, explainMissing, id as idOf, whileThere, withImage, withOptions } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { parentOf } from "./status.ts";

const rbd = bind("librbd.so.1", {
  rbd_clone3: { args: [T.u64, T.cstring, T.cstring, T.u64, T.cstring, T.u64], returns: T.i32 },
  rbd_flatten: { args: [T.u64], returns: T.i32 },
});

/** From Ceph 20 on. */
const newer = optional("librbd.so.1", {
  rbd_clone4: { args: [T.u64, T.cstring, T.u64, T.u64, T.cstring, T.u64], returns: T.i32 },
});

export interface SourceArg {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  readonly snapshot: string | bigint;
}

const CLONE_FORMAT_OPTION = 12;
const SOURCE_PARENT = "rbd_open of a parent of the source";

export const clone = (source: SourceArg, target: Target): void => {
  const from = { cluster: target.where.cluster, pool: source.pool, namespace: source.namespace };
  withPool(
    from,
    (parentIo) => {
      const { image, snapshot } = source;
      if (typeof snapshot === "string") {
        if (clonePlain({ where: from, io: parentIo, image, snapshot }, target)) return;
        return withLibrbd(parentIo, { ...source, snapshot }, target);
      }
      if (newer !== undefined) {
        return byLibrbd(parentIo, source, target, (io, name, options) =>
          newer.rbd_clone4(parentIo, plain(image), snapshot, io, name, options),
        );
      }
      const { id, sizeBytes } = find(parentIo, source);
      return cloneById({ where: from, io: parentIo, image, snapshotId: id, sizeBytes }, target);
    },
    // a missing pool must not be taken for the pool of the clone
    "rados_ioctx_create of the source",
  );
};

/** Clones a snapshot with a name. */
export const withLibrbd = (parentIo: bigint, source: SourceArg & { readonly snapshot: string }, target: Target): void =>
  byLibrbd(parentIo, source, target, (io, name, options) =>
    rbd.rbd_clone3(parentIo, plain(source.image), plain(source.snapshot), io, name, options),
  );

const byLibrbd = (
  parentIo: bigint,
  source: SourceArg,
  { where, io, image, spec }: Target,
  make: (io: bigint, image: string, options: bigint) => number,
): void =>
  withOptions(spec, (options, set) => {
    set(CLONE_FORMAT_OPTION, 2n);
    const attempt = () => {
      const made = make(io, plain(image), options);
      if (made === -ENOENT) {
        explaining(() => {
          explainMissing(where, spec.dataPool);
          find(parentIo, source);
        });
      }
      return made;
    };
    check("rbd_clone", whileThere(parentIo, source.image, attempt, SOURCE_PARENT));
  });

/** Proves that the snapshot exists. One in the trash of snapshots does not, whatever its id. */
const find = (io: bigint, { image, snapshot }: SourceArg): { readonly id: bigint; readonly sizeBytes: bigint } => {
  if (idOf(io, image) === undefined) throw new Errno("rbd_snap_set", ENOENT);
  return withImage(
    io,
    image,
    "read",
    (handle) => {
      const found = listed(handle).find(({ id, name }) =>
        typeof snapshot === "bigint"
          ? id === snapshot && kindOf(handle, id) !== "trash"
          : name === snapshot && kindOf(handle, id) === "user",
      );
      if (found === undefined) throw new Errno("rbd_snap_set", ENOENT);
      return found;
    },
    SOURCE_PARENT,
  );
};

/** Takes as long as the data of the parent is big. */
export const flatten = (io: bigint, image: string): void =>
  withImage(io, image, "write", (handle) => {
    const result = rbd.rbd_flatten(handle);
    // librbd answers so if there is no parent; another client may have just flattened the image
    if (result === -EINVAL && parentOf(handle) === undefined) return;
    check("rbd_flatten", result);
  });
