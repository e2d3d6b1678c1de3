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
 * 2. All that was proven must be the same in the operation that writes. A snapshot that has lost its last clone since would
 *    stay for ever.
 * 3. It writes what librbd writes, in one operation: a crash leaves it done or not done. Of an image that was flattened librbd
 *    also drops the link from its former parent at this point; it does so in any case when the snapshot goes.
 */
import { midway } from "../../cells/cell.ts";
import { HEADER_FEATURES, KNOWN_OPERATIONS } from "../feature-bits.ts";
import { changeAll } from "./changes.ts";
import { Decoder } from "./decoder.ts";
import { encode } from "./encoder.ts";
import { childrenIn, userSnapshot } from "./header-snapshots.ts";
import { tellClients } from "./header-watchers.ts";
import { readMany } from "./omaps.ts";
import { type PoolArg, poolId } from "./rados.ts";
import { id as idOf } from "./rbd.ts";

/** Of more it is not worth to look at each. */
const MOST_CLONES = 64;

/** Gives whether the snapshot was moved; `false`: librbd has to remove it, and nothing was done. */
export const keepForClones = (where: PoolArg, io: bigint, image: string, snapshot: string): boolean => {
  const proven = provenKept(where, io, image, snapshot);
  return proven !== undefined && keep(io, proven);
};

/** A snapshot that has clones, as its header had it. */
export interface ProvenKept {
  readonly header: string;
  readonly snapshotId: bigint;
  readonly keys: Readonly<Record<string, Uint8Array>>;
}

/** undefined: it is left to librbd. */
export const provenKept = (where: PoolArg, io: bigint, image: string, snapshot: string): ProvenKept | undefined => {
  const imageId = idOf(io, image);
  if (imageId === undefined) return undefined;
  const header = `rbd_header.${imageId}`;
  const [general] = readMany(io, [{ object: header, keys: ["features", "op_features", "snap_seq"] }]);
  const [features, operations, newest] = [
    general?.get("features"),
    general?.get("op_features"),
    general?.get("snap_seq"),
  ];
  if (features === undefined || operations === undefined || newest === undefined) return undefined;
  if ((numberIn(features) & ~HEADER_FEATURES) !== 0n || (numberIn(operations) & ~KNOWN_OPERATIONS) !== 0n)
    return undefined;
  const snapshotId = numberIn(newest);
  const hex = snapshotId.toString(16).padStart(16, "0");
  const [recordKey, clonesKey] = [`snapshot_${hex}`, `snap_children_${hex}`];
  const [own] = readMany(io, [{ object: header, keys: [recordKey, clonesKey] }]);
  const [record, clones] = [own?.get(recordKey), own?.get(clonesKey)];
  if (record === undefined || clones === undefined || !areHere(where, io, clones)) return undefined;
  if (userSnapshot(io, imageId, snapshotId)?.name !== snapshot) return undefined;
  return { header, snapshotId, keys: { features, op_features: operations, [recordKey]: record, [clonesKey]: clones } };
};

/** Moves it if nothing of it has changed since; gives whether. */
export const keep = (io: bigint, { header, snapshotId, keys }: ProvenKept): boolean => {
  const calls = [{ method: "snapshot_trash_add", input: encode({ u64: snapshotId }) }];
  const [result] = changeAll(io, [{ object: header, state: "require", compare: keys, calls }]);
  if (result !== 0) return false;
  midway(() => tellClients(io, header));
  return true;
};

const numberIn = (bytes: Uint8Array): bigint => new Decoder(bytes).u64();

/** Whether there are clones, and all of them exist, in this pool. */
const areHere = ({ cluster, pool, namespace }: PoolArg, io: bigint, clones: Uint8Array): boolean => {
  const children = childrenIn(clones);
  if (children.length === 0 || children.length > MOST_CLONES) return false;
  const here = poolId(cluster, pool);
  if (children.some((child) => child.poolId !== here || child.namespace !== namespace)) return false;
  const wanted = children.map(({ imageId }) => ({ object: `rbd_header.${imageId}`, keys: ["size"] }));
  return readMany(io, wanted).every((header) => header?.has("size") === true);
};
