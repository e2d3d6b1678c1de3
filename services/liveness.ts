/**
 * `--type=liveness`: asks a driver beside it whether it lives, and tells Prometheus. It serves no CSI.
 *
 * 1. It only ever asks: no layer of the driver is built here, and the driver's socket stays the driver's.
 * 2. `csi_liveness` is 1 while the last probe was answered "ready" in time, else 0, also before the first one, which
 *    comes after one interval, as ceph-csi's does. No answer ends the process.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type * as Scope from "effect/Scope";
import type { Flags } from "../lib/config/flags.ts";
import { type Role, role } from "../lib/process/role.ts";
import { Metrics } from "../lib/telemetry/metrics.ts";
import { wrongWithDriver } from "./health.ts";

const watch = (flags: Flags): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    let alive = false;
    const metrics = yield* Metrics;
    const help = "Whether the driver answered the last probe: 1 or 0.";
    yield* metrics.add(() => [{ name: "csi_liveness", help, labels: {}, value: alive ? 1 : 0 }]);
    return yield* Effect.gen(function* () {
      yield* Effect.sleep(flags.pollTime);
      const wrong = yield* wrongWithDriver(flags.endpoint, flags.probeTimeout);
      if (wrong !== undefined) yield* Effect.logWarning(`probe of ${flags.endpoint} failed: ${wrong}`);
      else if (!alive) yield* Effect.logInfo(`the driver at ${flags.endpoint} lives`);
      alive = wrong === undefined;
    }).pipe(Effect.forever);
  });

export const livenessRole = (flags: Flags): Role<never> =>
  role({ name: "liveness", layer: Layer.empty, runs: watch(flags), servesMetrics: true });
