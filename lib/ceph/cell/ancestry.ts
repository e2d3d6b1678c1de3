/**
 * Counts the parents behind an image, and proves that they exist, from the headers alone. Loaded in cells only.
 *
 * Not here: which image is the parent (./status.ts), making and flattening clones (./clones.ts).
 *
 * 1. `depth` opens no image: one operation for the name, and one for each header of the chain. `parentsExist` needs one
 *    more for each parent.
 */
import { Errno } from "../../cells/cell.ts";
import { Decoder } from "./decoder.ts";
import { encode } from "./encoder.ts";
import { ENOENT, ENOEXEC } from "./ffi.ts";
import { execute, POOL_BY_ID, type PoolArg, withPoolId } from "./rados.ts";

/** More levels than the kernel follows: a longer chain is a circle. */
const DEEPEST = 1024;
const NONE = -1n;

/** One try is nearly always enough, because each reads anew which image is the parent. */
const TRIES = 5;
const TRY_AGAIN_MS = 20;
export const PARENT = "rbd_open of a parent";

/**
 * Repeats an attempt that answers `undefined` because it did not find a parent: a flatten may have ended between the
 * moment when the attempt read the name of the parent and the moment when it looked for it.
 */
export const whileParentsGo = <A>(attempt: () => A | undefined, op = PARENT): A => {
  for (let tries = 1; ; tries++) {
    const answer = attempt();
    if (answer !== undefined) return answer;
    if (tries === TRIES) throw new Errno(op, ENOENT);
    Bun.sleepSync(TRY_AGAIN_MS);
  }
};

/** `id` names the image whose ancestors are counted. */
export const depth = (where: PoolArg, io: bigint, id: string): number => whileParentsGo(() => walked(where, io, id));

/** Whether every parent behind the image exists, with its pool, and every snapshot that is one. */
export const parentsExist = (where: PoolArg, io: bigint, id: string): boolean => {
  try {
    return allExist(where, io, id);
  } catch (error) {
    if (error instanceof Errno && error.op === POOL_BY_ID && error.errno === ENOENT) return false;
    throw error;
  }
};

const allExist = ({ cluster }: PoolArg, io: bigint, id: string): boolean => {
  let next = parentIn(io, id);
  for (let levels = 0; levels <= DEEPEST; levels++) {
    if (next === undefined || next === "no header") return next === undefined;
    const { poolId, namespace, imageId, snapshotId }: Link = next;
    next = withPoolId(cluster, poolId, namespace, (parentIo) => {
      const snapshot = execute(parentIo, `rbd_header.${imageId}`, "snapshot_get", encode({ u64: snapshotId }));
      return snapshot === undefined ? "no header" : parentIn(parentIo, imageId);
    });
  }
  return false;
};

/** `undefined`: a parent does not exist any more. */
const walked = ({ cluster }: PoolArg, io: bigint, id: string): number | undefined => {
  let next: Link | "no header" | undefined = parentIn(io, id);
  if (next === "no header") throw new Errno("rbd_open", ENOENT);
  for (let levels = 0; levels <= DEEPEST; levels++) {
    if (next === undefined) return levels;
    if (next === "no header") return undefined;
    const { poolId, namespace, imageId }: Link = next;
    next = withPoolId(cluster, poolId, namespace, (parentIo) => parentIn(parentIo, imageId));
  }
  throw new Errno("rbd_get_parent", 0, `more than ${DEEPEST} parents`);
};

export interface Link {
  readonly poolId: bigint;
  readonly namespace: string;
  readonly imageId: string;
  readonly snapshotId: bigint;
}

/** The parent of the image with this id. */
export const parentIn = (io: bigint, id: string): Link | undefined | "no header" => {
  try {
    const answer = execute(io, `rbd_header.${id}`, "parent_get");
    return answer === undefined ? "no header" : decodeLink(answer);
  } catch (error) {
    // the object class answers so for an image that was made without layering
    if (error instanceof Errno && error.errno === ENOEXEC) return undefined;
    throw error;
  }
};

/** cls::rbd::ParentImageSpec. */
const decodeLink = (answer: Uint8Array): Link | undefined => {
  const bytes = new Decoder(answer);
  bytes.version();
  const poolId = bytes.i64();
  if (poolId === NONE) return undefined;
  return { poolId, namespace: bytes.text(), imageId: bytes.text(), snapshotId: bytes.u64() };
};
