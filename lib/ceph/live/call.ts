/**
 * How a method of a service becomes a call in a cell: over which connection, within which limit, kept apart from which
 * other calls, and its failure a typed error.
 *
 * Not here: which methods there are (./rados.ts, ./images.ts, ./snapshots.ts, ./groups.ts, ./manager.ts,
 * ./blocklist.ts).
 *
 * 1. Ceph's own time-outs come first: the limit of a cell is longer than their sum.
 * 2. While a call hangs, the same call is not made a second time, and nothing else changes its image, in whichever cells.
 * 3. Calls that wait for the monitors, and those that take as long as an image is big, have cells of their own: however
 *    many there are, the quick ones do not wait for them, nor the first kind for the second. A call that is quick but for
 *    some images holds up others for seconds at most (./live.ts, PATIENCE).
 * 4. Calls to one pool do not wait for those to another one that does not answer.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { CellStuck } from "../../cells/errors.ts";
import type { CellPool } from "../../cells/pool.ts";
import type { CellCalls } from "../cell/cell.ts";
import { imageLabel } from "../label.ts";
import type { CephError } from "../errors.ts";
import type { ClusterAccess, PoolRef } from "../rados.ts";
import type { Connection, Connections } from "./connection.ts";
import { type CallContext, toCephError } from "./errno.ts";

type Op = Extract<keyof CellCalls, string>;
type Arg<K extends Op> = Parameters<CellCalls[K]>[0];
type Answer<K extends Op> = Effect.Effect<ReturnType<CellCalls[K]>, CephError>;

export interface About extends CallContext {
  readonly limit: Duration.Duration;
  /** Calls of one key are not made while one of them hangs. Without a key a call is harmless when repeated. */
  readonly key: string | undefined;
  /** See `CallOptions`. */
  readonly onLeave?: () => void;
  /** Which cells make it. */
  readonly pace: "quick" | "slow" | "waiting";
}

/** A pool as cells take it. */
interface Where {
  readonly cluster: bigint;
  readonly pool: string;
  readonly namespace: string;
}

/** The values of a cell's argument that a method passes on, in the order of the method's parameters. */
type Values<K extends Op, Names extends readonly (keyof Arg<K>)[]> = {
  readonly [I in keyof Names]: Arg<K>[Names[I]];
};

/** `unknown`, which is not a method, if a field of the argument is missing: then the service does not compile. */
type Method<K extends Op, Names extends readonly (keyof Arg<K>)[]> =
  Exclude<keyof Arg<K>, keyof Where | Names[number]> extends never
    ? (pool: PoolRef, ...values: Values<K, Names>) => Answer<K>
    : unknown;

/** The properties in which a call differs from others of its kind; fixed, or computed from the arguments. */
type Particular<K extends Op, Names extends readonly (keyof Arg<K>)[]> =
  | Partial<About>
  | ((pool: PoolRef, ...values: Values<K, Names>) => Partial<About>);

type MethodOf = <K extends Op, const Names extends readonly (keyof Arg<K>)[]>(
  op: K,
  names: Names,
  particular?: Particular<K, Names>,
) => Method<K, Names>;

export interface Calls {
  /** The method `(pool, …)` that makes the call `op` with its further arguments under these names. */
  readonly call: MethodOf;
  /** Likewise, for one that changes the image that comes first: while it hangs, no other that does is made. */
  readonly change: MethodOf;
  /** Makes one call in a pool. `name` stands for it in messages. */
  readonly inPool: <K extends Op>(
    pool: PoolRef,
    op: K,
    name: string,
    arg: Omit<Arg<K>, keyof Where>,
    particular?: Partial<About>,
  ) => Answer<K>;
  /** Makes one call that the monitors or the manager answer. */
  readonly inCluster: <K extends Op>(
    access: ClusterAccess,
    op: K,
    arg: Omit<Arg<K>, "cluster">,
    about: {
      readonly key: string;
      readonly pool?: string;
      readonly subject?: string;
      readonly limit?: Duration.Duration;
      readonly changes?: boolean;
    },
  ) => Answer<K>;
}

/** What calls on a pool have in common: no other pool waits for this one. */
export const placeOf = ({ monitors }: ClusterAccess, pool: string): string => `${monitors.join(",")} ${pool}`;

/** How many operations in a row may each use up the OSD time-out before a call is taken to hang. */
const OPERATIONS_LATE = 3;
const MARGIN = Duration.seconds(10);

/** Ends the message about a call that hangs. */
export const ADVICE = 'Check "ceph -s".';

export interface Cells {
  readonly quick: CellPool;
  /** Those that take as long as an image is big. */
  readonly slow: CellPool;
  /** Those that wait for the monitors: only what lib/ceph/cell/waiting-cell.ts serves. */
  readonly waiting: CellPool;
}

export interface Limits {
  readonly osdTimeout: Duration.Duration;
  readonly monTimeout: Duration.Duration;
}

export const makeCalls = (cells: Cells, connections: Connections, limits: Limits): Effect.Effect<Calls> =>
  Effect.map(Clock.Clock, (clock) => {
    const usual = Duration.sum(Duration.times(limits.osdTimeout, OPERATIONS_LATE), MARGIN);
    const one = caller(cells, connections, clock);

    const inPool: Calls["inPool"] = (ref, op, name, arg, particular) => {
      const { access, pool, namespace } = ref;
      const subject = imageLabel(ref, name);
      return one(access, op, (cluster) => ({ ...arg, cluster, pool, namespace }), {
        subject,
        changes: false,
        user: access.user,
        pool,
        namespace,
        limit: usual,
        key: `${op} ${subject}`,
        pace: "quick",
        ...particular,
      });
    };

    const inCluster: Calls["inCluster"] = (access, op, arg, about) =>
      one(access, op, (cluster) => ({ ...arg, cluster }), {
        subject: access.monitors.join(","),
        changes: false,
        user: access.user,
        pool: "",
        limit: limits.monTimeout,
        pace: "quick",
        ...about,
      });

    const method =
      (general: (pool: PoolRef, name: string) => Partial<About>): MethodOf =>
      (op, names, particular = {}) => {
        const made = (pool: PoolRef, ...values: Values<typeof op, typeof names>) => {
          const arg = Object.fromEntries(names.map((name, i) => [name, values[i]]));
          const name = typeof values[0] === "string" ? values[0] : "";
          const own = typeof particular === "function" ? particular(pool, ...values) : particular;
          return inPool(pool, op, name, arg as never, { ...general(pool, name), ...own });
        };
        return made;
      };
    const call = method(() => ({}));
    const change = method((pool, image) => ({ key: `image ${imageLabel(pool, image)}`, changes: true }));

    return { call, change, inPool, inCluster };
  });

type One = <K extends Op>(access: ClusterAccess, op: K, arg: (cluster: bigint) => unknown, about: About) => Answer<K>;

/** Makes one call in a cell, over a connection, unless another call with its key hangs. */
const caller = (cells: Cells, connections: Connections, clock: Clock.Clock): One => {
  const seconds = () => Number(clock.monotonicTimeNanosUnsafe() / 1_000_000_000n);
  /** The calls that hang, by key. Each pool of cells knows only its own. */
  const hanging = new Map<string, { readonly op: string; readonly subject: string; readonly since: number }>();

  return (access, op, arg, { limit, key: name, pace, onLeave, ...context }) =>
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
      const call = cells[pace].call<ReturnType<CellCalls[typeof op]>>(op, arg(connection.handle), {
        limit,
        subject,
        key,
        place: placeOf(access, context.pool),
        onLeave,
        onLost: () => void (connection.damaged = true),
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
      return Effect.mapError(call, (error) => toCephError(error, context));
    });
};
