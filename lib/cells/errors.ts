/**
 * The failures of a call in a cell.
 *
 * Not here: what they mean for Ceph (lib/ceph/live/errno.ts) or for the host (lib/host/live.ts).
 */
import * as Data from "effect/Data";
import type { CellFailure } from "./cell.ts";

/**
 * A blocking call answered with an errno (positive; 0 when the call failed in another way). `midway`: it had changed
 * something by then, or may have.
 */
export class CellErrno extends Data.TaggedError("CellErrno")<CellFailure> {}

/** A blocking call did not return within its limit, or an earlier call with the same key still has not returned. */
export class CellStuck extends Data.TaggedError("CellStuck")<{
  readonly op: string;
  readonly subject: string;
  readonly seconds: number;
  /** A sentence that says what to check. */
  readonly advice: string;
}> {
  override get message() {
    return `${this.op} on ${this.subject} has not returned for ${this.seconds} s and continues in the background. ${this.advice}`;
  }
}

/**
 * No cell answers the call. `ran`: a cell had begun it and ended, so that it is unknown whether the call took effect.
 * Otherwise no cell took it up, and `reason` is a sentence.
 */
export class CellDown extends Data.TaggedError("CellDown")<{
  readonly op: string;
  readonly reason: string;
  readonly ran: boolean;
}> {
  override get message() {
    return this.ran ? `the worker thread that ran ${this.op} ended: ${this.reason}` : this.reason;
  }
}

export type CellError = CellErrno | CellStuck | CellDown;
