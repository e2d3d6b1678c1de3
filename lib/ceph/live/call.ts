/**
 * How a method of the `Ceph` service becomes a call in a cell: over which connection, within which limit, kept apart
 * from which other calls, and its failure a typed error.
 *
 * Not here: which methods there are (./core.ts and its siblings).
 *
 * 1. Ceph's own time-outs come first: the limit of a cell is past what they add up to.
 * 2. While a call hangs, the same call is not made a second time, and nothing else changes its image: whichever cells
 *    either is for.
 * 3. Calls that wait for the monitors, or take as long as an image is big, have cells of their own: however many there
 *    are, the quick ones do not wait for them.
 */
import type * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { CellStuck } from "../../cells/errors.ts";
import type { CellPool } from "../../cells/pool.ts";
import type { CephCalls } from "../cell/cell.ts";
import { imageLabel } from "../ceph.ts";
import { type CephError, InvalidCall, ManagerUnavailable } from "../errors.ts";
import type { ClusterAccess, PoolRef } from "../rados.ts";
import type { Connection, Connections } from "./connection.ts";
import { type CallContext, EINVAL, toCephError } from "./errno.ts";

export type Arg<K extends keyof CephCalls> = Parameters<CephCalls[K]>[0];
export type Answer<K extends keyof CephCalls> = ReturnType<CephCalls[K]>;

export interface Ask extends CallContext {
  readonly limit: Duration.Duration;
  /** Calls of one key are not made while one of them hangs. Without a key a call is harmless when repeated. */
  readonly key: string | undefined;
  /** Which cells make it. */
  readonly pace: "quick" | "slow";
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
  /** A call in a pool about `name`, which changes nothing unless it says so, or may be repeated. */
  readonly inPool: InPool;
  /** A call that changes an image: while it hangs, no other that does is made. */
  readonly change: InPool;
  /** For calls that ask the monitors. */
  readonly monitorLimit: Duration.Duration;
}

/** As for other calls, with what is particular of this one. */
export type More = Partial<Ask>;

type InPool = <K extends keyof CephCalls>(
  ref: PoolRef,
  op: K,
  name: string,
  arg: (where: Where) => Arg<K>,
  more?: More,
) => Effect.Effect<Answer<K>, CephError>;

/** How many operations in a row may each use up the OSD time-out before a call is taken to hang. */
const OPERATIONS_LATE = 3;
const MARGIN = Duration.seconds(10);

/** For messages about calls that hang. */
export const ADVICE = 'Check "ceph -s".';

export interface Cells {
  readonly quick: CellPool;
  readonly slow: CellPool;
}

export const makeAsking = (
  cells: Cells,
  connections: Connections,
  limits: { readonly osdTimeout: Duration.Duration; readonly monTimeout: Duration.Duration },
  clock: Clock.Clock,
): Asking => {
  const usual = Duration.sum(Duration.times(limits.osdTimeout, OPERATIONS_LATE), MARGIN);
  const seconds = () => Number(clock.monotonicTimeNanosUnsafe() / 1_000_000_000n);
  /** What hangs, by key: each pool of cells knows of its own only. */
  const hanging = new Map<string, { readonly op: string; readonly subject: string; readonly since: number }>();

  const ask: Asking["ask"] = (access, op, arg, { limit, key: name, pace, ...context }) =>
    connections.use(access, (connection: Connection) => {
      const { subject } = context;
      const key = name === undefined ? undefined : `${access.monitors.join(",")} ${name}`;
      const blocker = key === undefined ? undefined : hanging.get(key);
      if (blocker !== undefined) {
        const { op: hung, subject: its, since } = blocker;
        const stuck = new CellStuck({ op: hung, subject: its, seconds: seconds() - since, advice: ADVICE });
        return Effect.fail(toCephError(stuck, context));
      }
      const mine = { op, subject, since: 0 };
      const call = cells[pace].call<Answer<typeof op>>(op, arg(connection.handle), {
        limit,
        subject,
        key,
        onAside: () => {
          connection.aside += 1;
          mine.since = seconds() - Math.round(Duration.toSeconds(limit));
          if (key !== undefined) hanging.set(key, mine);
        },
        onBack: () => {
          if (key !== undefined && hanging.get(key) === mine) hanging.delete(key);
          connections.back(connection);
        },
      });
      return Effect.mapError(call, (error) => {
        if (error._tag === "CellDown" && error.ran) connection.damaged = true;
        return toCephError(error, context);
      });
    });

  const inPool: InPool = (ref, op, name, arg, more = {}) => {
    const { access, pool, namespace } = ref;
    const subject = imageLabel(ref, name);
    return ask(access, op, (cluster) => arg({ cluster, pool, namespace }), {
      subject,
      changes: false,
      user: access.user,
      pool,
      namespace,
      limit: usual,
      key: `${op} ${subject}`,
      pace: "quick",
      ...more,
    });
  };

  const change: InPool = (ref, op, name, arg, more = {}) =>
    inPool(ref, op, name, arg, { key: `image ${imageLabel(ref, name)}`, changes: true, ...more });

  return { ask, inPool, change, monitorLimit: limits.monTimeout };
};

/** Of a call that the monitors answer, about a pool or the cluster. */
export const clusterAsk = (access: ClusterAccess, pool: string, key: string, limit: Duration.Duration): Ask => ({
  subject: pool === "" ? access.monitors.join(",") : pool,
  changes: false,
  user: access.user,
  pool,
  limit,
  key,
  pace: "quick",
});

export const wholePool = ({ pool, namespace }: PoolRef): string => (namespace === "" ? pool : `${pool}/${namespace}`);

/** One key for all: a manager that hangs holds one cell, not one for each image. */
export const MANAGER = "manager";

/**
 * For handing the manager a task, which it answers in a few. Short: whoever deletes a volume must not wait
 * for a manager that is away, and a task that it takes after all is harmless next to the driver doing it itself. While
 * such a call hangs, the next ones know at once.
 */
export const MANAGER_LIMIT = Duration.millis(800);

export const managerUnavailable = <A>(call: Effect.Effect<A, CephError>): Effect.Effect<A, CephError> =>
  Effect.catchTag(call, "CallStuck", ({ op, subject, reason }) =>
    Effect.fail(new ManagerUnavailable({ op, subject, reason })),
  );

/** librbd takes the size of objects as a power of two. */
export const orderOf = (
  op: string,
  subject: string,
  objectSize: bigint | undefined,
): Effect.Effect<bigint | undefined, InvalidCall> => {
  if (objectSize === undefined) return Effect.succeed(undefined);
  if (objectSize <= 0n || (objectSize & (objectSize - 1n)) !== 0n) {
    return Effect.fail(new InvalidCall({ op, subject, errno: EINVAL }));
  }
  return Effect.succeed(BigInt(objectSize.toString(2).length - 1));
};
