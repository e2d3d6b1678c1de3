/** The four services of lib/ceph as one value, as tests of the whole contract call them. */
import * as Effect from "effect/Effect";
import type { Ceph, CephCalls } from "../../lib/ceph/ceph.ts";
import { Blocklist } from "../../lib/ceph/blocklist.ts";
import { Manager } from "../../lib/ceph/manager.ts";
import { Rados } from "../../lib/ceph/rados.ts";
import { Rbd } from "../../lib/ceph/rbd.ts";

export const wholeCeph: Effect.Effect<CephCalls, never, Ceph> = Effect.map(
  Effect.all([Rados, Rbd, Manager, Blocklist]),
  ([rados, rbd, manager, blocklist]) => ({ ...rados, ...rbd, ...manager, ...blocklist }),
);
