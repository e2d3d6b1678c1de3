/**
 * A Ceph whose calls are watched, late, failing or cut off by the driver's death: wrappers over any `CephCalls`.
 *
 * For tests only. Not a model of Ceph (that is tests/support/ceph-memory/memory.ts): the inner service acts, or it is not asked.
 *
 * 1. Calls are numbered from 1 in the order in which they begin to run, retries included.
 * 2. After a crash no call of that driver acts again: undo steps that still run in the process change nothing.
 */
import * as Effect from "effect/Effect";
import { type CephCalls, imageLabel } from "../../lib/ceph/ceph.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";

export type CephMethod = keyof CephCalls;

export interface CephCall {
  readonly method: CephMethod;
  /** What it is about: a pool, or `pool/object` and the like. */
  readonly subject: string;
  /** Its number, from 1. */
  readonly n: number;
}

/** Runs in place of a call; `act` is the call itself. */
export type Around = <A>(call: CephCall, act: Effect.Effect<A, CephError>) => Effect.Effect<A, CephError>;

/** Where in a call something happens to the driver: before Ceph has heard of it, or after Ceph has done it. */
export type Moment = "before" | "after";

/** Every call of `inner`, put through `around`. */
export const intercepted = (inner: CephCalls, around: Around): CephCalls => {
  let begun = 0;
  // suspended: an effect that is made but not run is no call
  const one = <A>(method: CephMethod, subject: string, act: () => Effect.Effect<A, CephError>) =>
    Effect.suspend(() => around({ method, subject, n: ++begun }, act()));
  const named =
    <Rest extends readonly unknown[], A>(
      method: CephMethod,
      run: (pool: PoolRef, name: string, ...rest: Rest) => Effect.Effect<A, CephError>,
    ) =>
    (pool: PoolRef, name: string, ...rest: Rest) =>
      one(method, imageLabel(pool, name), () => run(pool, name, ...rest));
  const many = (pool: PoolRef, wanted: readonly unknown[]) => `${wanted.length} of ${pool.pool}`;

  return {
    poolId: (access, pool) => one("poolId", pool, () => inner.poolId(access, pool)),
    poolName: (access, id) => one("poolName", `#${id}`, () => inner.poolName(access, id)),
    omapGet: named("omapGet", inner.omapGet),
    omapFollow: named("omapFollow", inner.omapFollow),
    omapWrite: named("omapWrite", inner.omapWrite),
    objectRemove: named("objectRemove", inner.objectRemove),
    imageCreate: named("imageCreate", inner.imageCreate),
    imageId: named("imageId", inner.imageId),
    imageStatus: named("imageStatus", inner.imageStatus),
    imageGrow: named("imageGrow", inner.imageGrow),
    imageMend: named("imageMend", inner.imageMend),
    imageHasData: named("imageHasData", inner.imageHasData),
    imageMetaGet: named("imageMetaGet", inner.imageMetaGet),
    imageMetaSet: named("imageMetaSet", inner.imageMetaSet),
    trashMove: named("trashMove", inner.trashMove),
    trashGet: named("trashGet", inner.trashGet),
    trashList: (pool) => one("trashList", pool.pool, () => inner.trashList(pool)),
    trashRemove: named("trashRemove", inner.trashRemove),
    managerTrashRemove: named("managerTrashRemove", inner.managerTrashRemove),

    snapshotCreate: named("snapshotCreate", inner.snapshotCreate),
    snapshotRemove: named("snapshotRemove", inner.snapshotRemove),
    snapshots: named("snapshots", inner.snapshots),
    imageClone: (source, pool, image, spec) =>
      one("imageClone", imageLabel(pool, image), () => inner.imageClone(source, pool, image, spec)),
    cloneDepth: named("cloneDepth", inner.cloneDepth),
    imageMetaList: named("imageMetaList", inner.imageMetaList),
    imageFlatten: named("imageFlatten", inner.imageFlatten),
    managerFlatten: named("managerFlatten", inner.managerFlatten),
    managerTasks: (access) => one("managerTasks", access.monitors.join(","), () => inner.managerTasks(access)),
    diff: (source, from, offset, limit) =>
      one("diff", `${imageLabel(source.pool, source.image)}@${source.snapshot}`, () =>
        inner.diff(source, from, offset, limit),
      ),

    pools: (access) => one("pools", access.monitors.join(","), () => inner.pools(access)),
    poolSpace: (access, pool) => one("poolSpace", pool, () => inner.poolSpace(access, pool)),
    omapList: named("omapList", inner.omapList),
    omapGetMany: (pool, wanted) => one("omapGetMany", many(pool, wanted), () => inner.omapGetMany(pool, wanted)),
    imageBriefs: (pool, images, metadata) =>
      one("imageBriefs", many(pool, images), () => inner.imageBriefs(pool, images, metadata)),

    groupCreate: named("groupCreate", inner.groupCreate),
    groupRemove: named("groupRemove", inner.groupRemove),
    groupImages: named("groupImages", inner.groupImages),
    groupAdd: named("groupAdd", inner.groupAdd),
    groupDrop: named("groupDrop", inner.groupDrop),
    groupSnapshotCreate: named("groupSnapshotCreate", inner.groupSnapshotCreate),
    groupSnapshotRemove: named("groupSnapshotRemove", inner.groupSnapshotRemove),
    groupSnapshots: named("groupSnapshots", inner.groupSnapshots),
    groupSnapshotMembers: named("groupSnapshotMembers", inner.groupSnapshotMembers),
  };
};

/** Tells `onCall` of each call before it is made. */
export const observed = (
  inner: CephCalls,
  onCall: (method: CephMethod, subject: string, n: number) => Effect.Effect<void>,
): CephCalls => intercepted(inner, (call, act) => Effect.andThen(onCall(call.method, call.subject, call.n), act));

/** Keeps a record of the calls that began, for call budgets. */
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

/** The defect of every call that a dead driver would have made. */
export class Crash extends Error {
  constructor(readonly call: CephCall) {
    super(`the driver died at call ${call.n}, ${call.method} ${call.subject}`);
    this.name = "Crash";
  }
}

/**
 * A driver that dies at its k-th call: before Ceph has heard of it, or after Ceph has done it and before the driver
 * knows. That call and all later ones die with the defect `Crash`; `crashed` says whether there was a k-th call.
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
      // of calls side by side with the k-th, a dead driver hears nothing either
      return Effect.flatMap(Effect.exit(act), (exit) => (crash === undefined ? exit : Effect.die(crash)));
    }
    crash = new Crash(call);
    const death = Effect.die(crash);
    return moment === "before" ? death : Effect.andThen(Effect.exit(act), death);
  });
  return { service, crashed: () => crash !== undefined };
};

/**
 * Fails the k-th call with `error`: without making it, or after Ceph has done it, which the caller can't tell (give a
 * `TimedOut` or another error of unknown outcome).
 */
export const failAt = (inner: CephCalls, k: number, error: CephError, moment: Moment): CephCalls =>
  intercepted(inner, (call, act) => {
    if (call.n !== k) return act;
    const failure = Effect.fail(error);
    return moment === "before" ? failure : Effect.andThen(Effect.exit(act), failure);
  });

/** Each call takes `milliseconds` more, before it acts. */
export const latency = (inner: CephCalls, milliseconds: number): CephCalls =>
  intercepted(inner, (_call, act) => Effect.delay(act, milliseconds));
