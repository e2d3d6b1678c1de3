/**
 * A Ceph cell for the calls that wait for the monitors, up to a second each. This file is the entry of the worker.
 *
 * Not here: all other calls (./cell.ts).
 *
 * 1. Many such cells run at once, so that many calls wait for one proposal of the monitors. Therefore this entry imports
 *    little: it starts in a third of the time that ./cell.ts takes, and in less memory.
 */
import { serveCell } from "../../cells/cell.ts";
import { trim } from "./ffi.ts";
import { pooled } from "./rados.ts";
import type { SnapshotArg } from "./snapshots.ts";
import * as snapshots from "./snapshots.ts";
import { removeTrashed, type TrashedSnapshotArg } from "./trashed-snapshots.ts";

const calls = {
  snapshotCreate: pooled((io, arg: SnapshotArg & { readonly clients: "asked" | "unasked" | undefined }) =>
    snapshots.create(arg, io, arg.image, arg.snapshot, arg.clients),
  ),
  snapshotRemove: pooled((io, { image, snapshot }: SnapshotArg) => snapshots.remove(io, image, snapshot)),
  trashSnapshotRemove: pooled((io, arg: TrashedSnapshotArg) => removeTrashed(io, arg)),
};

export type WaitingCalls = typeof calls;

serveCell(calls, () => {
  Bun.gc(true);
  trim();
});
