/**
 * A Host whose calls are watched, cut off, failing, or never answered: a wrapper over any `HostService`. For tests.
 *
 * 1. Every call goes through `around`, which decides whether it is made; calls are told when they begin to run.
 */
import * as Effect from "effect/Effect";
import type { HostError } from "../../lib/host/errors.ts";
import type { HostService } from "../../lib/host/host.ts";

export interface HostCall {
  readonly method: keyof HostService;
  /** What it is about, as far as the first argument tells. */
  readonly subject: string;
}

export type AroundHost = <A>(call: HostCall, act: Effect.Effect<A, HostError>) => Effect.Effect<A, HostError>;

type Act = Effect.Effect<unknown, HostError>;

const subjectOf = (argument: unknown): string => {
  if (typeof argument === "string") return argument;
  const { path, device, target, image } = (argument ?? {}) as Record<string, unknown>;
  return [target, path, device, image].find((each) => typeof each === "string") ?? "";
};

/** Every call of `inner`, put through `around`. */
export const interceptedHost = (inner: HostService, around: AroundHost): HostService => {
  const wrapped = Object.entries(inner).map(([name, member]: [string, unknown]) => {
    const method = name as keyof HostService;
    // suspended: an effect that is made but not run is no call
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
