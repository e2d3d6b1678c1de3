/**
 * `Rados`, `Rbd`, `Manager` and `Blocklist` over librados and librbd.
 *
 * Not here: the methods (./rados.ts, ./images.ts, ./snapshots.ts, ./groups.ts, ./manager.ts, ./blocklist.ts), how each becomes a call in
 * a cell (./call.ts), connections (./connection.ts), the blocking calls themselves (lib/ceph/cell/cell.ts and below).
 *
 * 1. No blocking call runs on this thread. Each method is one call in a cell, and has a limit.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type * as Scope from "effect/Scope";
import type { CellDown } from "../../cells/errors.ts";
import { type CellPool, makeCellPool } from "../../cells/pool.ts";
import { cellUrl } from "../../cells/where.ts";
import { blocklistCalls } from "./blocklist.ts";
import { type Ceph, type CephCalls, cephLayer } from "../ceph.ts";
import { ADVICE, type Cells, makeCalls } from "./call.ts";
import { makeConnections } from "./connection.ts";
import { groupCalls } from "./groups.ts";
import { imageCalls } from "./images.ts";
import { managerCalls } from "./manager.ts";
import { radosCalls } from "./rados.ts";
import { snapshotCalls } from "./snapshots.ts";

export interface CephLiveOptions {
  /** Number of blocking calls that run at once. */
  readonly cells?: number;
  /** Further calls that are slow by nature: those that wait for much data. */
  readonly slowCells?: number;
  /**
   * Further calls that wait for the monitors. All that wait at once share the monitors' next proposal, so there are
   * as many as 64 snapshots at once need, and as many that become ready behind their answers.
   */
  readonly waitingCells?: number;
  /** An operation fails if an OSD does not answer it for that long. */
  readonly osdTimeout?: Duration.Duration;
  /** Limit of a call that the monitors or the manager answer. */
  readonly monTimeout?: Duration.Duration;
  readonly connectTimeout?: Duration.Duration;
  /** A configuration file of Ceph; it may be absent. */
  readonly cephConf?: string;
  /** A connection that no call used for that long is closed. */
  readonly idle?: Duration.Duration;
  /** Limit of a removal from the trash, which takes as long as the image is big. */
  readonly trashRemoveLimit?: Duration.Duration;
  /** Limit of a flatten, and of reading a difference. */
  readonly flattenLimit?: Duration.Duration;
  /** Limit of a sparsify, which reads all that the image holds. */
  readonly sparsifyLimit?: Duration.Duration;
  /** Finds the code of a cell, as `cellUrl` does. */
  readonly cellUrl?: (path: string) => string;
}

const DEFAULTS: Required<CephLiveOptions> = {
  cells: 8,
  slowCells: 16,
  waitingCells: 128,
  osdTimeout: Duration.seconds(30),
  monTimeout: Duration.seconds(30),
  connectTimeout: Duration.seconds(30),
  cephConf: "/etc/ceph/ceph.conf",
  idle: Duration.minutes(10),
  trashRemoveLimit: Duration.hours(6),
  flattenLimit: Duration.hours(6),
  sparsifyLimit: Duration.hours(6),
  cellUrl,
};

/** Calls to a pool or an OSD that does not answer hold up those to others for that long, not until their limit. */
const PATIENCE = Duration.seconds(5);

/** Bursts of snapshots follow each other; each cell that starts and ends costs 14 ms of CPU. */
const WAITING_IDLE = Duration.minutes(1);

export interface LiveCeph {
  readonly service: CephCalls;
  readonly state: () => Readonly<Record<keyof Cells, ReturnType<CellPool["state"]>>>;
}

export const makeCephLive = Effect.fn("ceph.live")(function* (
  given: CephLiveOptions,
): Effect.fn.Return<LiveCeph, CellDown, Scope.Scope> {
  const options = { ...DEFAULTS, ...given };
  const url = options.cellUrl("lib/ceph/cell/cell.ts");
  const cells = yield* Effect.all(
    {
      quick: makeCellPool({ name: "Ceph", url, size: options.cells, patience: PATIENCE, advice: ADVICE }),
      slow: makeCellPool({ name: "slow Ceph", url, size: options.slowCells, kept: 0, advice: ADVICE }),
      waiting: makeCellPool({
        name: "waiting Ceph",
        url: options.cellUrl("lib/ceph/cell/waiting-cell.ts"),
        size: options.waitingCells,
        kept: 0,
        // those that hang, as long as the monitors have no quorum; each has a thread and some MiB
        maxAside: 32,
        idle: WAITING_IDLE,
        advice: ADVICE,
      }),
    },
    { concurrency: "unbounded" },
  );
  const calls = yield* makeCalls(cells, yield* makeConnections(cells.quick, options), options);
  const service: CephCalls = {
    ...(yield* radosCalls(calls)),
    ...imageCalls(calls, options),
    ...snapshotCalls(calls, options.flattenLimit, Math.ceil(options.cells / 2), Math.ceil(options.slowCells / 2)),
    ...groupCalls(calls),
    ...managerCalls(calls),
    ...blocklistCalls(calls),
  };
  const state = () => ({ quick: cells.quick.state(), slow: cells.slow.state(), waiting: cells.waiting.state() });
  return { service, state };
});

export const cephLayerLive = (options: CephLiveOptions): Layer.Layer<Ceph, CellDown> =>
  Layer.unwrap(Effect.map(makeCephLive(options), ({ service }) => cephLayer(service)));
