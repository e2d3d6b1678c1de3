/**
 * Reads what the header of an image says, without opening the image. Loaded in cells only.
 *
 * Not here: its users, locks and mirror, which are no keys of the header (./status.ts); many images at once
 * (./image-headers.ts).
 *
 * librbd reads the header key by key, and its opening of an image waits behind all others of the process. One read of the
 * whole header takes a quarter of the CPU.
 *
 * 1. Only a header without a parent and with known features is read so. Everything else is left to librbd, which also says
 *    what is wrong.
 */
import { FEATURE_BITS, HEADER_FEATURES } from "../feature-bits.ts";
import type { ImageHeader } from "../rbd.ts";
import { Decoder } from "./decoder.ts";
import { METADATA, metadataIn, timeIn } from "./image-headers.ts";
import { list } from "./omaps.ts";
import { type PoolArg, poolName } from "./rados.ts";
import { id as idOf } from "./rbd.ts";
import { status } from "./status.ts";

const KNOWN_FEATURES = HEADER_FEATURES | FEATURE_BITS.journaling;

export const headerOf = (where: PoolArg, io: bigint, image: string, metadata: readonly string[] = []): ImageHeader =>
  plainHeader(where, io, image, metadata) ?? status(where, io, image, metadata);

const PARENT = "parent";
const WHOLE = { prefix: "", after: "", limit: Number.MAX_SAFE_INTEGER };

/** undefined: the header does not say it all. */
export const plainHeader = (
  { cluster, pool }: PoolArg,
  io: bigint,
  image: string,
  metadata: readonly string[],
): ImageHeader | undefined => {
  const id = idOf(io, image);
  const keys = id === undefined ? undefined : list(io, `rbd_header.${id}`, WHOLE);
  if (id === undefined || keys === undefined || keys.has(PARENT)) return undefined;
  const number = (key: string): bigint | undefined => {
    const bytes = keys.get(key);
    return bytes && new Decoder(bytes).u64();
  };
  const [sizeBytes, features, order] = [number("size"), number("features"), keys.get("order")?.at(0)];
  if (sizeBytes === undefined || features === undefined || order === undefined) return undefined;
  if ((features & ~KNOWN_FEATURES) !== 0n) return undefined;
  const objectSize = 1n << BigInt(order);
  const dataPoolId = number("data_pool_id");
  const dataPool = dataPoolId === undefined ? pool : poolName(cluster, dataPoolId);
  const wanted = metadata.map((key) => METADATA + key);
  return {
    id,
    sizeBytes,
    features,
    objectSize,
    stripeUnit: number("stripe_unit") ?? objectSize,
    stripeCount: number("stripe_count") ?? 1n,
    dataPool: dataPool === pool ? undefined : dataPool,
    parent: undefined,
    snapshotCount: [...keys.keys()].filter((key) => key.startsWith("snapshot_")).length,
    createdAt: timeIn(keys.get("create_timestamp")),
    metadata: metadataIn(new Map([...keys].filter(([key]) => wanted.includes(key)))),
  };
};
