/**
 * A process around one Effect: start it, hold it until a signal, stop it in order.
 *
 * Not here: what runs (services/). No top-level await in entry files: Bun spins on one that nothing can settle.
 *
 * 1. SIGTERM and SIGINT close the scope, so that servers stop gracefully; the process then exits with 0.
 * 2. It exits for certain: after `limitSeconds`, or at the second signal, whatever still hangs (a thread stuck in C).
 * 3. A failure to start is one line on stderr and exit code 1; a defect shows its cause.
 */
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import type * as Scope from "effect/Scope";

/** `main` sets everything up and returns; what it put into its scope goes on until the end. */
export const launch = (
  main: Effect.Effect<unknown, { readonly message: string }, Scope.Scope>,
  limitSeconds = 30,
): void => {
  const fiber = Effect.runFork(Effect.scoped(Effect.andThen(main, Effect.never)));
  let stopping = false;
  const stop = () => {
    if (stopping) process.exit(1);
    stopping = true;
    setTimeout(() => process.exit(1), limitSeconds * 1000).unref();
    fiber.interruptUnsafe();
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  fiber.addObserver((exit) => {
    if (Exit.isSuccess(exit) || (stopping && Cause.hasInterruptsOnly(exit.cause))) process.exit(0);
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause));
    console.error(error === undefined ? Cause.pretty(exit.cause) : error.message);
    process.exit(1);
  });
};
