/**
 * The inside of a cell: a Bun worker that makes blocking calls, one at a time, and answers plain data.
 *
 * Not here: the calls themselves (lib/ceph/cell/cell.ts, lib/host/cell.ts) and the queue in front of them (./pool.ts).
 * Every worker loads this file: it imports next to nothing, so that a cell costs about 2 MiB.
 *
 * 1. A cell sends "ready" last, when its handlers are in place, because a message that comes earlier would be lost.
 * 2. Everything that a handler throws becomes a reply; every call gets one while the thread lives.
 */

import { tidyWhenCalm } from "./idle-gc.ts";

/** A failed blocking call: its name and the errno that it returned (positive). */
export class Errno extends Error {
  constructor(
    readonly op: string,
    readonly errno: number,
    message = `${op}: errno ${errno}`,
    /** The handler has changed something by then, or may have. */
    readonly midway = false,
  ) {
    super(message);
  }
}

/** Marks each failure of `body` as midway because the handler has changed something before; except those of `unless`. */
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

/** `collect`: frees memory when the cell has been quiet for a while; garbage collection if absent. */
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
      // any other throw leaves open how far the handler came
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
