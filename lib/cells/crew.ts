/**
 * The cells of a pool that can serve: those that start, that are at work, and that rest.
 *
 * Not here: which call a cell gets (./pool.ts), and the cells that hang (./quarantine.ts).
 *
 * 1. A cell that rests longer than `idleMs` ends, unless it is among the `kept` that stay.
 * 2. Calls go to the cell that rested last, so that the others can end.
 */
import type { Alarm } from "./alarm.ts";
import type { Job } from "./job.ts";
import { startWorker } from "./worker.ts";

export interface Cell {
  readonly worker: Worker;
  job: Job | undefined;
  /** The time at which its start or its call is overdue, or its rest ends. */
  deadline: number;
}

export interface CrewOptions {
  readonly url: string | URL;
  readonly kept: number;
  readonly idleMs: number;
  /** A call that runs longer is slow. */
  readonly patienceMs: number;
  /** A cell that had started has ended by itself. */
  readonly onEnd: (cell: Cell, reason: string) => void;
}

/** Long: a machine that boots, or emulates, has a reason to be slow. */
const READY_LIMIT_MS = 60_000;

export class Crew {
  private readonly starting = new Map<Cell, (reason: string) => void>();
  private readonly live = new Set<Cell>();
  /** The cell that has rested longest comes first. */
  private readonly idle: Cell[] = [];

  constructor(
    private readonly options: CrewOptions,
    private readonly alarm: Alarm,
  ) {}

  /** Includes the cells that are starting. */
  get size(): number {
    return this.live.size + this.starting.size;
  }

  get startingSize(): number {
    return this.starting.size;
  }

  /** Busy or resting. */
  started(): readonly Cell[] {
    return [...this.live];
  }

  running(): readonly Job[] {
    return this.started().flatMap(({ job }) => (job === undefined ? [] : [job]));
  }

  has(cell: Cell): boolean {
    return this.live.has(cell);
  }

  /** Takes a resting cell, which `rest` returns. */
  take(): Cell | undefined {
    return this.idle.pop();
  }

  rest(cell: Cell): void {
    cell.job = undefined;
    cell.deadline = this.alarm.now() + this.options.idleMs;
    this.idle.push(cell);
    if (this.mayEnd()) this.alarm.set(cell.deadline);
  }

  /** How many cells have a call that is slow. */
  slow(): number {
    const since = this.alarm.now() - this.options.patienceMs;
    return this.running().filter((job) => job.since !== undefined && job.since <= since).length;
  }

  /** The time at which one more call becomes slow. */
  nextSlow(): number | undefined {
    const now = this.alarm.now();
    const times = this.running().map(({ since = now }) => since + this.options.patienceMs);
    const next = Math.min(...times.filter((at) => at > now));
    return Number.isFinite(next) ? next : undefined;
  }

  /** Ends a cell that rests. */
  dismiss(cell: Cell): void {
    this.remove(cell);
    cell.worker.terminate();
  }

  /** Gives whether the cell was here. */
  remove(cell: Cell): boolean {
    const at = this.idle.indexOf(cell);
    if (at >= 0) this.idle.splice(at, 1);
    return this.live.delete(cell);
  }

  /** Starts one more cell. `failed` says why it did not start; `undefined`: it rests here now. */
  start(done: (failed: string | undefined) => void): void {
    const end = (reason: string) => {
      if (!this.starting.delete(cell)) return this.options.onEnd(cell, reason);
      cell.worker.terminate();
      done(reason);
    };
    const ready = () => {
      if (!this.starting.delete(cell)) return;
      this.live.add(cell);
      this.rest(cell);
      done(undefined);
    };
    const worker = startWorker(this.options.url, { ready, ended: end });
    const cell: Cell = { worker, job: undefined, deadline: this.alarm.now() + READY_LIMIT_MS };
    this.starting.set(cell, end);
    this.alarm.set(cell.deadline);
  }

  /** Ends cells that start or rest for too long; gives those whose calls are overdue. */
  overdue(now: number): readonly Cell[] {
    for (const [cell, end] of this.starting) if (cell.deadline <= now) end("it was not ready in time");
    for (let cell = this.idle[0]; cell !== undefined && cell.deadline <= now && this.mayEnd(); cell = this.idle[0]) {
      this.dismiss(cell);
    }
    return this.started().filter((cell) => cell.job !== undefined && cell.deadline <= now);
  }

  /** The time at which `overdue` has something to do next. */
  nextDeadline(): number | undefined {
    const ending = this.mayEnd();
    const watched = [...this.starting.keys(), ...this.started().filter(({ job }) => job !== undefined || ending)];
    return watched.length === 0 ? undefined : Math.min(...watched.map(({ deadline }) => deadline));
  }

  private mayEnd(): boolean {
    return this.live.size > this.options.kept;
  }
}
