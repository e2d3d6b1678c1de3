/**
 * How many parents are behind an image, from the headers alone. Loaded in cells only.
 *
 * Not here: who the parent is (./status.ts), making clones and ending them (./clones.ts).
 *
 * 1. `depth` opens no image: one operation for the name, and one for each header of the chain.
 */
import { Errno } from "../../cells/cell.ts";
import { Decoder } from "./decoder.ts";
import { ENOENT, ENOEXEC } from "./ffi.ts";
import { execute, type PoolArg, withPoolId } from "./rados.ts";

/** More than the kernel follows, and than any chain that is not a circle. */
const DEEPEST = 1024;
const NONE = -1n;

/** Once is nearly always enough: each try reads anew which parent there is. */
const TRIES = 5;
const TRY_AGAIN_MS = 20;
export const PARENT = "rbd_open of a parent";

/**
 * A parent goes at the very moment that the image is flattened, between one look at it and the next: an attempt that
 * does not find one answers `undefined`, and is made again.
 */
export const whileParentsGo = <A>(attempt: () => A | undefined, op = PARENT): A => {
  for (let tries = 1; ; tries++) {
    const answer = attempt();
    if (answer !== undefined) return answer;
    if (tries === TRIES) throw new Errno(op, ENOENT);
    Bun.sleepSync(TRY_AGAIN_MS);
  }
};

/** `id`: of the image whose ancestors are counted. */
export const depth = (where: PoolArg, io: bigint, id: string): number => whileParentsGo(() => walked(where, io, id));

/** `undefined`: a parent is gone. */
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

interface Link {
  readonly poolId: bigint;
  readonly namespace: string;
  readonly imageId: string;
}

const parentIn = (io: bigint, id: string): Link | undefined | "no header" => {
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
  return poolId === NONE ? undefined : { poolId, namespace: bytes.text(), imageId: bytes.text() };
};
