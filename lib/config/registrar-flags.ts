/** The flags of `csi-rbd registrar`: those of node-driver-registrar, which it stands in for (docs/registrar.md). */
import * as Result from "effect/Result";
import { oneLine } from "../text/printable.ts";
import { anyPath, count, duration, httpAddress, socketPath, text } from "./flag-kinds.ts";
import { flag } from "./flag-table.ts";
import { readArguments, usageOf } from "./read-flags.ts";
import { SIDECAR_FLAGS, SIDECAR_WITHOUT_EFFECT, sidecarProcess } from "./sidecar-flags.ts";

const FLAGS = {
  ...SIDECAR_FLAGS,
  "kubelet-registration-path": flag(
    "kubeletRegistrationPath",
    socketPath(),
    "",
    "the driver's socket as kubelet reaches it on the host; required",
  ),
  "plugin-registration-path": flag(
    "pluginRegistrationPath",
    anyPath(),
    "/registration",
    "kubelet's folder plugins_registry as it is mounted here",
  ),
  timeout: flag("timeout", duration(), "1s", "how long the driver may take to tell its name, and /healthz to answer"),
  "http-endpoint": flag("httpEndpoint", httpAddress(), "", "where /healthz and metrics are served, as [host]:port"),
  "health-port": flag("healthPort", count(65_535), "0", "the same on all addresses; 0: nowhere"),
  mode: flag(
    "mode",
    text(),
    "registration",
    "kubelet-registration-probe: ask the registrar beside it, and end with 0 if it answers, else with 1",
  ),
};

/** As node-driver-registrar, it registers by any other mode, too. */
const MODES: ReadonlySet<string> = new Set(["", "registration", "kubelet-registration-probe"]);

const TABLE = { flags: FLAGS, withoutEffect: SIDECAR_WITHOUT_EFFECT };

export const parseRegistrarFlags = (argv: readonly string[]) =>
  Result.gen(function* () {
    const { values, withoutEffect, warnings } = yield* readArguments(TABLE, argv);
    const isKnown = MODES.has(values.mode);
    const strange = isKnown ? [] : [`--mode=${oneLine(values.mode)} is not a mode: it registers the driver`];
    const process = sidecarProcess({ ...values, withoutEffect, warnings: [...warnings, ...strange] });
    const enableProfiling = values.httpEndpoint.length > 0 || values.healthPort !== 0;
    const flags = { ...values, ...process, enableProfiling };
    if (flags.help || flags.version) return flags;
    if (flags.kubeletRegistrationPath === "") {
      return yield* Result.fail(
        "--kubelet-registration-path is missing: write the path of the driver's socket on the host, such as /var/lib/kubelet/plugins/NAME/csi.sock",
      );
    }
    if (flags.httpEndpoint.length > 0 && flags.healthPort !== 0) {
      return yield* Result.fail("--http-endpoint and --health-port exclude each other: write --http-endpoint alone");
    }
    return flags;
  });

export type RegistrarFlags = Result.Result.Success<ReturnType<typeof parseRegistrarFlags>>;

export const registrarUsage = (): string => usageOf(TABLE, "node-driver-registrar");
