/** For whom the calls of a fiber are made, such as an operation: calls that wait for a cell are made in turns. */
import * as Context from "effect/Context";

export interface Caller {
  /** Such as an RPC: those of one kind wait in one line, and the lines take turns. */
  readonly kind: string;
  /** The place in the line: of two calls the one with the smaller number goes first. In most cases when the caller began. */
  turn: number;
}

export const Caller = Context.Reference<Caller>("csi-rbd/Caller", { defaultValue: () => ({ kind: "", turn: 0 }) });
