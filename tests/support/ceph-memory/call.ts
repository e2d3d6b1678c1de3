/**
 * Runs a call on a cluster in memory: interleaving, failures, and access checks.
 *
 * 1. Each call yields before it acts and after it, so that fibers interleave as they do around real calls.
 * 2. The act itself is one synchronous step: it happens entirely or not at all, also if the caller is interrupted.
 */
import { constants } from "node:os";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import {
  AccessDenied,
  type CephError,
  ImageNotFound,
  ParentLost,
  PoolNotFound,
  Unreachable,
} from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import type { ClusterAccess, PoolRef } from "../../../lib/ceph/rados.ts";
import type { MemoryCluster, MemoryNamespace } from "./cluster.ts";
import type { MemoryImage } from "./image.ts";

/** Carries a typed error out of a synchronous act. Anything else that is thrown there is a bug, and becomes a defect. */
class Refused {
  constructor(readonly error: CephError) {}
}
export const refuse = (error: CephError): Refused => new Refused(error);

const once = <A>(act: () => A): Effect.Effect<A, CephError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(act());
    } catch (thrown) {
      if (thrown instanceof Refused) return Effect.fail(thrown.error);
      throw thrown;
    }
  });

export const call = <A>(act: () => A): Effect.Effect<A, CephError> =>
  Effect.yieldNow.pipe(
    Effect.andThen(once(act)),
    Effect.tap(() => Effect.yieldNow),
  );

export const { EINVAL } = constants.errno;

export const admit = (cluster: MemoryCluster, access: ClusterAccess, op: string): void => {
  const subject = access.monitors.join(",");
  const known = cluster.monitors === undefined || access.monitors.some((at) => cluster.monitors?.includes(at));
  if (!cluster.reachable || !known) throw refuse(new Unreachable({ op, subject, reason: "connection timed out" }));
  if (cluster.users.get(access.user)?.key !== Redacted.value(access.key)) {
    throw refuse(new AccessDenied({ op: "rados_connect", subject, user: access.user }));
  }
};

export const enter = (cluster: MemoryCluster, ref: PoolRef, op: string): MemoryNamespace => {
  admit(cluster, ref.access, op);
  const namespace = cluster.namespace(ref.pool, ref.namespace);
  if (namespace === undefined) throw refuse(new PoolNotFound({ op, subject: ref.pool }));
  const caps = cluster.users.get(ref.access.user)?.pools;
  if (caps !== undefined && !caps.includes(ref.pool)) {
    throw refuse(new AccessDenied({ op, subject: ref.pool, user: ref.access.user }));
  }
  return namespace;
};

export const open = (cluster: MemoryCluster, ref: PoolRef, image: string, op: string): MemoryImage => {
  const found = enter(cluster, ref, op).images.get(image);
  const subject = imageLabel(ref, image);
  if (found === undefined) throw refuse(new ImageNotFound({ op, subject }));
  if (found.lostParent) throw refuse(new ParentLost({ op, subject }));
  return found;
};
