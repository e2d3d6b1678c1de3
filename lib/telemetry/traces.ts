/**
 * Turns traces on if the environment asks for them, and loads the exporter only then.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { arm } from "./armed.ts";
import { readOtelEnvironment } from "./otel-environment.ts";
import { onlyOwnSpans, SpanCollector } from "./tracing.ts";

/** A wrong variable leaves traces off, and is logged: a driver must not stay away because of its traces. */
export const tracesLayer = (
  environment: Readonly<Record<string, string | undefined>>,
  version: string,
): Layer.Layer<never> =>
  Layer.effect(
    SpanCollector,
    Effect.gen(function* () {
      const settings = readOtelEnvironment(environment);
      if (Result.isFailure(settings)) {
        yield* Effect.logWarning(`Traces are off: ${settings.failure}`);
        return undefined;
      }
      if (settings.success === undefined) return undefined;
      yield* arm;
      const { collectSpans } = yield* Effect.promise(() => import("./otlp.ts"));
      return yield* collectSpans(settings.success, version);
    }),
  ).pipe(Layer.merge(onlyOwnSpans));
