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
  /** Gives those who wait now an answer, while the operation goes on; see `answerEarly` in ./pipeline.ts. */
  answer: (value: unknown) => void;
}

/** The operation that the current fiber works for; `undefined` outside of one. */
export const CurrentOperation = Context.Reference<Operation | undefined>("csi-rbd/CurrentOperation", {
  defaultValue: () => undefined,
});

export const age = (operation: Operation, now: number): string =>
  `${((now - operation.startedAt) / 1000).toFixed(1)} s`;

/** For errors and tables: `CreateVolume of pvc-1, at "reserve" for 3.2 s`. */
export const describeOperation = (operation: Operation, now: number): string =>
  `${operation.rpc} of ${operation.subject}, at "${operation.stage}", ${age(operation, now)} old`;

/** The log's fields of the operation that a fiber works for. Where members of a group run side by side, the stage is the one that began last. */
export const operationFields = (fiber: Fiber.Fiber<unknown, unknown>): Readonly<Record<string, string>> | undefined => {
  const operation = fiber.getRef(CurrentOperation);
  if (operation === undefined) return undefined;
  const { rpc, subject, stage } = operation;
  return { rpc, subject, stage };
};
