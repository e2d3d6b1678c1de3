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
  /** For whom it is made (./caller.ts), with the turn that it had then. */
  readonly kind: string;
  readonly turn: number;
  readonly options: CallOptions;
  readonly settle: (result: Effect.Effect<unknown, CellError>) => void;
  /** When a cell took it up, by the alarm's time; `undefined` while it waits. */
  since: number | undefined;
}

/**
 * The calls that wait for a cell. Kinds of callers take turns: a hundred calls of one kind delay a call of another one by
 * one call. Those of one kind go by the turn of their callers, then in the order in which they came: of many callers that
 * began at once one after the other comes to its end, and not all of them at the last moment.
 */
export class Waiting {
  /** Every kind has at least one job; the next turn is that of the first one. */
  private readonly lines = new Map<string, Job[]>();
  private count = 0;

  get size(): number {
    return this.count;
  }

  push(job: Job): void {
    const line = this.lines.get(job.kind);
    if (line === undefined) this.lines.set(job.kind, [job]);
    else line.splice(line.findLastIndex(({ turn }) => turn <= job.turn) + 1, 0, job);
    this.count += 1;
  }

  next(): Job | undefined {
    for (const [kind, line] of this.lines) {
      const job = line.shift();
      this.lines.delete(kind);
      if (line.length > 0) this.lines.set(kind, line);
      if (job !== undefined) this.count -= 1;
      return job;
    }
    return undefined;
  }

  /** Removes a job whose caller no longer waits. */
  withdraw(job: Job): void {
    const line = this.lines.get(job.kind) ?? [];
    const at = line.indexOf(job);
    if (at < 0) return;
    line.splice(at, 1);
    this.count -= 1;
    if (line.length === 0) this.lines.delete(job.kind);
  }

  takeAll(): readonly Job[] {
    const all = [...this.lines.values()].flat();
    this.lines.clear();
    this.count = 0;
    return all;
  }

  takeAllOf(key: string | undefined): readonly Job[] {
    if (key === undefined) return [];
    const found = [...this.lines.values()].flat().filter(({ options }) => options.key === key);
    for (const job of found) this.withdraw(job);
    return found;
  }
}
