/**
 * A pool of cells (./cell.ts), at most so many as asked for. The first cell starts with the pool, so that a broken one
 * is known at once; the others when a call would have to wait, and they end when no call has needed them for ten
 * seconds.
 *
 * Not here: the calls themselves. A pool knows only their name, limit and key.
 *
 * 1. No call runs for ever: each has a limit, which begins when a cell takes the call up.
 * 2. A cell that passes its limit is put aside and replaced; its call fails with `CellStuck`. Other calls go on.
 * 3. The thread of such a call may still act. Until it ends, further calls with the same key fail at once with
 *    `CellStuck`: nothing runs twice on one image or device.
 * 4. At most `maxAside` cells are put aside; then they are no longer replaced, and `healthy` is false.
 * 5. A call that runs longer than the pool's patience holds up no other: while calls wait, a further cell starts in its
 *    place, long before its limit. The cells that are put aside and those further ones are `maxAside` at most.
 * 6. A call that has started is not abandoned by an interrupt: the caller waits for its end or its limit. The call is told
 *    (`onLeave`), and may end early.
 * 7. Callers take turns, and so do the places that calls depend on: many calls of one kind of RPC do not delay those of
 *    another, nor many calls to a pool that does not answer those to another; and of one kind the caller goes first that
 *    began first.
 * 8. Every call is answered, whatever happens to its cell or to the pool. The state of the pool changes before the answer,
 *    so that a caller can make the next call at once.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { type Figure, Metrics, Timings } from "../telemetry/metrics.ts";
import { childSpan } from "../telemetry/tracing.ts";
import { type Alarm, makeAlarm } from "./alarm.ts";
import { Caller } from "./caller.ts";
import type { CellReply, CellRequest } from "./cell.ts";
import { type Cell, Crew } from "./crew.ts";
import { CellDown, CellErrno, type CellError } from "./errors.ts";
import { type CallOptions, type CellCall, type Job, Waiting } from "./job.ts";
import { Quarantine } from "./quarantine.ts";

export interface CellPool {
  readonly call: <A>(op: string, arg: unknown, options: CallOptions) => Effect.Effect<A, CellError>;
  /** The calls that run, wait and hang at this moment. */
  readonly state: () => {
    readonly running: readonly CellCall[];
    readonly waiting: number;
    /** Cells that are busy or idle, without those that hang. */
    readonly cells: number;
    readonly stuck: readonly CellCall[];
    readonly healthy: boolean;
  };
}

export interface PoolOptions {
  /** Stands before "calls" in messages. */
  readonly name: string;
  readonly url: string | URL;
  readonly size: number;
  readonly maxAside?: number;
  /** A call that runs longer no longer counts among the `size`. By default each does until its limit. */
  readonly patience?: Duration.Duration;
  /** Number of cells that stay when there are no calls. With 0 none starts before the first call. */
  readonly kept?: 0 | 1;
  /** Another cell ends after that long without a call. */
  readonly idle?: Duration.Duration;
  /** A sentence that says what to check when calls hang. */
  readonly advice?: string;
}

const DEFAULTS = {
  kept: 1,
  // a cell starts again in some 30 ms, and takes 3 MiB and more while it waits
  idle: Duration.seconds(10),
  patience: Duration.infinity,
  advice: "Look in the log for the calls that hang.",
} as const;

/** Starts the first cell, if one is kept, and fails if it cannot start. All cells end when the scope closes. */
export const makeCellPool = (options: PoolOptions): Effect.Effect<CellPool, CellDown, Scope.Scope> =>
  Effect.gen(function* () {
    const runFork = Effect.runForkWith(yield* Effect.context());
    const timings = yield* Timings;
    let cells: Cells | undefined;
    const alarm = yield* makeAlarm((now) => cells?.ring(now));
    const pool = yield* Effect.acquireRelease(
      Effect.sync(() => new Cells(options, alarm, timings, (line) => void runFork(line))),
      (made) => Effect.sync(() => made.stop()),
    );
    cells = pool;
    yield* (yield* Metrics).add(() => figures(options.name, pool.state()));
    if (options.kept !== 0) yield* pool.start();
    return pool;
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
  private readonly waiting = new Waiting();
  private readonly crew: Crew;
  private readonly stuck: Quarantine;
  private sequence = 0;
  private stopped = false;

  constructor(
    options: PoolOptions,
    private readonly alarm: Alarm,
    private readonly timings: Timings | undefined,
    log: (line: Effect.Effect<void>) => void,
  ) {
    this.options = { maxAside: options.size * 4, ...DEFAULTS, ...options };
    const { url, kept, idle, patience, name, advice } = this.options;
    const onEnd = (cell: Cell, reason: string) => this.lost(cell, reason);
    const times = { idleMs: Duration.toMillis(idle), patienceMs: Duration.toMillis(patience) };
    this.crew = new Crew({ url, kept, ...times, onEnd }, alarm);
    this.stuck = new Quarantine({ name, advice, now: alarm.now, log });
  }

  /** Fails when no cell can start. */
  start(): Effect.Effect<void, CellDown> {
    return Effect.callback((resume) => {
      this.startOne((failure) => resume(failure === undefined ? Effect.void : Effect.fail(failure)));
    });
  }

  stop(): void {
    this.stopped = true;
    this.refuseAll(STOPPING);
    for (const cell of this.crew.started()) this.lost(cell, "the driver is stopping");
  }

  state() {
    return {
      running: this.crew.running().map(described),
      waiting: this.waiting.size,
      cells: this.crew.started().length,
      stuck: this.stuck.all().map(described),
      healthy: this.places(0) > 0,
    };
  }

  call<A>(op: string, arg: unknown, options: CallOptions): Effect.Effect<A, CellError> {
    const about = { name: op, attributes: { cells: this.options.name, subject: options.subject } };
    const made = Effect.flatMap(Caller, (caller) => this.made<A>(op, arg, options, caller));
    return childSpan("client", about, made);
  }

  private made<A>(op: string, arg: unknown, options: CallOptions, caller: Caller): Effect.Effect<A, CellError> {
    return Effect.callback<A, CellError>((resume) => {
      let settled = false;
      let done = () => {};
      const settle: Job["settle"] = (result) => {
        settled = true;
        resume(result as Effect.Effect<A, CellError>);
        done();
      };
      const refusal = this.stuck.refusal(options.key) ?? (this.stopped ? refused(op, STOPPING) : undefined);
      if (refusal !== undefined) return settle(Effect.fail(refusal));
      const job: Job = {
        op,
        arg,
        kind: caller.kind,
        turn: caller.turn,
        options,
        subject: options.subject,
        since: undefined,
        settle: (result) => {
          if (job.since !== undefined) this.timings?.call(this.options.name, op, (this.alarm.now() - job.since) / 1000);
          settle(result);
        },
      };
      this.waiting.push(job);
      this.pump();
      return Effect.suspend(() => {
        this.waiting.withdraw(job);
        if (job.since === undefined) return Effect.void;
        options.onLeave?.();
        return Effect.callback<void>((finished) => {
          done = () => finished(Effect.void);
          if (settled) done();
        });
      });
    });
  }

  /** Puts aside and ends what is overdue; gives the time of the next deadline. */
  ring(now: number): number | undefined {
    for (const cell of this.crew.overdue(now)) this.putAside(cell);
    this.pump();
    return this.crew.nextDeadline();
  }

  /** How many cells there may be beside `slow` ones: as many as asked for, less those beyond what may hang or be slow. */
  private places(slow: number): number {
    return this.options.size - Math.max(0, this.stuck.size + slow - this.options.maxAside);
  }

  /** How many cells there are more than there may be. */
  private surplus(): number {
    const slow = this.crew.slow();
    return this.crew.size - slow - this.places(slow);
  }

  private pump(): void {
    let full = this.full();
    while (this.waiting.sizeBut(full) > 0) {
      const cell = this.crew.take();
      if (cell === undefined) break;
      const job = this.waiting.next(full);
      if (job === undefined) this.crew.rest(cell);
      else this.run(cell, job);
      full = this.full();
    }
    if (this.waiting.size === 0) return;
    if (this.places(0) <= 0) return this.refuseAll(this.stuck.allStuck(this.options.size));
    const wanted = this.waiting.sizeBut(full);
    while (wanted > this.crew.startingSize && this.surplus() < 0) this.startOne(() => {});
    const next = this.crew.nextSlow();
    if (wanted > this.crew.startingSize && next !== undefined) this.alarm.set(next);
  }

  /** The places that have as many calls as one may have: half of all that may ever run. */
  private full(): ReadonlySet<string | undefined> {
    const { size, maxAside } = this.options;
    if (this.crew.size <= size) return NOWHERE;
    const share = Math.max(size, Math.ceil((size + maxAside) / 2));
    const places = Map.groupBy(this.crew.running(), ({ options: { place } }) => place);
    return new Set(
      [...places].flatMap(([place, { length }]) => (place === undefined || length < share ? [] : [place])),
    );
  }

  private refuseAll(reason: string): void {
    for (const { op, settle } of this.waiting.takeAll()) settle(Effect.fail(refused(op, reason)));
  }

  private startOne(done: (failure: CellDown | undefined) => void): void {
    this.crew.start((failed) => {
      const { name } = this.options;
      const reason = `No worker thread for ${name} calls can start: ${failed}`;
      // no cell is left to serve them: calls fail now, and the next call starts a cell again
      if (failed !== undefined && this.crew.size === 0) this.refuseAll(reason);
      done(failed === undefined ? undefined : refused(`start of a ${name} cell`, reason));
      if (this.stopped) this.stop();
      else if (failed === undefined) this.pump();
    });
  }

  private run(cell: Cell, job: Job): void {
    const id = ++this.sequence;
    job.since = this.alarm.now();
    cell.job = job;
    cell.deadline = job.since + Duration.toMillis(job.options.limit);
    this.alarm.set(cell.deadline);
    cell.worker.onmessage = ({ data }: MessageEvent<CellReply>) => {
      if (data.id === id) this.replied(cell, job, data);
    };
    try {
      cell.worker.postMessage({ id, op: job.op, arg: job.arg } satisfies CellRequest);
    } catch (error) {
      const message = `its argument can't be sent to a worker: ${String(error)}`;
      this.replied(cell, job, { id, failed: { op: job.op, errno: 0, message, midway: false } });
    }
  }

  private replied(cell: Cell, job: Job, reply: CellReply): void {
    if (this.stuck.has(cell)) {
      this.stuck.release(cell);
      cell.worker.terminate();
      if ("ok" in reply) job.options.onLate?.(reply.ok);
    } else {
      if (this.crew.has(cell)) {
        this.crew.rest(cell);
        if (this.crew.size > this.options.size && this.surplus() > 0) this.crew.dismiss(cell);
      }
      job.settle("ok" in reply ? Effect.succeed(reply.ok) : Effect.fail(new CellErrno(reply.failed)));
    }
    this.pump();
  }

  private putAside(cell: Cell): void {
    const { job } = cell;
    if (job === undefined) return;
    this.crew.remove(cell);
    this.stuck.put(cell, job);
    const failure = Effect.fail(this.stuck.describe(job));
    job.settle(failure);
    // calls with the same key that wait for a cell fail, too
    for (const other of this.waiting.takeAllOf(job.options.key)) other.settle(failure);
    this.pump();
  }

  private lost(cell: Cell, reason: string): void {
    this.stuck.release(cell);
    if (!this.crew.remove(cell)) return;
    cell.worker.terminate();
    const { job } = cell;
    job?.options.onLost?.();
    job?.settle(Effect.fail(new CellDown({ op: job.op, reason, ran: true })));
    if (!this.stopped) this.pump();
  }
}

const NOWHERE: ReadonlySet<string | undefined> = new Set();

const STOPPING = "The driver is stopping.";

const refused = (op: string, reason: string): CellDown => new CellDown({ op, reason, ran: false });

const described = ({ op, subject }: CellCall): CellCall => ({ op, subject });
