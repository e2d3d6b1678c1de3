/**
 * A role is one thing that this process can be: the Controller, the Node, a liveness probe, later a registrar. Each
 * is one file of services/ that exports its Role; compose.ts makes a process of the roles that the flags ask for.
 *
 * Not here: which roles there are (services/), and how they are started (./compose.ts).
 *
 * 1. A role whose layer lacks what its services or its work ask for does not compile.
 * 2. Layers that several roles name are the same values (./world.ts), so a process builds each once.
 */
import type * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type * as Scope from "effect/Scope";
import type { ServedService } from "../grpc/service.ts";

/** Why a role cannot start, or goes no further: the process prints the message and ends. */
export interface RoleError {
  readonly message: string;
}

export interface Role<P> {
  readonly name: string;
  /** All that `serves` and `runs` ask for. */
  readonly layer: Layer.Layer<P, RoleError>;
  /** Done before anything else of the process, the layers of all roles included. */
  readonly first?: Effect.Effect<void, RoleError>;
  /** gRPC services, on the process's socket next to those of other roles. */
  readonly serves?: readonly ServedService<P>[];
  /** A socket of the role's own, in place of the process's. */
  readonly endpoint?: string;
  /** The process goes on, and the log warns, where the role's own socket cannot be served. */
  readonly spareEndpoint?: boolean;
  /** Work besides answering calls. It is interrupted before the servers stop; its failure ends the process. */
  readonly runs?: Effect.Effect<void, RoleError, P | Scope.Scope>;
  /** Checks of health by their paths, such as /healthz. Each gives what is wrong, or `undefined`. */
  readonly checks?: Readonly<Record<string, Effect.Effect<string | undefined>>>;
  /** Metrics are what the role is for: the process serves them also without `--enableprofiling`. */
  readonly servesMetrics?: boolean;
}

/** A role next to others. */
export type AnyRole = {
  readonly [K in keyof Role<unknown>]: K extends "layer" ? Layer.Layer<never, RoleError> : Role<unknown>[K];
};

/** States a role, and has the compiler prove the first invariant. */
export const role = <P>(parts: Role<P>): Role<P> => parts;

/** Merges the layers of the roles, for a process (./compose.ts) and for tests that call handlers as functions. */
export const layerOf = <const R extends AnyRole>(
  roles: readonly R[],
): Layer.Layer<Layer.Success<R["layer"]>, RoleError> =>
  Layer.mergeAll(Layer.empty, ...roles.map(({ layer }): R["layer"] => layer)) as Layer.Layer<
    Layer.Success<R["layer"]>,
    RoleError
  >;
