/**
 * Failures of system calls as `Errno`, the one form in which they leave a cell.
 *
 * Loaded in host cells: no Effect.
 */
import { Errno } from "../cells/cell.ts";

const numberOf = (error: unknown): number | undefined => {
  const { errno } = error as { readonly errno?: unknown };
  return typeof errno === "number" ? Math.abs(errno) : undefined;
};

/** What node:fs throws, as `Errno`; anything else as it is. */
export const asErrno = (op: string, error: unknown): unknown => {
  const errno = numberOf(error);
  if (error instanceof Errno || errno === undefined) return error;
  return new Errno(op, errno, error instanceof Error ? error.message : String(error));
};

/** Runs the rest of a call that has changed something already: its failure leaves open what was changed. */
export const afterChange = <A>(op: string, rest: () => A): A => {
  try {
    return rest();
  } catch (error) {
    throw new Errno(op, numberOf(error) ?? 0, error instanceof Error ? error.message : String(error), true);
  }
};
