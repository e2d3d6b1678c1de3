/** A call on its way through a pool of cells, and the queue in which it waits for one. */
import type * as Duration from "effect/Duration";
import type * as Effect from "effect/Effect";
import type { CellError } from "./errors.ts";

export interface CallOptions {
  /** Begins when a cell takes the call up. */
  readonly limit: Duration.Duration;
  /** The image, device or path that the call is for, for messages. */
  readonly subject: string;
  /** A call does not run while another one with its key is stuck. A call without a key can be repeated without harm. */
  readonly key?: string | undefined;
  /** The call has passed its limit, and its thread still uses what it was given. */
  readonly onAside?: (() => void) | undefined;
  /** The thread of such a call has returned, or ended. */
  readonly onBack?: (() => void) | undefined;
}

export interface CellCall {
  readonly op: string;
  readonly subject: string;
}

export interface Job extends CellCall {
  readonly arg: unknown;
  /** For whom it is made, such as an RPC (./caller.ts). */
  readonly caller: string;
  readonly options: CallOptions;
  readonly settle: (result: Effect.Effect<unknown, CellError>) => void;
  /** When a cell took it up, by the alarm's time; `undefined` while it waits. */
  since: number | undefined;
}

/**
 * The calls that wait for a cell. Callers take turns: a hundred calls of one caller delay a call of another one by one
 * call. Those of one caller go in the order in which they came.
 */
export class Waiting {
  /** Every caller has at least one job; the next turn is that of the first one. */
  private readonly callers = new Map<string, Job[]>();
  private count = 0;

  get size(): number {
    return this.count;
  }

  push(job: Job): void {
    const jobs = this.callers.get(job.caller);
    if (jobs === undefined) this.callers.set(job.caller, [job]);
    else jobs.push(job);
    this.count += 1;
  }

  next(): Job | undefined {
    for (const [caller, jobs] of this.callers) {
      const job = jobs.shift();
      this.callers.delete(caller);
      if (jobs.length > 0) this.callers.set(caller, jobs);
      if (job !== undefined) this.count -= 1;
      return job;
    }
    return undefined;
  }

  /** Removes a job whose caller no longer waits. */
  withdraw(job: Job): void {
    const jobs = this.callers.get(job.caller) ?? [];
    const at = jobs.indexOf(job);
    if (at < 0) return;
    jobs.splice(at, 1);
    this.count -= 1;
    if (jobs.length === 0) this.callers.delete(job.caller);
  }

  takeAll(): readonly Job[] {
    const all = [...this.callers.values()].flat();
    this.callers.clear();
    this.count = 0;
    return all;
  }

  takeAllOf(key: string | undefined): readonly Job[] {
    if (key === undefined) return [];
    const found = [...this.callers.values()].flat().filter(({ options }) => options.key === key);
    for (const job of found) this.withdraw(job);
    return found;
  }
}
