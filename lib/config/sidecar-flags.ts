/**
 * What the programs that stand in for Kubernetes' CSI sidecars have in common: flags of all of them, and what the process
 * around them is told (lib/process/compose.ts).
 *
 * Not here: the flags of one of them (./registrar-flags.ts, ./livenessprobe-flags.ts).
 */
import * as Duration from "effect/Duration";
import { ANY, bool, serverAddress, verbosity } from "./flag-kinds.ts";
import { because, flag, GO_LOGGER } from "./flag-table.ts";
import type { Remarks, ValuesOf } from "./read-flags.ts";

export const SIDECAR_FLAGS = {
  "csi-address": flag("csiAddress", serverAddress(), "/run/csi/socket", "socket of the CSI driver"),
  v: flag("verbosity", verbosity(), "0", "log level: 1 default, 5 trace"),
  version: flag("version", bool(), "false", "print the version and end"),
  help: flag("help", bool(), "false", "print this and end"),
};

export const SIDECAR_WITHOUT_EFFECT = {
  ...because("the driver is waited for, however long it takes", { "connection-timeout": ANY.duration }),
  ...because("for Go's profiler", { "enable-pprof": ANY.bool }),
  ...because("Bun runs on one processor, and its own threads on the others", { automaxprocs: ANY.bool }),
  ...because("the log is one object of JSON per line", {
    "logging-format": ANY.text,
    "log-flush-frequency": ANY.text,
    "log-json-info-buffer-size": ANY.text,
    "log-json-split-stream": ANY.bool,
    "log-text-info-buffer-size": ANY.text,
    "log-text-split-stream": ANY.bool,
  }),
  ...GO_LOGGER,
};

type Common = ValuesOf<typeof SIDECAR_FLAGS> & Remarks;

/** What the process around a sidecar is told. */
export const sidecarProcess = ({ csiAddress, verbosity: level, withoutEffect, warnings }: Common) => ({
  endpoint: csiAddress,
  socketGroup: "",
  verbosity: level,
  enableProfiling: false,
  metricsPort: undefined,
  metricsPath: "/metrics",
  logSlowOpInterval: Duration.seconds(30),
  // nothing waits for as long, but for a slow API server that takes a lease back
  gracePeriod: Duration.seconds(25),
  withoutEffect,
  warnings,
});
