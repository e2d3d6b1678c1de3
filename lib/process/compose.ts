/**
 * What every service process has in common: the command line and the layers that flags choose.
 *
 * Not here: which services there are (services/), the log (lib/telemetry/log.ts) and the life of the process (./launch.ts).
 *
 * 1. A wrong flag is one line that says what to write, and nothing was started.
 */
import * as Context from "effect/Context";
import * as Data from "effect/Data";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import type * as Scope from "effect/Scope";
import { tidyWhenCalm } from "../cells/idle-gc.ts";
import { CephLive } from "../ceph/live/live.ts";
import { clusterSecretsLayer } from "../config/cluster-secrets.ts";
import { Clusters } from "../config/clusters.ts";
import { type Flags, parseFlags, usage } from "../config/flags.ts";
import { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import { serve } from "../grpc/server.ts";
import type { ServedService } from "../grpc/service.ts";
import { Locks } from "../operations/locks.ts";
import { operationFields } from "../operations/operation.ts";
import { Operations } from "../operations/pipeline.ts";
import { logLayer } from "../telemetry/log.ts";
import { serveMetrics } from "../telemetry/metrics.ts";
import { launch } from "./launch.ts";
import { VERSION } from "./version.ts";

class WrongFlag extends Data.TaggedError("WrongFlag")<{ readonly message: string }> {}

/** Reads the command line, then runs `serve` until a signal ends the process. */
export const runService = <E extends { readonly message: string }>(
  argv: readonly string[],
  serve: (flags: Flags) => Effect.Effect<unknown, E, Scope.Scope>,
): void => {
  const parsed = parseFlags(argv);
  if (Result.isFailure(parsed)) return launch(Effect.fail(new WrongFlag({ message: parsed.failure })));
  const flags = parsed.success;
  if (flags.help) return console.log(usage());
  if (flags.version) return console.log(VERSION);
  const main = Effect.gen(function* () {
    if (flags.ignored.length > 0) {
      const names = flags.ignored.map((name) => `--${name}`).join(" ");
      yield* Effect.logInfo(`without meaning for RBD, and ignored: ${names}`);
    }
    yield* serve(flags);
  }).pipe(Effect.provide(logLayer(flags.verbosity, operationFields)));
  // The server, then operations that outlive their callers: each has the grace period.
  launch(main, 2 * Duration.toSeconds(flags.gracePeriod) + 5);
};

/** Configuration, locks and Ceph, as the flags say. */
export const driverLayer = (flags: Flags) =>
  Layer.mergeAll(
    Clusters.layer(flags.configDir),
    ClusterMapping.layer(flags.configDir),
    clusterSecretsLayer(flags.secretsDir),
    DriverSettings.layer(flags),
    Locks.layer,
    CephLive({
      cells: flags.cells,
      osdTimeoutMs: Duration.toMillis(flags.osdTimeout),
      monTimeoutMs: Duration.toMillis(flags.monTimeout),
      connectTimeoutMs: Duration.toMillis(flags.connectTimeout),
      cephConf: flags.cephConf,
    }),
  );

/**
 * Serves until the scope closes. Then the server stops first; operations whose callers have left get the grace period
 * too, before what they need goes.
 */
export const serveAll = <R, E>(
  flags: Flags,
  needs: Layer.Layer<R, E>,
  services: readonly ServedService<R | Operations>[],
) =>
  Effect.gen(function* () {
    yield* serveMetrics(flags);
    const context = yield* Layer.build(Layer.merge(needs, Operations.layer));
    const operations = Context.get(context, Operations);
    yield* Effect.addFinalizer(() => operations.drain(Duration.toMillis(flags.gracePeriod)));
    const { endpoint, socketGroup: group } = flags;
    const graceSeconds = Duration.toSeconds(flags.gracePeriod);
    yield* Effect.provideContext(serve({ endpoint, services, graceSeconds, group, observe: tidyWhenCalm() }), context);
  });
