/**
 * Names operations that run for long in the log: RPC, subject, stage and age, as often as `--logslowopinterval` says.
 *
 * Not here: limits. A slow operation goes on.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { describeOperation } from "./operation.ts";
import type { OperationsService } from "./pipeline.ts";

/** Logs, once per interval, each operation that has been running for at least that long; 0 is for never. Does not end. */
export const logSlowOperations = ({ running }: OperationsService, interval: Duration.Input): Effect.Effect<never> =>
  Duration.toMillis(interval) === 0 ? Effect.never : logEach(running, interval);

const logEach = (running: OperationsService["running"], interval: Duration.Input): Effect.Effect<never> =>
  Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis;
    const slow = running().filter(({ startedAt }) => now - startedAt >= Duration.toMillis(interval));
    for (const operation of slow) yield* Effect.logWarning(`slow: ${describeOperation(operation, now)}`);
  }).pipe(Effect.delay(interval), Effect.forever);
