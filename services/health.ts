/**
 * `/healthz`, for kubelet's liveness probe: 200 while the driver answers Probe over its socket in time. In the driver by
 * `--http-endpoint` or `--health-port`, or alone beside any driver by the verb `livenessprobe`.
 *
 * 1. Each check is a call on a connection of its own: it fails when the driver's event loop is stuck, or when its socket is
 *    gone, and never because a volume, a cluster or a worker thread is.
 */
import * as Clock from "effect/Clock";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Schedule from "effect/Schedule";
import type { Flags } from "../lib/config/flags.ts";
import type { LivenessprobeFlags } from "../lib/config/livenessprobe-flags.ts";
import { Identity } from "../lib/gen/csi_pb.ts";
import { ask } from "../lib/grpc/ask.ts";
import { codeName, goCodeName, type RpcError } from "../lib/grpc/status.ts";
import type { ListenError } from "../lib/grpc/socket.ts";
import { type AnyRole, type Role, role } from "../lib/process/role.ts";
import { Timings } from "../lib/telemetry/metrics.ts";

/** What is wrong with the driver at that endpoint; `undefined` where it lives. */
export const wrongWithDriver = (endpoint: string, limit: Duration.Duration): Effect.Effect<string | undefined> =>
  judged(ask(Identity.method.probe, endpoint, {}, limit));

const judged = (
  probe: Effect.Effect<{ readonly ready?: boolean | undefined }, RpcError | ListenError>,
): Effect.Effect<string | undefined> =>
  probe.pipe(
    // Without a word on it, CSI's drivers are ready.
    Effect.map(({ ready = true }) => (ready ? undefined : "the driver says that it is not ready")),
    Effect.catch((error) =>
      Effect.succeed("code" in error ? `${codeName(error.code)}: ${error.message}` : error.message),
    ),
  );

/** The check of the driver in this process. */
export const healthRole = ({ endpoint, healthTimeout }: Flags): Role<never> =>
  role({ name: "health", layer: Layer.empty, checks: { "/healthz": wrongWithDriver(endpoint, healthTimeout) } });

/** The check of a driver in another process, with the metrics of livenessprobe. */
export const livenessprobeRoles = ({ csiAddress, healthTimeout }: LivenessprobeFlags): readonly AnyRole[] => {
  let name = "unknown-driver";
  let timings: Timings | undefined;
  const measured = <A>(method: string, call: Effect.Effect<A, RpcError | ListenError>) =>
    Effect.gen(function* () {
      const since = yield* Clock.currentTimeMillis;
      const note = (code: string) =>
        Effect.map(Clock.currentTimeMillis, (now) =>
          timings?.sidecar(name, `/${Identity.typeName}/${method}`, code, (now - since) / 1000),
        );
      const failed = (error: RpcError | ListenError) => ("code" in error ? goCodeName(error.code) : "unknown-non-grpc");
      return yield* call.pipe(
        Effect.tap(() => note("OK")),
        Effect.tapError((error) => note(failed(error))),
      );
    });
  const probe = measured("Probe", ask(Identity.method.probe, csiAddress, {}, healthTimeout));
  const runs = Effect.gen(function* () {
    timings = yield* Timings;
    const info = ask(Identity.method.getPluginInfo, csiAddress, {}, healthTimeout);
    const known = yield* measured("GetPluginInfo", info).pipe(Effect.retry(Schedule.spaced("1 second")));
    name = known.name;
    yield* Effect.logInfo(`the driver at ${csiAddress} is ${name}`);
    return yield* Effect.never;
  });
  const checks = { "/healthz": Effect.suspend(() => judged(probe)) };
  return [role({ name: "livenessprobe", layer: Layer.empty, runs, checks })];
};
