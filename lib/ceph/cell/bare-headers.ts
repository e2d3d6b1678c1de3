/**
 * What librbd leaves of a parent that is removed while its last clone is. Loaded in cells only.
 *
 * Whoever removes a clone from the trash opens the parent, takes its lock and removes its snapshot that was kept for the
 * clone. If another client removes the parent at that moment, the lock is taken on a header that is gone: it is there
 * again, with a lock and nothing else, and nobody removes it (seen with Ceph 16).
 *
 * 1. A header without a key is no image: librbd and ./image-create.ts write all keys of a new one at once, and no two images
 *    have one id.
 */
import { Errno } from "../../cells/cell.ts";
import { type Link, parentIn } from "./ancestry.ts";
import { list, readMany } from "./omaps.ts";
import { objectRemove, type PoolArg, withPoolId } from "./rados.ts";

/** Removes the header with this id, and its object map, if there is nothing in it. */
export const dropBareHeader = (io: bigint, id: string): void => {
  const header = `rbd_header.${id}`;
  if (list(io, header, { prefix: "", after: "", limit: 1 })?.size !== 0) return;
  objectRemove(io, `rbd_object_map.${id}`);
  objectRemove(io, header);
};

/** Gives those of the images that exist, and removes the headers of the others in which there is nothing. */
export const stillThere = (io: bigint, ids: readonly string[]): readonly string[] => {
  const headers = readMany(
    io,
    ids.map((id) => ({ object: `rbd_header.${id}`, keys: ["size"] })),
  );
  const there: string[] = [];
  for (const [i, id] of ids.entries()) {
    const header = headers[i];
    if (header?.has("size") === true) there.push(id);
    else if (header !== undefined) dropBareHeader(io, id);
  }
  return there;
};

/** Removes an image with `act`, whatever comes of it, and then what is left of its parent if that is gone. */
export const thenWithoutBareParent = (where: PoolArg, io: bigint, id: string, act: () => void): void => {
  const parent = parentIn(io, id);
  try {
    act();
  } finally {
    if (parent !== undefined && parent !== "no header") dropAt(where, parent);
  }
};

/** What cannot be looked at stays: the removal of the clone counts. */
const dropAt = ({ cluster }: PoolArg, { poolId, namespace, imageId }: Link): void => {
  try {
    withPoolId(cluster, poolId, namespace, (io) => dropBareHeader(io, imageId));
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
  }
};
