/**
 * The snapshots of images in the trash. Loaded in cells only.
 *
 * Not here: those of images that have a name (./snapshots.ts); whose one is (lib/images/trashed-snapshots.ts).
 *
 * 1. A snapshot is removed only while its image is in the trash, and nobody takes it out meanwhile: it is marked before as
 *    being removed, as librbd does before it removes an image, and then librbd refuses to restore it. The mark goes with the
 *    call. One that a crash leaves goes when librbd removes the image, or tries to.
 * 2. No snapshot is removed while another client has the image open.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import type { TrashedSnapshot } from "../rbd.ts";
import { changeAll } from "./changes.ts";
import { encode } from "./encoder.ts";
import { bind, check, EBUSY, ENOENT, EOPNOTSUPP, ESTALE, plain } from "./ffi.ts";
import { instanceId, type PoolArg } from "./rados.ts";
import { withImageById } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { entryFor } from "./trash.ts";
import { watchers } from "./watchers.ts";

const rbd = bind("librbd.so.1", {
  rbd_snap_remove: { args: [T.u64, T.cstring], returns: T.i32 },
});

export interface TrashedArg extends PoolArg {
  /** Of the image. */
  readonly id: string;
  readonly onlyMarked?: boolean | undefined;
}

export interface TrashedSnapshotArg extends TrashedArg {
  readonly snapshot: string;
}

/** Oldest first. undefined: no such image is in the trash. */
export const listTrashed = (io: bigint, { id, onlyMarked }: TrashedArg): readonly TrashedSnapshot[] | undefined =>
  entryFor(io, id, onlyMarked) === undefined
    ? undefined
    : withImageById(io, id, "read", (handle) =>
        listed(handle).flatMap(({ id: snapshotId, name }) => {
          const kind = kindOf(handle, snapshotId);
          return kind === undefined ? [] : [{ name, kind }];
        }),
      );

/** Succeeds if there is no such snapshot. */
export const removeTrashed = (io: bigint, { cluster, id, snapshot, onlyMarked }: TrashedSnapshotArg): void => {
  const isOurs = claim(io, id);
  try {
    if (entryFor(io, id, onlyMarked) === undefined) throw new Errno(OP, ENOENT);
    withImageById(io, id, "write", (handle) => {
      if (watchers(handle, instanceId(cluster)).length > 0) throw new Errno("rbd_snap_remove", EBUSY);
      const result = rbd.rbd_snap_remove(handle, plain(snapshot));
      if (result !== -ENOENT) check("rbd_snap_remove", result);
    });
  } finally {
    // who restores the image waits for nothing else; if it fails, see 1
    if (isOurs) stateSet(io, id, STATE.normal, STATE.removing);
  }
};

const OP = "rbd_open";
const STATE = { normal: 0, removing: 2 } as const;

const stateSet = (io: bigint, id: string, to: number, from: number): number | undefined => {
  const set = { method: "trash_state_set", input: encode({ text: id }, { u8: to }, { u8: from }) };
  return changeAll(io, [{ object: "rbd_trash", state: "require", evenIfFull: true, calls: [set] }])[0];
};

/** Gives whether this call has marked it; else it was marked before, by somebody who removes it or has died in that. */
const claim = (io: bigint, id: string): boolean => {
  // an OSD leaves the state alone, and says so, if it is another one than is expected
  if (stateSet(io, id, STATE.removing, STATE.removing) === 0) return false;
  const result = stateSet(io, id, STATE.removing, STATE.normal);
  if (result === 0) return true;
  if (result === -EOPNOTSUPP) return false;
  if (result === -ENOENT) throw new Errno(OP, ENOENT);
  // it is on its way into the trash, or out of it
  if (result === -ESTALE) throw new Errno("rbd_trash_state_set", EBUSY);
  check("rbd_trash_state_set", result ?? 0);
  return true;
};
