/**
 * Removes a snapshot that has clones, without opening its image: it stays for the clones, in the trash of snapshots, and
 * whoever removes the last clone removes it. Loaded in cells only.
 *
 * Not here: all other removals (./snapshots.ts).
 *
 * librbd opens the image and its parents, and takes the lock from whoever has it, whose writes wait meanwhile. What it then
 * writes is one call of the object class, which takes a tenth of the CPU.
 *
 * 1. Only what is proven to be so simple is done so: the newest snapshot of an image whose features need no more, with
 *    clones that are there, in the same pool. Everything else is left to librbd, which also says what is wrong.
 * 2. The snapshot must have the very same clones when it is moved. Without one it would stay for ever.
 * 3. It writes what librbd writes, in one operation: a crash leaves it done or not done.
 */
import { midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { changeAll } from "./changes.ts";
import { Decoder } from "./decoder.ts";
import { encode } from "./encoder.ts";
import { childrenIn, userSnapshot } from "./header-snapshots.ts";
import { tellClients } from "./header-watchers.ts";
import { readMany } from "./omaps.ts";
import { type PoolArg, poolId } from "./rados.ts";
import { id as idOf } from "./rbd.ts";

const { layering, striping, "exclusive-lock": LOCK, "object-map": MAP, "fast-diff": DIFF } = FEATURE_BITS;
const { "deep-flatten": DEEP, "data-pool": DATA_POOL, operations } = FEATURE_BITS;
const PLAIN_FEATURES = layering | striping | LOCK | MAP | DIFF | DEEP | DATA_POOL | operations;

/** Gives whether the snapshot was moved; `false`: librbd has to remove it, and nothing was done. */
export const keepForClones = (where: PoolArg, io: bigint, image: string, snapshot: string): boolean => {
  const imageId = idOf(io, image);
  if (imageId === undefined) return false;
  const header = `rbd_header.${imageId}`;
  const [keys] = readMany(io, [{ object: header, keys: ["features", "snap_seq"] }]);
  const [features, snapshotId] = [numberIn(keys?.get("features")), numberIn(keys?.get("snap_seq"))];
  if (features === undefined || snapshotId === undefined || (features & ~PLAIN_FEATURES) !== 0n) return false;
  const clones = clonesOf(where, io, header, snapshotId);
  if (clones === undefined || userSnapshot(io, imageId, snapshotId)?.name !== snapshot) return false;
  const calls = [{ method: "snapshot_trash_add", input: encode({ u64: snapshotId }) }];
  const [result] = changeAll(io, [{ object: header, state: "require", compare: clones, calls }]);
  if (result !== 0) return false;
  midway(() => tellClients(io, header));
  return true;
};

const numberIn = (bytes: Uint8Array | undefined): bigint | undefined => bytes && new Decoder(bytes).u64();

/** The key of the header that has the clones, as it is now; undefined: there are none, or not all are there in this pool. */
const clonesOf = (
  { cluster, pool, namespace }: PoolArg,
  io: bigint,
  header: string,
  snapshotId: bigint,
): Readonly<Record<string, Uint8Array>> | undefined => {
  const key = `snap_children_${snapshotId.toString(16).padStart(16, "0")}`;
  const bytes = readMany(io, [{ object: header, keys: [key] }])[0]?.get(key);
  const children = bytes === undefined ? [] : childrenIn(bytes);
  if (bytes === undefined || children.length === 0 || children.length > MOST_CLONES) return undefined;
  const here = poolId(cluster, pool);
  if (children.some((child) => child.poolId !== here || child.namespace !== namespace)) return undefined;
  const wanted = children.map(({ imageId }) => ({ object: `rbd_header.${imageId}`, keys: ["size"] }));
  return readMany(io, wanted).every((header) => header?.has("size") === true) ? { [key]: bytes } : undefined;
};

/** Of more it is not worth to look at each. */
const MOST_CLONES = 64;
