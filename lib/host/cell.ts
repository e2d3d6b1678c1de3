/**
 * A host cell: the worker in which the driver's blocking calls on this machine run.
 *
 * Not here: the calls themselves (./mapper, ./block.ts, ./paths.ts) and their limits (./live.ts). No Effect.
 */
import { serveCell } from "../cells/cell.ts";
import * as block from "./block.ts";
import { asErrno } from "./errno.ts";
import { sweepKeys } from "./mapper/key-file.ts";
import * as mappers from "./mapper/mappers.ts";
import * as paths from "./paths.ts";

export const operations = {
  ...mappers,
  sweepKeys,
  ...block,
  ...paths,
};
export type HostOperations = typeof operations;

/** Failures of system calls leave the cell as `Errno`, whatever they were thrown as. */
const typed =
  (op: string, handler: (arg: never) => unknown) =>
  (arg: never): unknown => {
    try {
      return handler(arg);
    } catch (error) {
      throw asErrno(op, error);
    }
  };

serveCell(Object.fromEntries(Object.entries(operations).map(([op, handler]) => [op, typed(op, handler)])));
