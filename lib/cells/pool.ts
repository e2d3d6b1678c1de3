/**
 * A pool of cells (./cell.ts), at most so many as asked for, and the queue in front of them. The first cell starts with
 * the pool, so that a broken one is known at once; the others when a call would have to wait, and they end when no call
 * has needed them for ten seconds.
 *
 * Not here: what the cells do. A pool knows calls by name, limit and key only.
 *
 * 1. No call waits for ever: each has a limit, counted from the moment a cell takes it up.
 * 2. A cell that passes its limit is put aside and replaced; its call fails with `CellStuck`. Other calls go on.
 * 3. The thread of such a call may still act. While it does, further calls with the same key fail at once with
 *    `CellStuck`: nothing runs twice on one image or device.
 * 4. At most `maxAside` cells are put aside; then they are no longer replaced, and `healthy` says so.
 * 5. A call that has started is not abandoned by an interrupt: the caller waits for its end or its limit.
 * 6. Every call is answered, whatever becomes of its cell or of the pool; and only once the pool is as it will be:
 *    whoever gets the answer may call again at that very moment.
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { type Figure, Metrics } from "../telemetry/metrics.ts";
import { CELL_READY, type CellFailure, type CellReply, type CellRequest } from "./cell.ts";

/**
 * A blocking call answered with an errno (positive; 0 when the call failed in another way). `midway`: it had changed
 * something by then, or may have.
 */
export class CellErrno extends Data.TaggedError("CellErrno")<CellFailure> {}

/** A blocking call did not return within its limit, or an earlier one with the same key still has not. */
export class CellStuck extends Data.TaggedError("CellStuck")<{
  readonly op: string;
  readonly subject: string;
  readonly seconds: number;
}> {
  override get message() {
    return `${this.op} on ${this.subject} has not returned for ${this.seconds} s and still runs in the background`;
  }
}

/**
 * No cell answers the call. `ran`: a cell had begun it and ended, so that it is unknown whether the call took effect.
 * Otherwise no cell took it up.
 */
export class CellDown extends Data.TaggedError("CellDown")<{
  readonly op: string;
  readonly reason: string;
  readonly ran: boolean;
}> {
  override get message() {
    return this.ran
      ? `the worker that ran ${this.op} ended: ${this.reason}`
      : `no worker could run ${this.op}: ${this.reason}`;
  }
}

export type CellError = CellErrno | CellStuck | CellDown;

export interface CallOptions {
  /** Milliseconds that the call may take once a cell has taken it up. */
  readonly limit: number;
  /** What the call is about, for messages: an image, a device, a path. */
  readonly subject: string;
  /** Calls with one key never overlap a stuck one. Without a key the call is harmless when repeated. */
  readonly key?: string | undefined;
  /** The call has passed its limit, and its thread still uses what it was given. */
  readonly onAside?: (() => void) | undefined;
  /** The thread of such a call has come back, or ended. */
  readonly onBack?: (() => void) | undefined;
}

export interface CellCall {
  readonly op: string;
  readonly subject: string;
  readonly since: number;
}

export interface CellPool {
  readonly call: <A>(op: string, arg: unknown, options: CallOptions) => Effect.Effect<A, CellError>;
  /** What runs, waits and hangs just now, for metrics and for whoever asks why. */
  readonly state: () => {
    readonly running: readonly CellCall[];
    readonly waiting: number;
    /** How many there are now, busy or idle; those that hang are not among them. */
    readonly cells: number;
    readonly stuck: readonly CellCall[];
    readonly healthy: boolean;
  };
}

interface Job extends CellCall {
  readonly arg: unknown;
  readonly options: CallOptions;
  readonly settle: (result: Effect.Effect<unknown, CellError>) => void;
  started: boolean;
}

interface Cell {
  readonly worker: Worker;
  job: Job | undefined;
  timer: ReturnType<typeof setTimeout> | undefined;
  /** When its last call ended. */
  idleSince: number;
}

/** Long: a machine that boots, or emulates, has a reason to be slow. */
const READY_LIMIT = 60_000;

export interface PoolOptions {
  readonly name: string;
  readonly url: string | URL;
  readonly size: number;
  readonly maxAside?: number;
  /** How many cells stay whether or not there are calls: the first (1, the default), or none before the first call. */
  readonly kept?: 0 | 1;
  /** Milliseconds without a call after which one of the others ends. */
  readonly idleMs?: number;
}

/** A cell starts again in some 30 ms, and takes 3 MiB and more while it waits. */
const IDLE_MS = 10_000;

/** Starts the first cell, if it is to be kept, and fails when it can't start. Closing the scope ends them all. */
export const makeCellPool = (options: PoolOptions): Effect.Effect<CellPool, CellDown, Scope.Scope> =>
  Effect.gen(function* () {
    const cells = yield* Effect.acquireRelease(
      Effect.sync(() => new Cells(options)),
      (made) => Effect.sync(() => made.stop()),
    );
    yield* (yield* Metrics).add(() => figures(options.name, cells.state()));
    const failed = yield* Effect.promise(() => cells.start());
    return failed === undefined ? cells : yield* failed;
  });

const figures = (cells: string, { running, waiting, stuck }: ReturnType<CellPool["state"]>): Figure[] =>
  Object.entries({ running: running.length, waiting, stuck: stuck.length }).map(([state, value]) => ({
    name: "csi_rbd_cell_calls",
    help: "Blocking calls now, by the worker threads that make them: running, waiting for one, or past their limit.",
    labels: { cells, state },
    value,
  }));

class Cells implements CellPool {
  private readonly options: Required<PoolOptions>;
  private readonly idle: Cell[] = [];
  private readonly live = new Set<Cell>();
  private readonly queue: Job[] = [];
  private readonly stuck = new Map<Cell, Job>();
  private sequence = 0;
  private starting = 0;
  private stopped = false;
  private sweeper: ReturnType<typeof setInterval> | undefined;

  constructor(options: PoolOptions) {
    this.options = { maxAside: options.size * 4, kept: 1, idleMs: IDLE_MS, ...options };
  }

  start(): Promise<CellDown | undefined> {
    this.sweeper = setInterval(() => this.retire(), this.options.idleMs / 2).unref();
    return this.options.kept === 0 ? Promise.resolve(undefined) : this.spawn();
  }

  stop(): void {
    this.stopped = true;
    clearInterval(this.sweeper);
    const reason = "the driver stops";
    this.refuseAll(reason);
    for (const cell of this.live) this.lost(cell, reason);
  }

  state() {
    const running = [...this.live].flatMap((cell) => (cell.job === undefined ? [] : [cell.job]));
    return {
      running: running.map(describe),
      waiting: this.queue.length,
      cells: this.live.size,
      stuck: [...this.stuck.values()].map(describe),
      healthy: this.capacity() > 0,
    };
  }

  call<A>(op: string, arg: unknown, options: CallOptions): Effect.Effect<A, CellError> {
    return Effect.callback<A, CellError>((resume) => {
      let settled = false;
      let done = () => {};
      const job: Job = {
        op,
        arg,
        options,
        subject: options.subject,
        since: Date.now(),
        started: false,
        settle: (result) => {
          settled = true;
          resume(result as Effect.Effect<A, CellError>);
          done();
        },
      };
      const blocker = this.blocker(options.key);
      if (blocker !== undefined) {
        job.settle(Effect.fail(stuckError(blocker)));
        return;
      }
      if (this.stopped) {
        job.settle(Effect.fail(new CellDown({ op, reason: "the driver stops", ran: false })));
        return;
      }
      this.queue.push(job);
      this.pump();
      return Effect.suspend(() => {
        const waiting = this.queue.indexOf(job);
        if (waiting >= 0) this.queue.splice(waiting, 1);
        if (!job.started) return Effect.void;
        return Effect.callback<void>((finished) => {
          done = () => finished(Effect.void);
          if (settled) done();
        });
      });
    });
  }

  /** How many cells there may be now: as many as asked for, less those that hang beyond the limit. */
  private capacity(): number {
    return this.options.size - Math.max(0, this.stuck.size - this.options.maxAside);
  }

  private pump(): void {
    for (let job = this.queue[0]; job !== undefined; job = this.queue[0]) {
      const cell = this.idle.pop();
      if (cell !== undefined) {
        this.queue.shift();
        this.run(cell, job);
        continue;
      }
      if (this.capacity() > 0) break;
      this.refuseAll(`all ${this.options.name} cells hang; see the log for the calls that do`);
    }
    while (this.queue.length > this.starting && this.live.size + this.starting < this.capacity()) void this.spawn();
  }

  private refuseAll(reason: string): void {
    for (const job of this.queue.splice(0)) job.settle(Effect.fail(new CellDown({ op: job.op, reason, ran: false })));
  }

  private blocker(key: string | undefined): Job | undefined {
    if (key === undefined) return undefined;
    for (const job of this.stuck.values()) if (job.options.key === key) return job;
    return undefined;
  }

  private run(cell: Cell, job: Job): void {
    const begun = Object.assign(job, { since: Date.now(), started: true });
    const request: CellRequest = { id: ++this.sequence, op: job.op, arg: job.arg };
    cell.job = begun;
    cell.worker.onmessage = ({ data }: MessageEvent<CellReply>) => {
      if (data.id === request.id) this.replied(cell, begun, data);
    };
    cell.timer = setTimeout(() => this.putAside(cell, begun), job.options.limit);
    try {
      cell.worker.postMessage(request);
    } catch (error) {
      const message = `its argument can't be sent to a worker: ${String(error)}`;
      this.replied(cell, begun, { id: request.id, failed: { op: job.op, errno: 0, message, midway: false } });
    }
  }

  private replied(cell: Cell, job: Job, reply: CellReply): void {
    clearTimeout(cell.timer);
    cell.job = undefined;
    if (this.stuck.has(cell)) {
      this.back(cell);
      cell.worker.terminate();
      this.pump();
      return;
    }
    if (this.live.has(cell)) this.rest(cell);
    job.settle("ok" in reply ? Effect.succeed(reply.ok) : Effect.fail(new CellErrno(reply.failed)));
    this.pump();
  }

  private rest(cell: Cell): void {
    cell.idleSince = Date.now();
    this.idle.push(cell);
  }

  /** Calls go to the cell that rested last, so the one that rested longest is first in line. */
  private retire(): void {
    const before = Date.now() - this.options.idleMs;
    for (let cell = this.idle[0]; cell !== undefined && cell.idleSince <= before; cell = this.idle[0]) {
      if (this.live.size <= this.options.kept) return;
      this.lost(cell, "it was idle");
    }
  }

  private putAside(cell: Cell, job: Job): void {
    this.live.delete(cell);
    this.stuck.set(cell, job);
    job.options.onAside?.();
    job.settle(Effect.fail(stuckError(job)));
    if (job.options.key !== undefined) this.refuse(job.options.key, job);
    this.pump();
  }

  /** What waits for a cell and has the key of a call that hangs need not wait. */
  private refuse(key: string, blocker: Job): void {
    for (const job of this.queue.filter((waiting) => waiting.options.key === key)) {
      this.queue.splice(this.queue.indexOf(job), 1);
      job.settle(Effect.fail(stuckError(blocker)));
    }
  }

  /** The thread of a call that was put aside has come back, or ended. */
  private back(cell: Cell): void {
    const job = this.stuck.get(cell);
    if (job === undefined) return;
    this.stuck.delete(cell);
    job.options.onBack?.();
  }

  private spawn(): Promise<CellDown | undefined> {
    if (this.stopped) return Promise.resolve(undefined);
    this.starting += 1;
    return new Promise((resolve) => {
      // a cell's heap is nearly all garbage of calls: kept small, eight of them take 10 MiB less
      const worker = new Worker(this.options.url, { smol: true });
      const cell: Cell = { worker, job: undefined, timer: undefined, idleSince: 0 };
      let ready = false;
      const end = (reason: string) => {
        clearTimeout(timer);
        if (ready) return this.lost(cell, reason);
        ready = true;
        this.starting -= 1;
        cell.worker.terminate();
        // With no cell left to serve them, calls fail now; the next one tries again.
        if (this.live.size + this.starting === 0) this.refuseAll(`no ${this.options.name} cell can start: ${reason}`);
        resolve(new CellDown({ op: `start of a ${this.options.name} cell`, reason, ran: false }));
      };
      const timer = setTimeout(() => end("it was not ready in time"), READY_LIMIT);
      cell.worker.onerror = (event) => end(reasonIn(event.message));
      cell.worker.addEventListener("close", () => end("its thread closed"));
      cell.worker.onmessage = ({ data }: MessageEvent<unknown>) => {
        if (data !== CELL_READY || ready) return;
        clearTimeout(timer);
        ready = true;
        this.starting -= 1;
        if (this.stopped) {
          cell.worker.terminate();
          resolve(undefined);
          return;
        }
        this.live.add(cell);
        this.rest(cell);
        resolve(undefined);
        this.pump();
      };
    });
  }

  private lost(cell: Cell, reason: string): void {
    clearTimeout(cell.timer);
    this.back(cell);
    if (!this.live.delete(cell)) return;
    const at = this.idle.indexOf(cell);
    if (at >= 0) this.idle.splice(at, 1);
    cell.worker.terminate();
    cell.job?.settle(Effect.fail(new CellDown({ op: cell.job.op, reason, ran: true })));
    if (!this.stopped) this.pump();
  }
}

/** Of an uncaught error's report, which quotes the source, the line that says what it was. */
const reasonIn = (report: string): string =>
  report
    .split("\n")
    .find((line) => /^\s*(\w*Error|error)\b/.test(line))
    ?.trim() ?? report.trim();

const describe = ({ op, subject, since }: CellCall): CellCall => ({ op, subject, since });

const stuckError = (job: Job): CellStuck =>
  new CellStuck({ op: job.op, subject: job.subject, seconds: Math.round((Date.now() - job.since) / 1000) });
