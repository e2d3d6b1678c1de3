/**
 * The inside of a cell: a Bun worker that makes blocking calls, one at a time, and answers plain data.
 *
 * Not here: which calls there are (lib/ceph/cell/cell.ts, lib/host/cell.ts) and who waits for them (./pool.ts).
 * This file is loaded in every worker: it imports next to nothing, so that a cell costs about 2 MiB.
 *
 * 1. A cell says "ready" last, when its handlers are in place: a message sent earlier would be lost.
 * 2. Whatever a handler throws becomes a reply; no call stays without one while the thread lives.
 */

import { tidyWhenCalm } from "./idle-gc.ts";

/** A failed blocking call: the errno that it returned (positive), and what it was about. */
export class Errno extends Error {
  constructor(
    readonly op: string,
    readonly errno: number,
    message = `${op}: errno ${errno}`,
    /** The handler had changed something, or may have: the errno does not say what it left. */
    readonly midway = false,
  ) {
    super(message);
  }
}

/** Marks each failure of `body`, because the handler has changed something before. `unless`: those that it leaves. */
export const midway = <A>(body: () => A, unless: (error: Errno) => boolean = () => false): A => {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof Errno) || unless(error)) throw error;
    throw new Errno(error.op, error.errno, error.message, true);
  }
};

export interface CellRequest {
  readonly id: number;
  readonly op: string;
  readonly arg: unknown;
}

export interface CellFailure {
  readonly op: string;
  readonly errno: number;
  readonly message: string;
  readonly midway: boolean;
}

export type CellReply =
  | { readonly id: number; readonly ok: unknown }
  | { readonly id: number; readonly failed: CellFailure };

export const CELL_READY = "ready";

type Handlers = Readonly<Record<string, (arg: never) => unknown>>;

/** `collect`: how this cell gives memory back when it falls quiet, if in another way than others. */
export const serveCell = (handlers: Handlers, collect?: () => void): void => {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<CellRequest>) => void;
    postMessage: (reply: CellReply | typeof CELL_READY) => void;
  };
  const worked = tidyWhenCalm(collect && { collect });
  scope.onmessage = ({ data: { id, op, arg } }) => {
    try {
      const handler = handlers[op];
      if (handler === undefined) throw new Errno(op, 38, `this cell has no operation ${op}`);
      scope.postMessage({ id, ok: handler(arg as never) });
    } catch (error) {
      // how far a handler came that threw anything else, nobody knows
      const failed: CellFailure =
        error instanceof Errno
          ? { op: error.op, errno: error.errno, message: error.message, midway: error.midway }
          : { op, errno: 0, message: error instanceof Error ? error.message : String(error), midway: true };
      scope.postMessage({ id, failed });
    }
    worked();
  };
  scope.postMessage(CELL_READY);
};
