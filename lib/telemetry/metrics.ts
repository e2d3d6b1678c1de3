/**
 * Metrics of this process for Prometheus: gauges, which are read at the moment that somebody asks, and histograms of
 * how long things took. Effect's `Metric` keeps them, and its exporter writes the text.
 *
 * Not here: the values of the gauges (lib/cells/pool.ts, lib/images), where the durations are taken (lib/grpc/bridge.ts,
 * lib/operations/pipeline.ts, lib/cells/pool.ts), and traces (./tracing.ts).
 *
 * 1. A source of gauges lasts as long as the scope that it was added in.
 * 2. A scrape never waits for Ceph, or for anything else.
 * 3. Histograms are kept only where somebody can read them: a process that serves no metrics has no `Timings`.
 * 4. The labels of histograms take few values, which the code decides: never the name of a volume, an image or a path.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Metric from "effect/Metric";
import type * as Scope from "effect/Scope";
import { arm } from "./armed.ts";
import { type NotListening, serveHttp } from "./http.ts";

type Labels = Readonly<Record<string, string>>;

/** The value of a gauge now; all gauges of one name have the same help text. */
export interface Figure {
  readonly name: string;
  readonly help: string;
  readonly labels: Labels;
  readonly value: number;
}

type Source = () => readonly Figure[];

export interface MetricsService {
  readonly add: (source: Source) => Effect.Effect<void, never, Scope.Scope>;
  /** In Prometheus's text format. */
  readonly text: Effect.Effect<string>;
  /** Histograms in this registry. */
  readonly timings: Timings;
}

/** Takes durations, in seconds. */
export interface Timings {
  /** `code` by its name, such as `NOT_FOUND`. */
  readonly rpc: (rpc: string, code: string, seconds: number) => void;
  readonly stage: (rpc: string, stage: string, seconds: number) => void;
  /** `cells`: the worker threads that made the call. */
  readonly call: (cells: string, call: string, seconds: number) => void;
  /** A call to a driver; `method` by its full name, and `code` as Kubernetes' sidecars name it: `DeadlineExceeded`. */
  readonly sidecar: (driver: string, method: string, code: string, seconds: number) => void;
}

/** From a call that Ceph answers from memory to the longest patience of a CSI sidecar. */
const SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 150] as const;

export const makeMetrics = (): MetricsService => {
  const sources = new Set<Source>();
  const registry: Metric.MetricRegistry = new Map();
  return {
    add: (source) =>
      Effect.acquireRelease(
        Effect.sync(() => void sources.add(source)),
        () => Effect.sync(() => void sources.delete(source)),
      ),
    text: Effect.map(loadPrometheus, ({ formatUnsafe }) => {
      // Gauges of this moment stand next to the histograms in a registry that only this answer sees.
      const context = Context.make(Metric.MetricRegistry, new Map(registry));
      for (const { name, help, labels, value } of [...sources].flatMap((source) => source())) {
        Metric.gauge(name, { description: help, attributes: labels }).updateUnsafe(value, context);
      }
      return formatUnsafe(context);
    }),
    timings: timingsIn(registry),
  };
};

/** The exporter takes 80 ms to load and 11 MiB, which a process that serves no metrics does not pay. */
const loadPrometheus = Effect.promise(() => import("effect/observability/PrometheusMetrics"));

const timingsIn = (registry: Metric.MetricRegistry): Timings => {
  const context = Context.make(Metric.MetricRegistry, registry);
  /** A lookup of the finished series is all that a measurement costs: building one takes ten times as long. */
  const family = (description: string, name: string, first: string, second: string) => {
    const known = new Map<string, Map<string, Metric.Histogram<number>>>();
    return (one: string, two: string, seconds: number): void => {
      let series = known.get(one);
      if (series === undefined) known.set(one, (series = new Map()));
      let histogram = series.get(two);
      if (histogram === undefined) {
        const attributes = { [first]: one, [second]: two };
        histogram = Metric.histogram(name, { description, attributes, boundaries: SECONDS });
        series.set(two, histogram);
      }
      histogram.updateUnsafe(seconds, context);
    };
  };
  return {
    rpc: family("Seconds from the arrival of an RPC to its answer.", "csi_rbd_rpc_seconds", "rpc", "code"),
    stage: family("Seconds that a stage of an RPC's work took.", "csi_rbd_stage_seconds", "rpc", "stage"),
    call: family(
      "Seconds that a worker thread took for a blocking call, without the wait for a thread.",
      "csi_rbd_call_seconds",
      "cells",
      "call",
    ),
    sidecar: sidecarIn(context),
  };
};

/** As those of Kubernetes' own sidecars. */
const SIDECAR_SECONDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600] as const;

const sidecarIn =
  (context: Context.Context<never>): Timings["sidecar"] =>
  (driver_name, method_name, grpc_status_code, seconds) =>
    Metric.histogram("csi_sidecar_operations_seconds", {
      description: "Seconds that a call to the CSI driver took, by its gRPC code.",
      attributes: { driver_name, method_name, grpc_status_code },
      boundaries: SIDECAR_SECONDS,
    }).updateUnsafe(seconds, context);

/** One per process, unless a test has its own. */
export const Metrics = Context.Reference<MetricsService>("csi-rbd/Metrics", { defaultValue: makeMetrics });

/** Where durations go; `undefined` where nobody can read them. */
export const Timings = Context.Reference<Timings | undefined>("csi-rbd/Timings", { defaultValue: () => undefined });

/** Names of RPCs as `CreateVolume`, from the path that the wire has. */
const methodOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

/** What a gRPC server tells of each call; nothing where nobody can read it. */
export const rpcObserver = (codeName: (code: number) => string) =>
  Effect.map(Timings, (timings) =>
    timings === undefined
      ? undefined
      : (path: string, code: number, seconds: number) => timings.rpc(methodOf(path), codeName(code), seconds),
  );

/** Where the metrics are served, if at all. */
export interface MetricsEndpoint {
  readonly enableProfiling: boolean;
  /** `undefined`: they are kept, and somebody else serves them (`metricsRoute`). */
  readonly metricsPort: number | undefined;
  readonly metricsPath: string;
}

/** Serves metrics as ceph-csi does with `--enableprofiling`, on POD_IP or on all addresses, and keeps histograms. */
export const metricsLayer = ({
  enableProfiling,
  metricsPort,
  metricsPath,
}: MetricsEndpoint): Layer.Layer<never, NotListening> => {
  if (!enableProfiling) return Layer.empty;
  return Layer.effect(
    Timings,
    Effect.gen(function* () {
      const metrics = yield* Metrics;
      yield* arm;
      if (metricsPort !== undefined) {
        const address = { hostname: process.env["POD_IP"] || "0.0.0.0", port: metricsPort, flag: "metricsport" };
        yield* serveHttp(address, { [metricsPath]: yield* metricsRoute });
      }
      return metrics.timings;
    }),
  );
};

/** Answers with all metrics of this process. */
export const metricsRoute: Effect.Effect<() => Promise<Response>> = Effect.gen(function* () {
  yield* loadPrometheus;
  const { text } = yield* Metrics;
  return async () =>
    new Response(await Effect.runPromise(text), { headers: { "content-type": "text/plain; version=0.0.4" } });
});
