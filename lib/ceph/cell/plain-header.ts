/**
 * The header of an image that is simple enough to be worked on without librbd. Loaded in cells only.
 *
 * Not here: what "simple enough" means for a clone (./plain-clone.ts) and for a snapshot (./first-snapshot.ts).
 */
import { KNOWN_OPERATIONS } from "../feature-bits.ts";
import { parentsExist } from "./ancestry.ts";
import { Decoder } from "./decoder.ts";
import { readMany } from "./omaps.ts";
import type { PoolArg } from "./rados.ts";
import { id as idOf } from "./rbd.ts";

const PARENT = "parent";
/** What is read of each header. What is proven from it holds as long as these are the same. */
export const PLAIN_KEYS: readonly string[] = ["features", "op_features", "snap_seq", PARENT];

export interface PlainHeader {
  /** Of the image. */
  readonly id: string;
  /** The object that the header is. */
  readonly object: string;
  readonly features: bigint;
  readonly newestSnapshot: bigint;
  /** The values as they are, of the keys that it has. */
  readonly values: ReadonlyMap<string, Uint8Array>;
}

/** The header, with `more` keys of it; `undefined`: it has other features than the allowed ones, or is not there. */
export const plainHeader = (
  io: bigint,
  image: string,
  allowed: bigint,
  more: readonly string[] = [],
): PlainHeader | undefined => {
  const id = idOf(io, image);
  if (id === undefined) return undefined;
  const object = `rbd_header.${id}`;
  const [values] = readMany(io, [{ object, keys: [...PLAIN_KEYS, ...more] }]);
  const number = (key: string): bigint | undefined => {
    const bytes = values?.get(key);
    return bytes && new Decoder(bytes).u64();
  };
  const [features, newestSnapshot] = [number("features"), number("snap_seq")];
  if (values === undefined || features === undefined || newestSnapshot === undefined) return undefined;
  if ((features & ~allowed) !== 0n || ((number("op_features") ?? 0n) & ~KNOWN_OPERATIONS) !== 0n) return undefined;
  return { id, object, features, newestSnapshot, values };
};

/** Two trips for each parent. */
export const parentsAreThere = (where: PoolArg, io: bigint, { id, values }: PlainHeader): boolean =>
  !values.has(PARENT) || parentsExist(where, io, id);
