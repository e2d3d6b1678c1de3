/**
 * Which pools take no more data: full, or at their quota. Loaded in cells only.
 *
 * Not here: how much can still be written to a pool (./pools.ts).
 *
 * The OSDs of such a pool refuse at once what would add an object or bytes, and permit the rest (./rados.ts 3). The monitors
 * are asked before only where somebody else writes, who would wait for room.
 */
import { parentIn } from "./ancestry.ts";
import { Decoder } from "./decoder.ts";
import { readMany } from "./omaps.ts";
import { poolKinds } from "./pools.ts";
import { type PoolArg, poolId, withPool } from "./rados.ts";

/** The name of a full pool in which the removal or the flatten of an image writes; `undefined`: there is none. */
export const fullPoolOf = (where: PoolArg, idOf: (io: bigint) => string | undefined): string | undefined => {
  const full = [...(poolKinds(where.cluster) ?? [])].filter(([, kind]) => kind.full);
  if (full.length === 0) return undefined;
  const ids = withPool(where, (io) => poolsOf(where, io, idOf(io)));
  return full.find(([, { id }]) => ids.includes(id))?.[0];
};

const DATA_POOL = "data_pool_id";

/** Of the image, of its data, and of its parent, which knows its clones. */
const poolsOf = ({ cluster, pool }: PoolArg, io: bigint, id: string | undefined): readonly bigint[] => {
  const own = poolId(cluster, pool);
  if (id === undefined) return [own];
  const [header] = readMany(io, [{ object: `rbd_header.${id}`, keys: [DATA_POOL] }]);
  const data = header?.get(DATA_POOL);
  const parent = parentIn(io, id);
  return [
    own,
    ...(data === undefined ? [] : [new Decoder(data).i64()]),
    ...(parent === undefined || parent === "no header" ? [] : [parent.poolId]),
  ];
};
