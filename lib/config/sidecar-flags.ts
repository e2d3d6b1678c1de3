/**
 * What the programs that stand in for Kubernetes' CSI sidecars have in common: flags of all of them, and what the process
 * around them is told (lib/process/compose.ts).
 *
 * Not here: the flags of one of them (./registrar-flags.ts, ./livenessprobe-flags.ts).
 */
import * as Duration from "effect/Duration";
import * as Result from "effect/Result";
import { formatEndpoint, ENDPOINT_FORM, parseEndpoint } from "../grpc/endpoint.ts";
import { bool, delay, int, shaped, text } from "./flag-kinds.ts";
import { because, flag, GO_LOGGER } from "./flag-table.ts";
import type { Remarks, ValuesOf } from "./read-flags.ts";

/** A path alone is a unix socket, as in the sidecars' own manifests. */
const address = shaped(`a path, ${ENDPOINT_FORM}`, (value) => {
  const parsed = parseEndpoint(value.startsWith("/") ? `unix://${value}` : value);
  return Result.isSuccess(parsed) ? formatEndpoint(parsed.success) : undefined;
});

export const SIDECAR_FLAGS = {
  "csi-address": flag("csiAddress", address, "/run/csi/socket", "socket of the CSI driver"),
  v: flag("verbosity", int(0, 2 ** 31 - 1), "0", "log level: 1 default, 5 trace"),
  version: flag("version", bool(), "false", "print the version and end"),
  help: flag("help", bool(), "false", "print this and end"),
};

export const SIDECAR_WITHOUT_EFFECT = {
  ...because("the driver is waited for, however long it takes", { "connection-timeout": delay() }),
  ...because("for Go's profiler", { "enable-pprof": bool() }),
  ...because("Bun runs on one processor, and its own threads on the others", { automaxprocs: bool() }),
  ...because("the log is one object of JSON per line", {
    "logging-format": text(),
    "log-flush-frequency": text(),
    "log-json-info-buffer-size": text(),
    "log-json-split-stream": bool(),
    "log-text-info-buffer-size": text(),
    "log-text-split-stream": bool(),
  }),
  ...GO_LOGGER,
};

type Common = ValuesOf<typeof SIDECAR_FLAGS> & Remarks;

/** What the process around a sidecar is told. */
export const sidecarProcess = ({ csiAddress, verbosity, withoutEffect, warnings }: Common) => ({
  endpoint: csiAddress,
  socketGroup: "",
  verbosity,
  enableProfiling: false,
  metricsPort: undefined,
  metricsPath: "/metrics",
  logSlowOpInterval: Duration.seconds(30),
  // nothing waits for as long, but for a slow API server that takes a lease back
  gracePeriod: Duration.seconds(25),
  withoutEffect,
  warnings,
});
