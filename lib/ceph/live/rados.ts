/**
 * The methods of `Rados`, each one call in a cell.
 *
 * Not here: the calls themselves (lib/ceph/cell/rados.ts, omaps.ts, pools.ts).
 */
import * as Effect from "effect/Effect";
import { imageLabel, poolLabel } from "../label.ts";
import type { ClusterAccess, OmapWrite, RadosCalls } from "../rados.ts";
import type { Calls } from "./call.ts";
import { keptForAMoment } from "./recent.ts";

export const radosCalls = ({ call, inCluster }: Calls): Effect.Effect<RadosCalls> =>
  Effect.gen(function* () {
    const poolId = yield* keptForAMoment((access: ClusterAccess, pool: string) =>
      inCluster(access, "poolId", { pool }, { key: `pool ${pool}`, pool }),
    );
    const poolName = yield* keptForAMoment((access: ClusterAccess, id: bigint) =>
      inCluster(access, "poolName", { id }, { key: `pool #${id}`, pool: `#${id}` }),
    );
    return {
      poolId,
      poolName,
      pools: (access) => inCluster(access, "pools", {}, { key: "pools" }),
      poolSpace: (access, pool) =>
        inCluster(access, "poolSpace", { pool }, { key: `poolSpace ${pool}`, pool, subject: pool }),

      omapGet: call("omapGet", ["object", "keys"], (pool, object, keys) => ({
        key: `omapGet ${imageLabel(pool, object)} ${keys.join(" ")}`,
      })),
      omapFollow: call("omapFollow", ["object", "key", "to"], (pool, object, key) => ({
        key: `omapGet ${imageLabel(pool, object)} ${key}`,
      })),
      omapList: call("omapList", ["object", "page"], (pool, object, { prefix, after }) => ({
        key: `omapList ${imageLabel(pool, object)} ${prefix} ${after}`,
      })),
      // has no key: it only reads, and two of these calls are seldom for the same objects
      omapGetMany: call("omapGetMany", ["wanted"], (pool, wanted) => ({
        subject: `${wanted.length} objects in ${poolLabel(pool)}`,
        key: undefined,
      })),
      omapWrite: call("omapWrite", ["object", "write"], (pool, object, write) => ({
        key: `omapWrite ${imageLabel(pool, object)} ${keysOf(write).join(" ")}`,
        changes: true,
      })),
      objectRemove: call("objectRemove", ["object"], { changes: true }),
    };
  });

const keysOf = ({ compare = {}, set = {}, remove = [] }: OmapWrite): readonly string[] => [
  ...Object.keys(compare),
  ...Object.keys(set),
  ...remove,
];
