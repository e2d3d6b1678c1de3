/**
 * All access to a Ceph cluster: four Effect services with two implementations. ./live/live.ts uses librados and librbd;
 * tests/support/ceph-memory is the model for tests. tests/contract checks that both behave alike.
 *
 * Not here: anything of CSI.
 */
import * as Layer from "effect/Layer";
import { Blocklist, type BlocklistCalls } from "./blocklist.ts";
import { Manager, type ManagerCalls } from "./manager.ts";
import { Rados, type RadosCalls } from "./rados.ts";
import { Rbd, type RbdCalls } from "./rbd.ts";

/** All four services: the requirement of a recipe that uses them together. */
export type Ceph = Blocklist | Rados | Rbd | Manager;

/** One implementation of all four. */
export interface CephCalls extends RadosCalls, RbdCalls, ManagerCalls, BlocklistCalls {}

/** The four services from one implementation. */
export const cephLayer = (calls: CephCalls): Layer.Layer<Ceph> =>
  Layer.mergeAll(
    Layer.succeed(Rados, Rados.of(calls)),
    Layer.succeed(Rbd, Rbd.of(calls)),
    Layer.succeed(Manager, Manager.of(calls)),
    Layer.succeed(Blocklist, Blocklist.of(calls)),
  );
