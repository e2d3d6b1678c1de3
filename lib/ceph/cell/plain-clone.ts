/**
 * Clones the newest snapshot of a plain image without opening an image. Loaded in cells only.
 *
 * Not here: all other clones (./clones.ts).
 *
 * librbd opens the parent, the clone, and the parent of the clone, each with the parents behind it: 40 trips to the OSDs
 * and more, and 12 ms of CPU. The same writes, by the same methods of the object class, take twelve trips here, and a third of
 * the CPU; and two trips for each parent behind the source.
 *
 * 1. Only what is proven to be plain is cloned so: a source without a data pool, striping, or a feature that needs more than
 *    its bit, whose parents are there; and a clone that ./image-create.ts creates. Everything else is left to librbd,
 *    which also says what is wrong.
 * 2. It writes what librbd writes (./clone-links.ts). A crash on the way leaves what a crash of librbd would leave.
 */
import { FEATURE_BITS } from "../feature-bits.ts";
import type { Target } from "./clone-by-id.ts";
import { linked, NOT_INHERITED } from "./clone-links.ts";
import { userSnapshot } from "./header-snapshots.ts";
import { createPlain } from "./image-create.ts";
import { parentsAreThere, plainHeader } from "./plain-header.ts";
import type { PoolArg } from "./rados.ts";

const { layering, "exclusive-lock": LOCK, "object-map": MAP, "fast-diff": DIFF } = FEATURE_BITS;
const { "deep-flatten": DEEP, operations: OPERATIONS } = FEATURE_BITS;
const PLAIN_FEATURES = layering | LOCK | MAP | DIFF | DEEP | OPERATIONS;
/** Keys of the header of an image that is not plain. */
const ODD = ["stripe_unit", "stripe_count", "data_pool_id"];

interface Named {
  readonly where: PoolArg;
  readonly io: bigint;
  readonly image: string;
  readonly snapshot: string;
}

/** Gives whether the clone was made; `false`: librbd has to make it, and nothing was done. `id`: of the clone, for tests. */
export const clonePlain = (source: Named, { where, io, image, spec }: Target, id?: string): boolean => {
  if (source.where.namespace !== "" || where.namespace !== "") return false;
  const parent = plainImage(source);
  if (parent === undefined) return false;
  const features = spec.features ?? parent.features & ~NOT_INHERITED;
  if ((parent.features & features & layering) === 0n) return false;
  if (spec.objectSize !== undefined && spec.objectSize !== parent.objectSize) return false;
  const snapshotId = parent.newestSnapshot;
  const snapshot = userSnapshot(source.io, parent.id, snapshotId);
  if (snapshot?.name !== source.snapshot) return false;
  const { sizeBytes } = snapshot;
  const layout = { ...spec, features, objectSize: parent.objectSize, sizeBytes };
  const made = createPlain(where, io, image, layout, { op: "rbd_clone", ...(id !== undefined && { id }) });
  if (made === undefined) return false;
  const { where: from, io: parentIo } = source;
  const link = { where: from, io: parentIo, id: parent.id, snapshotId, sizeBytes };
  linked(link, { where, io, image }, () => made);
  return true;
};

interface PlainImage {
  readonly id: string;
  readonly features: bigint;
  readonly objectSize: bigint;
  readonly newestSnapshot: bigint;
}

const plainImage = ({ where, io, image }: Named): PlainImage | undefined => {
  const header = plainHeader(io, image, PLAIN_FEATURES, ["order", ...ODD]);
  const order = header?.values.get("order")?.at(0);
  if (header === undefined || order === undefined || ODD.some((key) => header.values.has(key))) return undefined;
  if (!parentsAreThere(where, io, header)) return undefined;
  const { id, features, newestSnapshot } = header;
  return { id, features, objectSize: 1n << BigInt(order), newestSnapshot };
};
