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
  readonly options: CallOptions;
  readonly settle: (result: Effect.Effect<unknown, CellError>) => void;
  /** When a cell took it up, by the alarm's time; `undefined` while it waits. */
  since: number | undefined;
}

/** First in, first out. */
export class Waiting {
  private readonly jobs: Job[] = [];

  get size(): number {
    return this.jobs.length;
  }

  push(job: Job): void {
    this.jobs.push(job);
  }

  next(): Job | undefined {
    return this.jobs.shift();
  }

  /** Removes a job whose caller no longer waits. */
  withdraw(job: Job): void {
    const at = this.jobs.indexOf(job);
    if (at >= 0) this.jobs.splice(at, 1);
  }

  takeAll(): readonly Job[] {
    return this.jobs.splice(0);
  }

  takeAllOf(key: string | undefined): readonly Job[] {
    if (key === undefined) return [];
    const found = this.jobs.filter(({ options }) => options.key === key);
    for (const job of found) this.withdraw(job);
    return found;
  }
}
