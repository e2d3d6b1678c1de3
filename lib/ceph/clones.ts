/**
 * The calls of librbd that make a clone and end its being one. Loaded in cells only.
 *
 * Not here: how deep a chain of clones is (./ancestry.ts), the manager's queue (./tasks.ts).
 *
 * 1. Every clone is of format 2: its snapshot is not protected, and may be removed while there are clones.
 * 2. Older librbd clones by name only. A snapshot that has none that can be opened is refused there, before anything
 *    is made.
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { Errno } from "../cells/cell.ts";
import { check, EINVAL, ENOENT, plain } from "./ffi.ts";
import { type PoolArg, withPool } from "./rados.ts";
import { explainMissing, type LayoutArg, withImage, withOptions } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { parentOf } from "./status.ts";

const { symbols: rbd } = dlopen("librbd.so.1", {
  rbd_clone3: { args: [T.u64, T.cstring, T.cstring, T.u64, T.cstring, T.u64], returns: T.i32 },
  rbd_flatten: { args: [T.u64], returns: T.i32 },
});

/** From Ceph 20 on. */
const newer = ((): ((...args: [bigint, string, bigint, bigint, string, bigint]) => number) | undefined => {
  try {
    const signature = { args: [T.u64, T.cstring, T.u64, T.u64, T.cstring, T.u64], returns: T.i32 } as const;
    return dlopen("librbd.so.1", { rbd_clone4: signature }).symbols.rbd_clone4;
  } catch {
    return undefined;
  }
})();

/** Whether a snapshot that can't be opened by name, as a group's, can be cloned by its id. */
export const clonesById = newer !== undefined;

export interface SourceArg {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  readonly snapshot: string | bigint;
}

const CLONE_FORMAT_OPTION = 12;

export const clone = (source: SourceArg, where: PoolArg, io: bigint, image: string, layout: LayoutArg): void =>
  withSource(where.cluster, source, (parentIo) =>
    withOptions(layout, (options, set) => {
      set(CLONE_FORMAT_OPTION, 2n);
      const result = attempt(parentIo, source, io, plain(image), options);
      if (result === -ENOENT) {
        explainMissing(where, layout.dataPool);
        nameOf(parentIo, source);
      }
      check("rbd_clone", result);
    }),
  );

const attempt = (parentIo: bigint, source: SourceArg, io: bigint, image: string, options: bigint): number => {
  const { image: parent, snapshot } = source;
  if (typeof snapshot === "bigint" && newer !== undefined) {
    return newer(parentIo, plain(parent), snapshot, io, image, options);
  }
  return rbd.rbd_clone3(parentIo, plain(parent), plain(nameOf(parentIo, source)), io, image, options);
};

/** A missing pool must not be taken for the clone's. */
const withSource = <A>(cluster: bigint, { pool, namespace }: SourceArg, use: (io: bigint) => A): A =>
  withPool({ cluster, pool, namespace }, use, "rados_ioctx_create of the source");

/** The name that the snapshot can be opened by. Proves that it is there. */
const nameOf = (io: bigint, { image, snapshot }: SourceArg): string =>
  withImage(io, image, "read", (handle) => {
    const found = listed(handle).find(({ id, name }) =>
      typeof snapshot === "bigint" ? id === snapshot : name === snapshot && kindOf(handle, id) === "user",
    );
    if (found === undefined) throw new Errno("rbd_snap_set", ENOENT);
    if (newer !== undefined || kindOf(handle, found.id) === "user") return found.name;
    throw new Errno("rbd_clone of a snapshot without a name", EINVAL);
  });

/** Long: as long as the parent's data is big. */
export const flatten = (io: bigint, image: string): void =>
  withImage(io, image, "write", (handle) => {
    const result = rbd.rbd_flatten(handle);
    // so it answers when there is no parent; somebody else may just have ended it
    if (result === -EINVAL && parentOf(handle) === undefined) return;
    check("rbd_flatten", result);
  });
