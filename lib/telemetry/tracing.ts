/**
 * Spans. They cost nothing where nobody collects them.
 */
import * as Effect from "effect/Effect";
import * as References from "effect/References";

/** A span where somebody collects spans: elsewhere each would still cost five effects. */
export const traced = <A, E, R>(
  name: string,
  kind: "server" | "internal",
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) =>
    fiber.getRef(References.TracerEnabled) ? Effect.withSpan(body, name, { kind, captureStackTrace: false }) : body,
  );
