/**
 * Whether anything in this process measures or traces. The hooks ask here first, because a look into the fiber for each
 * stage and call would cost a driver that nobody watches about 1 % of a repeated CreateVolume.
 *
 * Not here: where measurements and spans go, which the fiber says (./metrics.ts, ./tracing.ts).
 *
 * 1. It is asked when an effect is made, so telemetry starts before anything that makes effects with hooks.
 */
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";

let holders = 0;

export const isArmed = (): boolean => holders > 0;

/** Has the hooks look into their fibers until the scope closes. */
export const arm: Effect.Effect<void, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => void (holders += 1)),
  () => Effect.sync(() => void (holders -= 1)),
);
