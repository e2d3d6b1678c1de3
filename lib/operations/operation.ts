/**
 * One running operation, as everybody sees it: the log line (lib/telemetry/log.ts), the lock table, the span and the error all show
 * its RPC, subject and stage from here.
 *
 * Not here: how operations start, join and end (./pipeline.ts) and how they wait for each other (./locks.ts).
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as References from "effect/References";

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

/** A span where somebody collects spans: elsewhere each would still cost five effects. */
export const traced = <A, E, R>(
  name: string,
  kind: "server" | "internal",
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) =>
    fiber.getRef(References.TracerEnabled) ? Effect.withSpan(body, name, { kind, captureStackTrace: false }) : body,
  );
