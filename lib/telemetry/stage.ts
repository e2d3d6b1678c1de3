/**
 * A stage of an RPC's work as a measurement and a span.
 *
 * Not here: what else a stage is (lib/operations/pipeline.ts).
 */
import * as Effect from "effect/Effect";
import type * as Fiber from "effect/Fiber";
import { isArmed } from "./armed.ts";
import { Timings } from "./metrics.ts";
import { childSpanIn } from "./tracing.ts";

/** Takes the duration where metrics are served and makes a span where traces are collected; otherwise it is `body`. */
export const observedStage = <A, E, R>(
  fiber: Fiber.Fiber<unknown, unknown>,
  rpc: string,
  stage: string,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> => {
  if (!isArmed()) return body;
  const spanned = childSpanIn(fiber, "internal", { name: stage }, body);
  const timings = fiber.getRef(Timings);
  if (timings === undefined) return spanned;
  const since = performance.now();
  return Effect.onExit(spanned, () => {
    timings.stage(rpc, stage, (performance.now() - since) / 1000);
    return Effect.void;
  });
};
