/**
 * How a method of the `Ceph` service becomes a call in a cell: over which connection, within which limit, kept apart
 * from which other calls, and its failure a typed error.
 *
 * Not here: which methods there are (./live-core.ts and its siblings).
 *
 * 1. Ceph's own time-outs come first: the limit of a cell is past what they add up to.
 * 2. While a call hangs, the same call is not made a second time, and nothing else changes its image.
 */
import * as Effect from "effect/Effect";
import type { CellPool } from "../cells/pool.ts";
import type { CephCalls } from "./cell.ts";
import { type ClusterAccess, imageSubject, type PoolRef } from "./ceph.ts";
import type { Connection, Connections } from "./connection.ts";
import type { CephError } from "./errors.ts";
import { type CallContext, toCephError } from "./failure.ts";

export type Arg<K extends keyof CephCalls> = Parameters<CephCalls[K]>[0];
export type Answer<K extends keyof CephCalls> = ReturnType<CephCalls[K]>;

export interface Ask extends CallContext {
  /** Milliseconds. */
  readonly limit: number;
  /** Calls of one key are not made while one of them hangs. */
  readonly key: string;
}

/** A pool as cells take it. */
export interface Where {
  readonly cluster: bigint;
  readonly pool: string;
  readonly namespace: string;
}

export interface Asking {
  readonly ask: <K extends keyof CephCalls>(
    access: ClusterAccess,
    op: K,
    arg: (cluster: bigint) => Arg<K>,
    about: Ask,
  ) => Effect.Effect<Answer<K>, CephError>;
  /** A call in a pool about `name`, which changes nothing or may be repeated. */
  readonly inPool: InPool;
  /** A call that changes an image: while it hangs, no other that does is made. */
  readonly change: InPool;
  /** For calls that ask the monitors or the manager. */
  readonly monitorLimit: number;
}

type InPool = <K extends keyof CephCalls>(
  ref: PoolRef,
  op: K,
  name: string,
  arg: (where: Where) => Arg<K>,
  more?: Partial<Ask>,
) => Effect.Effect<Answer<K>, CephError>;

/** How many operations in a row may each use up the OSD time-out before a call is taken to hang. */
const OPERATIONS_LATE = 3;
const MARGIN = 10_000;

export const makeAsking = (
  cells: CellPool,
  connections: Connections,
  limits: { readonly osdTimeoutMs: number; readonly monTimeoutMs: number },
): Asking => {
  const usual = OPERATIONS_LATE * limits.osdTimeoutMs + MARGIN;

  const ask: Asking["ask"] = (access, op, arg, { limit, key, ...context }) =>
    connections.use(access, (connection: Connection) => {
      const call = cells.call<Answer<typeof op>>(op, arg(connection.handle), {
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

  const inPool: InPool = (ref, op, name, arg, more = {}) => {
    const { access, pool, namespace } = ref;
    const subject = imageSubject(ref, name);
    return ask(access, op, (cluster) => arg({ cluster, pool, namespace }), {
      subject,
      user: access.user,
      pool,
      namespace,
      limit: usual,
      key: `${op} ${subject}`,
      ...more,
    });
  };

  const change: InPool = (ref, op, name, arg, more = {}) =>
    inPool(ref, op, name, arg, { key: `image ${imageSubject(ref, name)}`, ...more });

  return { ask, inPool, change, monitorLimit: limits.monTimeoutMs };
};
