/**
 * The log, the metrics and the traces of a process, as its flags and its environment ask for them.
 */
import * as Layer from "effect/Layer";
import { type FieldsOf, logLayer } from "./log.ts";
import type { NotListening } from "./http.ts";
import { type MetricsEndpoint, metricsLayer } from "./metrics.ts";
import { tracesLayer } from "./traces.ts";

export interface TelemetryFlags extends MetricsEndpoint {
  readonly verbosity: number;
}

export const telemetryLayer = (
  flags: TelemetryFlags,
  version: string,
  fieldsOf: FieldsOf,
): Layer.Layer<never, NotListening> =>
  Layer.merge(metricsLayer(flags), tracesLayer(process.env, version)).pipe(
    Layer.provideMerge(logLayer(flags.verbosity, fieldsOf)),
  );
