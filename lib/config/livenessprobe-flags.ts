/** The flags of `csi-rbd livenessprobe`: those of livenessprobe, which it stands in for (docs/liveness.md). */
import * as Result from "effect/Result";
import { duration, httpAddress, int, webPath } from "./flag-kinds.ts";
import { flag } from "./flag-table.ts";
import { readArguments, usageOf } from "./read-flags.ts";
import { SIDECAR_FLAGS, SIDECAR_WITHOUT_EFFECT, sidecarProcess } from "./sidecar-flags.ts";

const DEFAULT_PORT = 9808;

const FLAGS = {
  ...SIDECAR_FLAGS,
  "probe-timeout": flag("healthTimeout", duration(), "3s", "how long the driver may take to answer a probe"),
  "health-port": flag(
    "healthPort",
    int(0, 65_535),
    String(DEFAULT_PORT),
    "where /healthz is served, on all addresses; 0: nowhere",
  ),
  "http-endpoint": flag("httpEndpoint", httpAddress(), "", "where /healthz and metrics are served, as [host]:port"),
  "metrics-address": flag("metricsAddress", httpAddress(), "", "where metrics alone are served"),
  "metrics-path": flag("metricsPath", webPath(), "/metrics", "path of the metrics"),
};

const TABLE = { flags: FLAGS, withoutEffect: SIDECAR_WITHOUT_EFFECT };

export const parseLivenessprobeFlags = (argv: readonly string[]) =>
  Result.gen(function* () {
    const { values, withoutEffect, warnings } = yield* readArguments(TABLE, argv);
    const { healthPort, httpEndpoint, metricsAddress, metricsPath: servedAt } = values;
    const process = sidecarProcess({ ...values, withoutEffect, warnings });
    const flags = {
      ...values,
      ...process,
      metricsPath: servedAt,
      enableProfiling: httpEndpoint.length > 0 || metricsAddress.length > 0,
      healthPort: httpEndpoint.length > 0 ? 0 : healthPort,
    };
    if (flags.help || flags.version || httpEndpoint.length === 0) return flags;
    if (healthPort === DEFAULT_PORT && metricsAddress.length === 0) return flags;
    const other = healthPort === DEFAULT_PORT ? "metrics-address" : "health-port";
    return yield* Result.fail(`--http-endpoint and --${other} exclude each other: write --http-endpoint alone`);
  });

export type LivenessprobeFlags = Result.Result.Success<ReturnType<typeof parseLivenessprobeFlags>>;

export const livenessprobeUsage = (): string => usageOf(TABLE, "livenessprobe");
