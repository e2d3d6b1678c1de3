/**
 * Makes one Effect of the roles that the flags ask for: their layers, the sockets that serve them, and their work.
 *
 * Not here: which roles there are (services/), the command line (./command-line.ts) and signals (./launch.ts).
 *
 * 1. Nothing listens before every layer is built, and nothing runs, and no health is told, before every socket listens.
 * 2. At the end the roles' work stops first, then all servers at once, so that none takes calls while another drains;
 *    then operations that outlive their callers; then what all of them need goes. They share one grace budget
 *    (./grace.ts).
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Scope from "effect/Scope";
import { shrinkAtRest, tidyWhenCalm } from "../cells/idle-gc.ts";
import type { Flags } from "../config/flags.ts";
import { serve } from "../grpc/server.ts";
import { codeName } from "../grpc/status.ts";
import { describeOperation, operationFields } from "../operations/operation.ts";
import { Operations, type OperationsService } from "../operations/pipeline.ts";
import { logSlowOperations } from "../operations/slow.ts";
import { healthRoute, serveHttp } from "../telemetry/http.ts";
import { type MetricsEndpoint, metricsRoute, rpcObserver } from "../telemetry/metrics.ts";
import { telemetryLayer } from "../telemetry/telemetry.ts";
import { type Grace, makeGrace } from "./grace.ts";
import { type AnyRole, layerOf, type RoleError } from "./role.ts";
import { VERSION } from "./version.ts";

/** What a process is told besides its roles; the driver's flags have all of it. */
export type ProcessFlags = Pick<
  Flags,
  | "endpoint"
  | "socketGroup"
  | "verbosity"
  | "enableProfiling"
  | "metricsPath"
  | "httpEndpoint"
  | "healthPort"
  | "logSlowOpInterval"
  | "gracePeriod"
  | "withoutEffect"
  | "warnings"
> &
  Pick<MetricsEndpoint, "metricsPort"> & {
    /** Where metrics alone are served, in place of the addresses of /healthz; those are for them where there is none. */
    readonly metricsAddress?: Flags["httpEndpoint"];
  };

/**
 * Runs the roles until the scope closes. Where nothing is served it ends with the roles' work, as a command does. It has
 * no span: that would be the parent of every call.
 */
export const compose = (
  flags: ProcessFlags,
  roles: readonly AnyRole[],
  grace: Grace = makeGrace(flags.gracePeriod),
): Effect.Effect<void, RoleError, Scope.Scope> =>
  Effect.gen(function* () {
    // Built first, so that it ends last: the log and the traces include what happens while the process stops.
    const { verbosity, metricsPort, metricsPath } = flags;
    const enableProfiling = flags.enableProfiling || roles.some(({ servesMetrics }) => servesMetrics === true);
    const telemetryFlags = { verbosity, enableProfiling, metricsPort, metricsPath };
    const telemetry = yield* Layer.build(telemetryLayer(telemetryFlags, VERSION, operationFields));
    yield* Effect.provideContext(run(flags, roles, grace), telemetry);
  });

const run = (
  flags: ProcessFlags,
  roles: readonly AnyRole[],
  grace: Grace,
): Effect.Effect<void, RoleError, Scope.Scope> =>
  Effect.gen(function* () {
    yield* sayWithoutEffect(flags);
    for (const { first = Effect.void } of roles) yield* first;
    const observe = yield* rpcObserver(codeName);
    // Each role was proven to bring what it asks for where it was stated (./role.ts).
    const context = (yield* Layer.build(layerOf(roles))) as Context.Context<unknown>;
    const operations = Context.getOption(context, Operations);
    if (Option.isSome(operations)) {
      yield* Effect.addFinalizer(() => drain(operations.value, grace));
      yield* Effect.forkScoped(logSlowOperations(operations.value, flags.logSlowOpInterval));
    }
    const sockets = Map.groupBy(
      roles.filter(({ serves }) => serves !== undefined),
      ({ endpoint }) => endpoint ?? flags.endpoint,
    );
    const [tidy, shrink] = [tidyWhenCalm(), shrinkAtRest()];
    const onEnd = () => {
      tidy();
      shrink();
    };
    const servers = yield* Effect.acquireRelease(Scope.make("parallel"), Scope.close);
    for (const [endpoint, sharing] of sockets) {
      const services = sharing.flatMap(({ serves = [] }) => serves);
      const options = { endpoint, services, stop: grace.begin, group: flags.socketGroup, observe, onEnd };
      const serving = Effect.asVoid(Effect.provideContext(serve(options), context));
      const isSpare = sharing.every(({ spareEndpoint }) => spareEndpoint === true);
      yield* Scope.provide(isSpare ? orGoWithout(sharing, serving) : serving, servers);
    }
    yield* serveHealth(flags, roles);
    const work = roles.flatMap(({ runs }) => (runs === undefined ? [] : [runs]));
    yield* Effect.provideContext(Effect.all(work, { concurrency: "unbounded", discard: true }), context);
    if (sockets.size > 0) return yield* Effect.never;
  });

const orGoWithout = <R>(roles: readonly AnyRole[], serving: Effect.Effect<void, RoleError, R>) =>
  Effect.catch(serving, ({ message }) =>
    Effect.logWarning(`not served: ${roles.map(({ name }) => name).join(", ")}, because of this: ${message}`),
  );

/** Serves the roles' checks where the flags ask for it; and the metrics, where they have no place of their own. */
const serveHealth = (flags: ProcessFlags, roles: readonly AnyRole[]): Effect.Effect<void, RoleError, Scope.Scope> =>
  Effect.gen(function* () {
    const { httpEndpoint, healthPort, enableProfiling, metricsPort, metricsPath, metricsAddress = [] } = flags;
    const checks = roles.flatMap(({ checks: all = {} }) => Object.entries(all));
    const routes = Object.fromEntries(checks.map(([path, check]) => [path, healthRoute(check)]));
    if (enableProfiling && metricsPort === undefined) {
      const metrics = { [metricsPath]: yield* metricsRoute };
      for (const address of metricsAddress) yield* serveHttp({ ...address, flag: "metrics-address" }, metrics);
      if (metricsAddress.length === 0) Object.assign(routes, metrics);
    }
    const byPort = healthPort === 0 ? [] : [{ hostname: "0.0.0.0", port: healthPort, flag: "health-port" }];
    const addresses = [...httpEndpoint.map((address) => ({ ...address, flag: "http-endpoint" })), ...byPort];
    for (const address of addresses) yield* serveHttp(address, routes);
  });

/** Waits for operations that outlived their callers, then interrupts them. The next call finishes or undoes what is left. */
const drain = (operations: OperationsService, grace: Grace): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { drainBy } = yield* grace.begin;
    const now = yield* Clock.currentTimeMillis;
    const running = operations.running().map((operation) => describeOperation(operation, now));
    const left = Math.max(0, drainBy - now);
    if (running.length > 0) {
      yield* Effect.logInfo(`stopping; operations have ${(left / 1000).toFixed(1)} s to end: ${running.join("; ")}`);
    }
    yield* operations.drain(left);
  });

const sayWithoutEffect = ({ withoutEffect, warnings }: ProcessFlags): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (const warning of warnings) yield* Effect.logWarning(warning);
    if (withoutEffect.length > 0) yield* Effect.logInfo(`accepted without effect: ${withoutEffect.join(", ")}`);
  });
