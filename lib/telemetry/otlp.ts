/**
 * Sends spans to an OpenTelemetry collector, by Effect's OTLP exporter.
 *
 * Not here: which spans there are (./tracing.ts), and where the settings come from (./otel-environment.ts). Only a
 * process that has traces loads this file, because the exporter takes 60 ms and 11 MiB.
 *
 * 1. Nobody waits for the collector. Spans that it does not take are dropped, and one line of the log says so.
 * 2. What waits for the collector is bounded, in bytes by the number of requests and in time by their limit.
 * 3. When the process stops, the last spans have a second to leave.
 */
import * as ConfigProvider from "effect/ConfigProvider";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import type * as Scope from "effect/Scope";
import * as Tracer from "effect/Tracer";
import * as FetchHttpClient from "effect/http/FetchHttpClient";
import * as Headers from "effect/http/Headers";
import * as HttpClient from "effect/http/HttpClient";
import { EncodeError, HttpClientError, TransportError } from "effect/http/HttpClientError";
import * as HttpTraceContext from "effect/http/HttpTraceContext";
import * as OtlpExporter from "effect/observability/OtlpExporter";
import * as OtlpSerialization from "effect/observability/OtlpSerialization";
import * as OtlpTracer from "effect/observability/OtlpTracer";
import type { OtelSettings, Sampler } from "./otel-environment.ts";
import type { Collector } from "./tracing.ts";

/** Short: both are part of the time that a stopping driver has. */
const FLUSH_LIMIT = Duration.millis(700);
const LAST_ANSWER_LIMIT = Duration.millis(300);
/** Requests of up to 1000 spans each; one more drops what is collected by then. */
const MAX_REQUESTS = 4;

export const collectSpans = (settings: OtelSettings, version: string): Effect.Effect<Collector, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { url, headers, delayMs, protocol, resource, sampler } = settings;
    const tracerLayer = OtlpTracer.layer({
      url,
      headers,
      resource: { ...resource, serviceVersion: version },
      exportInterval: Duration.millis(delayMs),
      shutdownTimeout: LAST_ANSWER_LIMIT,
    }).pipe(
      Layer.provide(protocol === "http/json" ? OtlpSerialization.layerJson : OtlpSerialization.layerProtobuf),
      Layer.provide(boundedClient(settings)),
      // The settings are complete: the exporter must not read the environment a second time, and die of it.
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
    );
    const context = yield* Layer.build(tracerLayer);
    // The exporter's own last sending does not survive the interrupt that a signal brings.
    yield* Effect.addFinalizer(() =>
      Effect.timeoutOption(Context.get(context, OtlpExporter.Flusher).flush, FLUSH_LIMIT),
    );
    yield* Effect.logInfo(`traces are sent to ${shownUrl(url)}`);
    return {
      tracer: Context.get(context, Tracer.Tracer),
      parent: (traceparent) => Option.getOrUndefined(HttpTraceContext.w3c(Headers.fromInput({ traceparent }))),
      sampled: (parent) => isSampled(sampler, parent),
    };
  });

/** A trace that begins here has a random ID, so that chance decides as well as the ID would. */
const isSampled = ({ ratio, parentBased }: Sampler, parent: Tracer.ExternalSpan | undefined): boolean => {
  if (parent === undefined) return Math.random() < ratio;
  if (parentBased) return parent.sampled;
  // Every service that sees the trace decides alike: by the last 56 bits of its ID.
  return Number.parseInt(parent.traceId.slice(-14), 16) < ratio * 2 ** 56;
};

const shownUrl = (url: string): string => {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`;
};

/** An HTTP client with a limit for each request and for how many there are, which logs the first failure in a row. */
const boundedClient = ({ url, timeoutMs }: OtelSettings): Layer.Layer<HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.map(HttpClient.HttpClient, (client) => {
      let requests = 0;
      let failing = false;
      const failed = (why: string) =>
        Effect.suspend(() => {
          if (failing) return Effect.void;
          failing = true;
          return Effect.logWarning(`Traces cannot be sent to ${shownUrl(url)}: ${why}. They are dropped meanwhile.`);
        });
      return HttpClient.transform(client, (response, request) =>
        Effect.suspend(() => {
          if (requests >= MAX_REQUESTS) {
            const description = `${requests} requests wait for an answer`;
            return Effect.fail(new HttpClientError({ reason: new EncodeError({ request, description }) }));
          }
          requests += 1;
          const late = new TransportError({ request, description: `no answer within ${timeoutMs} ms` });
          return response.pipe(
            Effect.timeoutOrElse({
              duration: timeoutMs,
              orElse: () => Effect.fail(new HttpClientError({ reason: late })),
            }),
            Effect.tap(({ status }) =>
              status < 300 ? Effect.sync(() => (failing = false)) : failed(`status ${status}`),
            ),
            Effect.ensuring(Effect.sync(() => (requests -= 1))),
          );
        }).pipe(Effect.tapError((error) => failed(error.reason.description ?? error.message))),
      );
    }),
  ).pipe(Layer.provide(FetchHttpClient.layer));
