/**
 * `CephLive`: the contract of ./ceph.ts over librados and librbd.
 *
 * Not here: the blocking calls themselves (./cell.ts and below), connections (./connection.ts), what an errno means
 * (./failure.ts).
 *
 * 1. No blocking call runs on this thread. Each method is one call in a cell, and has a limit.
 * 2. Ceph's own time-outs come first: the limit of a cell is past what they add up to.
 * 3. While a call hangs, the same call is not made a second time, and nothing else changes its image.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type CellDown, makeCellPool } from "../cells/pool.ts";
import { cellUrl } from "../cells/where.ts";
import type { CephCalls } from "./cell.ts";
import { Ceph, type CephService, type ClusterAccess, imageSubject, type OmapWrite, type PoolRef } from "./ceph.ts";
import { type Connection, makeConnections } from "./connection.ts";
import { type CephError, InvalidCall, ManagerUnavailable } from "./errors.ts";
import { type CallContext, EINVAL, toCephError } from "./failure.ts";

export interface CephLiveOptions {
  /** How many blocking calls run at once. */
  readonly cells?: number;
  /** An OSD that does not answer one operation for that long has failed it. */
  readonly osdTimeoutMs?: number;
  /** For calls that ask the monitors or the manager. */
  readonly monTimeoutMs?: number;
  readonly connectTimeoutMs?: number;
  /** A configuration file of Ceph, read if it is there. */
  readonly cephConf?: string;
  /** A connection that nobody used for that long is closed. */
  readonly idleMs?: number;
  /** Emptying the trash takes as long as an image is big. */
  readonly trashRemoveLimitMs?: number;
}

const DEFAULTS: Required<CephLiveOptions> = {
  cells: 8,
  osdTimeoutMs: 30_000,
  monTimeoutMs: 30_000,
  connectTimeoutMs: 30_000,
  cephConf: "/etc/ceph/ceph.conf",
  idleMs: 10 * 60_000,
  trashRemoveLimitMs: 6 * 60 * 60_000,
};

/** How many operations in a row may each use up the OSD time-out before a call is taken to hang. */
const OPERATIONS_LATE = 3;
const MARGIN = 10_000;
/** An object map is made anew from the objects, one by one. */
const REBUILD_LIMIT = 10 * 60_000;

type Arg<K extends keyof CephCalls> = Parameters<CephCalls[K]>[0];
type Answer<K extends keyof CephCalls> = ReturnType<CephCalls[K]>;

interface Ask extends CallContext {
  readonly limit: number;
  readonly key: string;
}

export const makeCephLive = (given: CephLiveOptions) =>
  Effect.gen(function* () {
    const options = { ...DEFAULTS, ...given };
    const cells = yield* makeCellPool({ name: "Ceph", url: cellUrl("lib/ceph/cell.ts"), size: options.cells });
    const connections = yield* makeConnections(cells, options);
    const usual = OPERATIONS_LATE * options.osdTimeoutMs + MARGIN;
    const monitors = options.monTimeoutMs;

    const ask = <K extends keyof CephCalls>(
      access: ClusterAccess,
      op: K,
      arg: (cluster: bigint) => Arg<K>,
      { limit, key, ...context }: Ask,
    ): Effect.Effect<Answer<K>, CephError> =>
      connections.use(access, (connection: Connection) => {
        const call = cells.call<Answer<K>>(op, arg(connection.handle), {
          limit,
          subject: context.subject,
          key: `${access.monitors.join(",")} ${key}`,
          onAside: () => {
            connection.aside += 1;
          },
          onBack: () => connections.back(connection),
        });
        return Effect.mapError(call, (error) => {
          if (error._tag === "CellDown") connection.damaged = true;
          return toCephError(error, context);
        });
      });

    const contextOf = ({ access, pool, namespace }: PoolRef, subject: string): CallContext => ({
      subject,
      user: access.user,
      pool,
      namespace,
    });

    /** A call in a pool about `name`, which changes nothing or may be repeated. */
    const inPool = <K extends keyof CephCalls>(
      ref: PoolRef,
      op: K,
      name: string,
      arg: (where: { cluster: bigint; pool: string; namespace: string }) => Arg<K>,
      more: Partial<Ask> = {},
    ) => {
      const subject = imageSubject(ref, name);
      const { pool, namespace } = ref;
      return ask(ref.access, op, (cluster) => arg({ cluster, pool, namespace }), {
        ...contextOf(ref, subject),
        limit: usual,
        key: `${op} ${subject}`,
        ...more,
      });
    };

    /** A call that changes an image: while it hangs, no other that does is made. */
    const change = <K extends keyof CephCalls>(
      ref: PoolRef,
      op: K,
      name: string,
      arg: (where: { cluster: bigint; pool: string; namespace: string }) => Arg<K>,
      more: Partial<Ask> = {},
    ) => inPool(ref, op, name, arg, { key: `image ${imageSubject(ref, name)}`, ...more });

    const pools = (access: ClusterAccess, pool: string): Ask => ({
      subject: access.monitors.join(","),
      user: access.user,
      pool,
      limit: monitors,
      key: `pool ${pool}`,
    });

    const service: CephService = {
      poolId: (access, pool) => ask(access, "poolId", (cluster) => ({ cluster, pool }), pools(access, pool)),
      poolName: (access, id) => ask(access, "poolName", (cluster) => ({ cluster, id }), pools(access, `#${id}`)),

      omapGet: (ref, object, keys) =>
        inPool(ref, "omapGet", object, (where) => ({ ...where, object, keys }), {
          key: `omapGet ${imageSubject(ref, object)} ${keys.join(" ")}`,
        }),
      omapWrite: (ref, object, write) => {
        const parts = changeOf(write);
        return inPool(ref, "omapWrite", object, (where) => ({ ...where, object, change: parts }), {
          key: `omapWrite ${imageSubject(ref, object)} ${keysOf(parts).join(" ")}`,
        });
      },
      objectRemove: (ref, object) => inPool(ref, "objectRemove", object, (where) => ({ ...where, object })),

      imageCreate: (ref, image, { objectSize, ...spec }) => {
        const order = objectSize === undefined ? undefined : log2(objectSize);
        if (order === "none") {
          return Effect.fail(new InvalidCall({ op: "rbd_create", subject: imageSubject(ref, image), errno: EINVAL }));
        }
        return change(ref, "imageCreate", image, (where) => ({ ...where, image, spec: { ...spec, order } }), {
          dataPool: spec.dataPool,
        });
      },
      imageId: (ref, image) => inPool(ref, "imageId", image, (where) => ({ ...where, image })),
      imageStatus: (ref, image) => inPool(ref, "imageStatus", image, (where) => ({ ...where, image })),
      imageGrow: (ref, image, sizeBytes) =>
        change(ref, "imageGrow", image, (where) => ({ ...where, image, sizeBytes })),
      imageMend: (ref, image) =>
        change(ref, "imageMend", image, (where) => ({ ...where, image }), { limit: REBUILD_LIMIT }),
      imageHasData: (ref, image) => inPool(ref, "imageHasData", image, (where) => ({ ...where, image })),
      imageMetaGet: (ref, image, key) => inPool(ref, "imageMetaGet", image, (where) => ({ ...where, image, key })),
      imageMetaSet: (ref, image, entries) =>
        change(ref, "imageMetaSet", image, (where) => ({ ...where, image, entries: Object.entries(entries) })),

      trashMove: (ref, image) => change(ref, "trashMove", image, (where) => ({ ...where, image })),
      trashGet: (ref, id) => inPool(ref, "trashGet", id, (where) => ({ ...where, id })),
      trashList: (ref) => inPool(ref, "trashList", "", (where) => where, { subject: `the trash of ${wholePool(ref)}` }),
      trashRemove: (ref, id) =>
        change(ref, "trashRemove", id, (where) => ({ ...where, id }), { limit: options.trashRemoveLimitMs }),
      managerTrashRemove: (ref, id) =>
        // one key for all: a manager that hangs holds one cell, not one for each image
        inPool(ref, "managerTrashRemove", id, (where) => ({ ...where, id }), { limit: monitors, key: "manager" }).pipe(
          Effect.catchTag("CallStuck", ({ op, subject, reason }) =>
            Effect.fail(new ManagerUnavailable({ op, subject, reason })),
          ),
        ),
    };
    return { service, state: () => cells.state() };
  });

const wholePool = ({ pool, namespace }: PoolRef): string => (namespace === "" ? pool : `${pool}/${namespace}`);

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

const log2 = (size: bigint): bigint | "none" => {
  if (size <= 0n || (size & (size - 1n)) !== 0n) return "none";
  return BigInt(size.toString(2).length - 1);
};

export const CephLive = (options: CephLiveOptions): Layer.Layer<Ceph, CellDown> =>
  Layer.effect(
    Ceph,
    Effect.map(makeCephLive(options), ({ service }) => Ceph.of(service)),
  );
