/**
 * Figures of this process for Prometheus: what runs, waits and hangs. Whoever has figures adds a source; they are read
 * at the moment that somebody asks, and cost nothing until then.
 *
 * Not here: the figures themselves (lib/cells/pool.ts, lib/images/flatten.ts, lib/images/background-queue.ts).
 *
 * 1. A source lasts as long as the scope that it was added in.
 * 2. A question never waits for Ceph, or for anything else.
 */
import * as Context from "effect/Context";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";

/** A value of now, with one help text for all of its name. */
export interface Figure {
  readonly name: string;
  readonly help: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

type Source = () => readonly Figure[];

export interface MetricsService {
  readonly add: (source: Source) => Effect.Effect<void, never, Scope.Scope>;
  /** In Prometheus's text format. */
  readonly text: () => string;
}

export const makeMetrics = (): MetricsService => {
  const sources = new Set<Source>();
  return {
    add: (source) =>
      Effect.acquireRelease(
        Effect.sync(() => void sources.add(source)),
        () => Effect.sync(() => void sources.delete(source)),
      ),
    text: () => {
      const named = Map.groupBy(
        [...sources].flatMap((source) => source()),
        ({ name }) => name,
      );
      const parts = [...named].map(([name, figures]) =>
        [
          `# HELP ${name} ${figures[0]?.help ?? ""}`,
          `# TYPE ${name} gauge`,
          ...figures.map(({ labels, value }) => `${name}{${labelsOf(labels)}} ${value}`),
        ].join("\n"),
      );
      return `${parts.join("\n")}\n`;
    },
  };
};

const labelsOf = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(
      ([name, value]) => `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
    )
    .join(",");

/** One per process, unless a test has its own. */
export const Metrics = Context.Reference<MetricsService>("csi-rbd/Metrics", { defaultValue: makeMetrics });

/** Where the figures are served, if at all. */
export interface MetricsEndpoint {
  readonly enableProfiling: boolean;
  readonly metricsPort: number;
  readonly metricsPath: string;
}

class NotListening extends Data.TaggedError("NotListening")<{ readonly message: string }> {}

/** As ceph-csi does with `--enableprofiling`: on POD_IP, or everywhere. Until the scope closes. */
export const serveMetrics = ({
  enableProfiling,
  metricsPort,
  metricsPath,
}: MetricsEndpoint): Effect.Effect<void, NotListening, Scope.Scope> =>
  Effect.gen(function* () {
    if (!enableProfiling) return;
    const metrics = yield* Metrics;
    const hostname = process.env["POD_IP"] || "0.0.0.0";
    const answer = (request: Request): Response =>
      new URL(request.url).pathname === metricsPath
        ? new Response(metrics.text(), { headers: { "content-type": "text/plain; version=0.0.4" } })
        : new Response(`metrics are at ${metricsPath}\n`, { status: 404 });
    const server = yield* Effect.acquireRelease(
      Effect.try({
        try: () => Bun.serve({ hostname, port: metricsPort, fetch: answer }),
        catch: (error) =>
          new NotListening({
            message: `--metricsport: cannot listen on ${hostname}:${metricsPort} for metrics: ${error instanceof Error ? error.message : String(error)}`,
          }),
      }),
      (started) => Effect.promise(() => started.stop(true)),
    );
    yield* Effect.logInfo(`metrics at http://${hostname}:${server.port}${metricsPath}`);
  });
