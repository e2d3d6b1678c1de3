/** A call on its way through a pool of cells, and the queue in which it waits for one. */
import type * as Duration from "effect/Duration";
import type * as Effect from "effect/Effect";
import type { CellError } from "./errors.ts";

export interface CallOptions {
  /** Begins when a cell takes the call up. */
  readonly limit: Duration.Duration;
  /** The image, device or path that the call is for, for messages. */
  readonly subject: string;
  /** What it is made for, such as a volume, where the subject does not say so; for the log. */
  readonly madeFor?: string | undefined;
  /** A call does not run while another one with its key is stuck. A call without a key can be repeated without harm. */
  readonly key?: string | undefined;
  /** What the call depends on, such as a pool of a cluster: calls for one do not take the cells of those for another. */
  readonly place?: string | undefined;
  /** The caller does not wait any more, and a cell makes the call: it may end early if it can. */
  readonly onLeave?: (() => void) | undefined;
  /** The call has passed its limit, and its thread still uses what it was given. */
  readonly onAside?: (() => void) | undefined;
  /** The cell has ended in the call, whether or not its caller still waits; its thread may act on in C. */
  readonly onLost?: (() => void) | undefined;
  /** The thread of a call that has passed its limit has returned, or ended. */
  readonly onBack?: (() => void) | undefined;
  /** Gets what such a call has answered in the end. */
  readonly onLate?: ((answer: unknown) => void) | undefined;
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
 * The calls that wait for a cell. Kinds of callers take turns, and so do the places of their calls: a hundred calls of one
 * kind for one place delay a call of another one by one call. Those in one line go by the turn of their callers, then in the
 * order in which they came: of many callers that began at once one after the other comes to its end, and not all of them at
 * the last moment.
 */
export class Waiting {
  /** Every line has at least one job; the next turn is that of the first one. */
  private readonly lines = new Map<string, Job[]>();
  private count = 0;

  get size(): number {
    return this.count;
  }

  push(job: Job): void {
    const name = lineOf(job);
    const line = this.lines.get(name);
    if (line === undefined) this.lines.set(name, [job]);
    else line.splice(line.findLastIndex(({ turn }) => turn <= job.turn) + 1, 0, job);
    this.count += 1;
  }

  /** Takes the next job whose place is not `full`. */
  next(full: ReadonlySet<string | undefined>): Job | undefined {
    for (const [name, line] of this.lines) {
      const [job] = line;
      if (job === undefined || full.has(job.options.place)) continue;
      line.shift();
      this.lines.delete(name);
      if (line.length > 0) this.lines.set(name, line);
      this.count -= 1;
      return job;
    }
    return undefined;
  }

  /** How many wait for another place than those. */
  sizeBut(full: ReadonlySet<string | undefined>): number {
    if (full.size === 0) return this.count;
    const open = [...this.lines.values()].filter(([job]) => !full.has(job?.options.place));
    return open.reduce((sum, { length }) => sum + length, 0);
  }

  /** Removes a job whose caller no longer waits. */
  withdraw(job: Job): void {
    const name = lineOf(job);
    const line = this.lines.get(name) ?? [];
    const at = line.indexOf(job);
    if (at < 0) return;
    line.splice(at, 1);
    this.count -= 1;
    if (line.length === 0) this.lines.delete(name);
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

const lineOf = ({ kind, options: { place } }: Job): string => (place === undefined ? kind : `${kind} ${place}`);
