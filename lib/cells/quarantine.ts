/**
 * The cells that are put aside: the call of each passed its limit, and its thread still runs.
 *
 * 1. Until the thread ends, every further call with its key is refused: nothing runs twice on one image or device.
 * 2. Each cell that is put aside, and each whose call ends later, is logged with its call, subject and age, and with what it
 *    was made for.
 */
import * as Effect from "effect/Effect";
import type { Cell } from "./crew.ts";
import { CellStuck } from "./errors.ts";
import type { Job } from "./job.ts";

export interface QuarantineOptions {
  /** Names the cells in log lines. */
  readonly name: string;
  readonly advice: string;
  readonly now: () => number;
  readonly log: (line: Effect.Effect<void>) => void;
}

export class Quarantine {
  private readonly jobs = new Map<Cell, Job>();

  constructor(private readonly options: QuarantineOptions) {}

  get size(): number {
    return this.jobs.size;
  }

  has(cell: Cell): boolean {
    return this.jobs.has(cell);
  }

  all(): readonly Job[] {
    return [...this.jobs.values()];
  }

  put(cell: Cell, job: Job): void {
    this.jobs.set(cell, job);
    this.log(job, (about) => Effect.logWarning(`${about}; its worker thread is put aside`), "has not returned for");
    job.options.onAside?.();
  }

  /** Forgets a cell whose call has returned or whose thread has ended; does nothing if the cell was not put aside. */
  release(cell: Cell): void {
    const job = this.jobs.get(cell);
    if (job === undefined) return;
    this.jobs.delete(cell);
    this.log(job, (about) => Effect.logInfo(`${about}, past its limit`), "ended after");
    job.options.onBack?.();
  }

  /** The reason not to run a call with this key now; `undefined`: it can run. */
  refusal(key: string | undefined): CellStuck | undefined {
    if (key === undefined || this.jobs.size === 0) return undefined;
    for (const job of this.jobs.values()) if (job.options.key === key) return this.describe(job);
    return undefined;
  }

  describe(job: Job): CellStuck {
    const { op, subject } = job;
    return new CellStuck({ op, subject, seconds: this.seconds(job), advice: this.options.advice });
  }

  /** The reason why no call can run when too many cells hang. */
  allStuck(cells: number): string {
    const [oldest] = this.all().toSorted((a, b) => this.seconds(b) - this.seconds(a));
    const example =
      oldest === undefined ? "" : ` (oldest: ${oldest.op} on ${oldest.subject}, ${this.seconds(oldest)} s)`;
    return `All ${cells} worker threads for ${this.options.name} calls are stuck${example}. ${this.options.advice}`;
  }

  private seconds({ since }: Job): number {
    return since === undefined ? 0 : Math.round((this.options.now() - since) / 1000);
  }

  private log(job: Job, line: (about: string) => Effect.Effect<void>, verb: string): void {
    const { op, subject } = job;
    const { madeFor } = job.options;
    const seconds = this.seconds(job);
    const user = madeFor === undefined || subject.includes(madeFor) ? "" : ` for ${madeFor}`;
    const about = `${op} on ${subject}${user} ${verb} ${seconds} s`;
    const fields = { cells: this.options.name, call: op, subject, ...(user && { madeFor }), seconds };
    this.options.log(Effect.annotateLogs(line(about), fields));
  }
}
