/**
 * A process around one Effect: start it, hold it until a signal, stop it in order.
 *
 * Not here: what runs (services/). No top-level await in entry files: Bun spins on one that nothing can settle.
 *
 * 1. SIGTERM and SIGINT close the scope, so that servers stop gracefully; the process then exits with 0.
 * 2. It exits for certain: at the end of its grace budget, or at the second signal, whatever still hangs (a thread stuck
 *    in C), with 1.
 * 3. A failure to start is one line on stderr and exit code 1; a defect shows its cause.
 * 4. The process lasts as long as its Effect, also while that waits for nothing that Bun knows of: Bun ends a process
 *    that has no socket, timer or thread left.
 */
import * as Cause from "effect/Cause";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import type * as Scope from "effect/Scope";
import { type Grace, makeGrace } from "./grace.ts";

/** Runs `main` to its end, or until a signal closes its scope. */
export const launch = (
  main: Effect.Effect<void, { readonly message: string }, Scope.Scope>,
  grace: Grace = makeGrace(Duration.seconds(25)),
): void => {
  let stopping = false;
  const stop = () => {
    if (stopping) process.exit(1);
    stopping = true;
    const { exitBy } = Effect.runSync(grace.begin);
    setTimeout(() => process.exit(1), exitBy - Date.now());
    fiber.interruptUnsafe();
  };
  // Before the work, so that a signal finds them as soon as anything of it can be seen.
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  setInterval(() => {}, 2 ** 31 - 1);
  const fiber = Effect.runFork(Effect.scoped(main));
  fiber.addObserver((exit) => {
    if (Exit.isSuccess(exit) || (stopping && Cause.hasInterruptsOnly(exit.cause))) process.exit(0);
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause));
    console.error(error === undefined ? Cause.pretty(exit.cause) : error.message);
    process.exit(1);
  });
};
