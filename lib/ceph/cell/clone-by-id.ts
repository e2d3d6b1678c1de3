/**
 * Clones a snapshot by its id, for a librbd that clones by name only (until Ceph 19): the snapshot of a group has no name
 * by which it can be opened. Headers name parents by ids, so that the rest of a clone needs no name. Loaded in cells only.
 *
 * Not here: clones of snapshots with a name (./plain-clone.ts), and all clones if librbd takes an id (./clones.ts).
 *
 * 1. It writes what librbd writes (./clone-links.ts). A crash on the way leaves what a crash of librbd would leave.
 */
import { Errno } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import type { CloneSpec } from "../rbd.ts";
import { linked, NOT_INHERITED } from "./clone-links.ts";
import { EINVAL } from "./ffi.ts";
import type { PoolArg } from "./rados.ts";
import { create, existing } from "./rbd.ts";
import { status } from "./status.ts";

const { layering } = FEATURE_BITS;

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
  linked({ ...source, id: parent.id }, { where, io, image }, () => existing(made));
};

/** The clone to make. */
export interface Target {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly image: string;
  readonly spec: CloneSpec;
}
