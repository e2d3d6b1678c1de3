/**
 * A host cell: the worker in which the driver's blocking calls on this machine run.
 *
 * Not here: the calls themselves (./krbd.ts, ./block.ts, ./paths.ts) and their limits (./live.ts). No Effect.
 */
import { Errno, serveCell } from "../cells/cell.ts";
import * as block from "./block.ts";
import * as krbd from "./krbd.ts";
import * as tree from "./paths.ts";

export const operations = {
  ...krbd,
  ...block,
  ...tree,
};
export type HostOperations = typeof operations;

/** Failures of system calls arrive as `Errno`, whatever they were thrown as. */
const typed =
  (op: string, handler: (arg: never) => unknown) =>
  (arg: never): unknown => {
    try {
      return handler(arg);
    } catch (error) {
      const { errno } = error as { errno?: unknown };
      if (error instanceof Errno || typeof errno !== "number") throw error;
      throw new Errno(op, Math.abs(errno), error instanceof Error ? error.message : String(error));
    }
  };

serveCell(Object.fromEntries(Object.entries(operations).map(([op, handler]) => [op, typed(op, handler)])));
