/**
 * One running operation, as everybody sees it: the log line (lib/telemetry/log.ts), the lock table, the span and the error all show
 * its RPC, subject and stage from here.
 *
 * Not here: how operations start, join and end (./pipeline.ts) and how they wait for each other (./locks.ts).
 */
import * as Context from "effect/Context";
import type * as Fiber from "effect/Fiber";

export interface Operation {
  readonly rpc: string;
  /** The volume, or the name for one that is yet to be: what a person would search the log for. */
  readonly subject: string;
  /** Milliseconds since the epoch, as are all times here. */
  readonly startedAt: number;
  /** The latest moment at which some caller still waits for the answer. */
  deadline: number;
  /** The stage that runs, or that failed. */
  stage: string;
}

/** The operation that the current fiber works for; `undefined` outside of one. */
export const CurrentOperation = Context.Reference<Operation | undefined>("csi-rbd/CurrentOperation", {
  defaultValue: () => undefined,
});

const seconds = (operation: Operation, now: number): string => ((now - operation.startedAt) / 1000).toFixed(1);

/** A clause for errors and tables: `CreateVolume of pvc-1 has been running for 3.2 s (stage "reserve")`. */
export const describeOperation = (operation: Operation, now: number): string =>
  `${operation.rpc} of ${operation.subject} has been running for ${seconds(operation, now)} s (stage "${operation.stage}")`;

/** The log's fields of the operation that a fiber works for. Where members of a group run side by side, the stage is the one that began last. */
export const operationFields = (fiber: Fiber.Fiber<unknown, unknown>): Readonly<Record<string, string>> | undefined => {
  const operation = fiber.getRef(CurrentOperation);
  if (operation === undefined) return undefined;
  const { rpc, subject, stage } = operation;
  return { rpc, subject, stage };
};
