/**
 * Wrappers over any `CephCalls` that record, delay or fail calls, or crash the driver in one.
 *
 * Not here: a model of Ceph (tests/support/ceph-memory/memory.ts).
 *
 * 1. Calls are numbered from 1 in the order in which they begin to run, retries included.
 * 2. After a crash no call of that driver acts: undo steps that still run in the process change nothing.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { type CephError, NoSpace } from "../../lib/ceph/errors.ts";
import { imageLabel } from "../../lib/ceph/label.ts";
import type { ClusterAccess, PoolRef } from "../../lib/ceph/rados.ts";
import type { SnapshotRef } from "../../lib/ceph/rbd.ts";

export type CephMethod = keyof CephCalls;

export interface CephCall {
  readonly method: CephMethod;
  /** The pool, `pool/object` or the like that the call is for. */
  readonly subject: string;
  /** Its number, from 1. */
  readonly n: number;
}

/** Runs in place of a call; `act` is the call itself. */
export type Around = <A>(call: CephCall, act: Effect.Effect<A, CephError>) => Effect.Effect<A, CephError>;

/** The moment of a fault: before Ceph gets the call, or after Ceph has done it. */
export type Moment = "before" | "after";

/** A pool and what is in it, a snapshot, or something of the whole cluster: by the kind of the first arguments. */
const subjectOf = (args: readonly unknown[]): string => {
  const at = args.findIndex(isPool);
  const [pool, name] = args.slice(at);
  if (at >= 0 && isPool(pool)) {
    if (typeof name === "string") return imageLabel(pool, name);
    return Array.isArray(name) ? `${name.length} of ${pool.pool}` : pool.pool;
  }
  const [first, second] = args as readonly [SnapshotRef | ClusterAccess, string | bigint | undefined];
  if ("snapshot" in first) return `${imageLabel(first.pool, first.image)}@${first.snapshot}`;
  if (second === undefined) return first.monitors.join(",");
  return typeof second === "bigint" ? `#${second}` : second;
};

const isPool = (value: unknown): value is PoolRef =>
  typeof value === "object" && value !== null && "access" in value && "pool" in value;

type Act = (...args: readonly unknown[]) => Effect.Effect<unknown, CephError>;

/** Every call of `inner`, put through `around`. */
export const intercepted = (inner: CephCalls, around: Around): CephCalls => {
  let begun = 0;
  const wrapped = Object.entries(inner).map(([name, act]: [string, Act]) => {
    const method = name as CephMethod;
    // suspended: an effect that is made but not run is not a call
    const call: Act = (...args) =>
      Effect.suspend(() => around({ method, subject: subjectOf(args), n: ++begun }, act(...args)));
    return [method, call];
  });
  return Object.fromEntries(wrapped) as CephCalls;
};

/** Does `onCall` before each call. */
export const observed = (
  inner: CephCalls,
  onCall: (method: CephMethod, subject: string, n: number) => Effect.Effect<void>,
): CephCalls => intercepted(inner, (call, act) => Effect.andThen(onCall(call.method, call.subject, call.n), act));

/** Records the calls that began, for call budgets. */
export const recorded = (
  inner: CephCalls,
): {
  readonly service: CephCalls;
  readonly calls: () => readonly CephCall[];
  /** Forgets the calls so far; their numbers go on. */
  readonly forget: () => void;
} => {
  let calls: CephCall[] = [];
  const service = intercepted(inner, (call, act) => {
    calls.push(call);
    return act;
  });
  return { service, calls: () => [...calls], forget: () => void (calls = []) };
};

/** The defect of every call of a crashed driver. */
export class Crash extends Error {
  constructor(readonly call: CephCall) {
    super(`the driver died at call ${call.n}, ${call.method} ${call.subject}`);
    this.name = "Crash";
  }
}

/**
 * Crashes the driver at its k-th call: before Ceph gets it, or after Ceph has done it and before the driver knows. That call
 * and all later ones die with the defect `Crash`; `crashed` says whether there was a k-th call.
 */
export const crashAt = (
  inner: CephCalls,
  k: number,
  moment: Moment,
): { readonly service: CephCalls; readonly crashed: () => boolean } => {
  let crash: Crash | undefined;
  const service = intercepted(inner, (call, act) => {
    if (crash !== undefined) return Effect.die(crash);
    if (call.n !== k) {
      // calls that run beside the k-th do not answer either
      return Effect.flatMap(Effect.exit(act), (exit) => (crash === undefined ? exit : Effect.die(crash)));
    }
    crash = new Crash(call);
    const death = Effect.die(crash);
    return moment === "before" ? death : Effect.andThen(Effect.exit(act), death);
  });
  return { service, crashed: () => crash !== undefined };
};

/**
 * Fails the k-th call with `error`: without making it, or after Ceph has done it, which the caller cannot know. The error
 * then has to be one of unknown outcome, such as `TimedOut`.
 */
export const failAt = (inner: CephCalls, k: number, error: CephError, moment: Moment): CephCalls =>
  intercepted(inner, (call, act) => {
    if (call.n !== k) return act;
    const failure = Effect.fail(error);
    return moment === "before" ? failure : Effect.andThen(Effect.exit(act), failure);
  });

/**
 * As `failAt`, but an image that is busy stays so until `over`: every look at who has it open fails, because a driver
 * that finds an image in use looks again for some seconds.
 */
export const faultAt = (
  inner: CephCalls,
  k: number,
  error: CephError,
  moment: Moment,
): { readonly service: CephCalls; readonly over: () => void } => {
  let busy: string | undefined;
  const service = intercepted(failAt(inner, k, error, moment), (call, act) => {
    if (call.method !== "imageStatus" || error._tag !== "Busy") return act;
    if (call.n === k) busy = call.subject;
    return call.n !== k && call.subject === busy ? Effect.fail(error) : act;
  });
  return { service, over: () => void (busy = undefined) };
};

/** Fails the first call of a method that is about `subject`, without making it. */
export const failingOnce = (
  inner: CephCalls,
  method: CephMethod,
  subject: RegExp,
  error: CephError = new NoSpace({ op: "a_call", subject: "rbd" }),
): CephCalls => {
  let failed = false;
  return intercepted(inner, (call, act) => {
    if (failed || call.method !== method || !subject.test(call.subject)) return act;
    failed = true;
    return Effect.fail(error);
  });
};

/** A service whose calls of a method wait until they are let go. */
export const held = (inner: CephCalls, method: CephMethod, subject = /./) => {
  const { promise, resolve: letGo } = Promise.withResolvers<void>();
  let waiting = 0;
  const ceph = intercepted(inner, (call, act) => {
    if (call.method !== method || !subject.test(call.subject)) return act;
    waiting += 1;
    return Effect.andThen(
      Effect.promise(() => promise),
      act,
    );
  });
  return { ceph, letGo, waiting: () => waiting };
};

/** Each call takes `milliseconds` more, before it acts. */
export const latency = (inner: CephCalls, milliseconds: number): CephCalls =>
  intercepted(inner, (_call, act) => Effect.delay(act, milliseconds));
