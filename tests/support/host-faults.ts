/**
 * Wraps any `HostService` so that a test can watch, delay, fail or cut off its calls.
 *
 * 1. Every call goes through `around` when it begins to run, and `around` decides whether it is made.
 */
import * as Effect from "effect/Effect";
import { type HostError, HostFailed } from "../../lib/host/errors.ts";
import type { HostService } from "../../lib/host/host.ts";

/** After these kubelet comes back, or takes away what is there; after any other it takes the call for not made. */
export const NOT_FINAL = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"];

/** Of a call that certainly did nothing. */
export const definite = new HostFailed({ op: "x", subject: "y", errno: 5, reason: "Input/output error" });

export interface HostCall {
  readonly method: keyof HostService;
  /** The path, device or image in its first argument; "" if it has none. */
  readonly subject: string;
}

export type AroundHost = <A>(call: HostCall, act: Effect.Effect<A, HostError>) => Effect.Effect<A, HostError>;

type Act = Effect.Effect<unknown, HostError>;

const subjectOf = (argument: unknown): string => {
  if (typeof argument === "string") return argument;
  const { path, device, target, image } = (argument ?? {}) as Record<string, unknown>;
  return [target, path, device, image].find((each) => typeof each === "string") ?? "";
};

/** `inner`, with every call put through `around`. */
export const interceptedHost = (inner: HostService, around: AroundHost): HostService => {
  const wrapped = Object.entries(inner).map(([name, member]: [string, unknown]) => {
    const method = name as keyof HostService;
    // Suspended, because an effect that is made and not run is not a call.
    if (typeof member !== "function")
      return [method, Effect.suspend(() => around({ method, subject: "" }, member as Act))];
    const call = (...args: readonly unknown[]) =>
      Effect.suspend(() =>
        around({ method, subject: subjectOf(args[0]) }, (member as (...given: readonly unknown[]) => Act)(...args)),
      );
    return [method, call];
  });
  return Object.fromEntries(wrapped) as HostService;
};

/** Counts the calls of one method. */
export const countingHost = (inner: HostService, counted: keyof HostService) => {
  let calls = 0;
  const host = interceptedHost(inner, ({ method }, act) => {
    if (method === counted) calls += 1;
    return act;
  });
  return { host, calls: () => calls };
};
