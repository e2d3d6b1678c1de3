/**
 * The methods of `Rados`, each one call in a cell.
 *
 * Not here: the calls themselves (lib/ceph/cell/rados.ts, omaps.ts, pools.ts).
 */
import * as Effect from "effect/Effect";
import { imageLabel, poolLabel } from "../label.ts";
import type { Fitness } from "../cell/pools.ts";
import { type CephError, PoolNotFound, PoolUnfit } from "../errors.ts";
import type { ClusterAccess, OmapWrite, PoolUse, RadosCalls } from "../rados.ts";
import type { Calls } from "./call.ts";
import { keptForAMoment } from "./recent.ts";
import { makePartsToRead } from "./split-omaps.ts";

export const radosCalls = (calls: Calls): Effect.Effect<RadosCalls> =>
  Effect.gen(function* () {
    const { call, inCluster } = calls;
    const lookUp = yield* keptForAMoment((access: ClusterAccess, pool: string) =>
      inCluster(access, "poolId", { pool }, { key: `pool ${pool}`, pool }),
    );
    const proveFit = yield* fitPools(calls);
    const poolName = yield* keptForAMoment((access: ClusterAccess, id: bigint) =>
      inCluster(access, "poolName", { id }, { key: `pool #${id}`, pool: `#${id}` }),
    );
    // has no key: it only reads, and two of these calls are seldom for the same objects
    const omapGetMany = call("omapGetMany", ["wanted"], (pool, wanted) => ({
      subject: `${wanted.length} objects in ${poolLabel(pool)}`,
      key: undefined,
    }));
    const omapFollow = call("omapFollow", ["object", "key", "to", "parts"], (pool, object, key) => ({
      key: `omapGet ${imageLabel(pool, object)} ${key}`,
    }));
    const omapList = call("omapList", ["object", "page", "parts"], (pool, object, { prefix, after }) => ({
      key: `omapList ${imageLabel(pool, object)} ${prefix} ${after}`,
    }));
    const partsToRead = yield* makePartsToRead(omapGetMany);
    return {
      poolId: (access, pool, use) => (use === undefined ? lookUp(access, pool) : proveFit(access, pool, use)),
      poolName,
      pools: (access) => inCluster(access, "pools", {}, { key: "pools" }),
      poolSpace: (access, pool) =>
        inCluster(access, "poolSpace", { pool }, { key: `poolSpace ${pool}`, pool, subject: pool }),

      omapGet: call("omapGet", ["object", "keys"], (pool, object, keys) => ({
        key: `omapGet ${imageLabel(pool, object)} ${keys.join(" ")}`,
      })),
      omapFollow: (pool, object, key, to, parts = []) =>
        Effect.flatMap(partsToRead(pool, parts), (read) => omapFollow(pool, object, key, to, read)),
      omapList: (pool, object, page, parts = []) =>
        Effect.flatMap(partsToRead(pool, parts), (read) => omapList(pool, object, page, read)),
      omapGetMany,
      omapWrite: call("omapWrite", ["object", "write"], (pool, object, write) => ({
        key: `omapWrite ${imageLabel(pool, object)} ${keysOf(write).join(" ")}`,
        changes: true,
      })),
      objectLock: call("objectLock", ["object", "lock"], { changes: true }),
      objectRemove: call("objectRemove", ["object"], { changes: true }),
    };
  });

const unfitError = ({ pool: subject, why }: NonNullable<Fitness["unfit"]>): CephError =>
  why === "no such data pool"
    ? new PoolNotFound({ op: "rados_pool_lookup", subject, parameter: "dataPool" })
    : new PoolUnfit({ op: "osd pool ls", subject, why });

/** The id of a pool that images can be kept in. The monitors are asked once for each pair of pools. */
const fitPools = ({ inCluster }: Calls) => {
  const proven = new Map<string, string>();
  const ask = (access: ClusterAccess, pools: string): Effect.Effect<bigint, CephError> => {
    const [pool = "", dataPool] = pools.split("\0");
    const place = `${access.monitors.join(",")} ${pools}`;
    const about = { key: `pool ${pools}`, pool };
    const arg = { pool, dataPool, proven: proven.get(place) ?? "" };
    return Effect.flatMap(inCluster(access, "poolFitness", arg, about), ({ id, ids, unfit, told }) => {
      if (unfit !== undefined) return Effect.fail(unfitError(unfit));
      if (told) proven.set(place, ids);
      return Effect.succeed(id);
    });
  };
  return Effect.map(
    keptForAMoment(ask),
    (kept) =>
      (access: ClusterAccess, pool: string, { dataPool }: PoolUse) =>
        kept(access, dataPool === undefined ? pool : `${pool}\0${dataPool}`),
  );
};

const keysOf = ({ compare = {}, set = {}, remove = [] }: OmapWrite): readonly string[] => [
  ...Object.keys(compare),
  ...Object.keys(set),
  ...remove,
];
