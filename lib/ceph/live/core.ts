/**
 * The methods of `Ceph` that a plain volume needs, each one call in a cell (lib/ceph/cell/cell.ts).
 *
 * Not here: snapshots, clones, listings and groups.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type CoreCalls, imageLabel } from "../ceph.ts";
import type { ClusterAccess, OmapWrite } from "../rados.ts";
import {
  type Arg,
  type Ask,
  type Asking,
  clusterAsk,
  MANAGER,
  MANAGER_LIMIT,
  managerUnavailable,
  orderOf,
  wholePool,
} from "./call.ts";
import { keptForAMoment } from "./recent.ts";

/** An object map is made anew from the objects, one by one. */
const REBUILD_LIMIT = Duration.minutes(10);

export const coreCalls = (
  { ask, inPool, change, monitorLimit }: Asking,
  trashRemoveLimit: Duration.Duration,
): CoreCalls => {
  const pools = (access: ClusterAccess, pool: string): Ask => ({
    ...clusterAsk(access, pool, `pool ${pool}`, monitorLimit),
    subject: access.monitors.join(","),
  });

  // whoever may not ask is told so by the next call: these answers are no secrets
  const at = ({ monitors, user }: ClusterAccess, pool: string) => `${user} ${monitors.join(",")} ${pool}`;
  const recentId = keptForAMoment<bigint>();
  const recentName = keptForAMoment<string>();

  return {
    poolId: (access, pool) =>
      recentId(
        at(access, pool),
        ask(access, "poolId", (cluster) => ({ cluster, pool }), pools(access, pool)),
      ),
    poolName: (access, id) =>
      recentName(
        at(access, `${id}`),
        ask(access, "poolName", (cluster) => ({ cluster, id }), pools(access, `#${id}`)),
      ),

    omapGet: (ref, object, keys) =>
      inPool(ref, "omapGet", object, (where) => ({ ...where, object, keys }), {
        key: `omapGet ${imageLabel(ref, object)} ${keys.join(" ")}`,
      }),
    omapFollow: (ref, object, key, to) =>
      inPool(ref, "omapFollow", object, (where) => ({ ...where, object, key, to }), {
        key: `omapGet ${imageLabel(ref, object)} ${key}`,
      }),
    omapWrite: (ref, object, write) => {
      const parts = changeOf(write);
      return inPool(ref, "omapWrite", object, (where) => ({ ...where, object, change: parts }), {
        key: `omapWrite ${imageLabel(ref, object)} ${keysOf(parts).join(" ")}`,
        changes: true,
      });
    },
    objectRemove: (ref, object) =>
      inPool(ref, "objectRemove", object, (where) => ({ ...where, object }), { changes: true }),

    imageCreate: (ref, image, { objectSize, ...spec }) =>
      Effect.flatMap(orderOf("rbd_create", imageLabel(ref, image), objectSize), (order) =>
        change(ref, "imageCreate", image, (where) => ({ ...where, image, spec: { ...spec, order } }), {
          dataPool: spec.dataPool,
        }),
      ),
    imageId: (ref, image) => inPool(ref, "imageId", image, (where) => ({ ...where, image })),
    imageStatus: (ref, image) => inPool(ref, "imageStatus", image, (where) => ({ ...where, image })),
    imageGrow: (ref, image, sizeBytes) => change(ref, "imageGrow", image, (where) => ({ ...where, image, sizeBytes })),
    imageMend: (ref, image) =>
      change(ref, "imageMend", image, (where) => ({ ...where, image }), { limit: REBUILD_LIMIT }),
    imageHasData: (ref, image, whose) => inPool(ref, "imageHasData", image, (where) => ({ ...where, image, whose })),
    imageMetaGet: (ref, image, key) => inPool(ref, "imageMetaGet", image, (where) => ({ ...where, image, key })),
    imageMetaSet: (ref, image, entries) =>
      change(ref, "imageMetaSet", image, (where) => ({ ...where, image, entries: Object.entries(entries) })),

    trashMove: (ref, image) => change(ref, "trashMove", image, (where) => ({ ...where, image })),
    trashGet: (ref, id) => inPool(ref, "trashGet", id, (where) => ({ ...where, id })),
    trashList: (ref) => inPool(ref, "trashList", "", (where) => where, { subject: `the trash of ${wholePool(ref)}` }),
    trashRemove: (ref, id) =>
      change(ref, "trashRemove", id, (where) => ({ ...where, id }), { limit: trashRemoveLimit, pace: "slow" }),
    managerTrashRemove: (ref, id) =>
      managerUnavailable(
        inPool(ref, "managerTrashRemove", id, (where) => ({ ...where, id }), {
          limit: MANAGER_LIMIT,
          key: MANAGER,
          changes: true,
        }),
      ),
  };
};

const changeOf = ({ object, compare, set, remove }: OmapWrite): Arg<"omapWrite">["change"] => ({
  object,
  compare: Object.entries(compare ?? {}),
  set: Object.entries(set ?? {}),
  remove: remove ?? [],
});

const keysOf = ({ compare, set, remove }: Arg<"omapWrite">["change"]): readonly string[] => [
  ...compare.map(([key]) => key),
  ...set.map(([key]) => key),
  ...remove,
];
