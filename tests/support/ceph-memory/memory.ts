/**
 * `Rados`, `Rbd`, `Manager` and `Blocklist` over a cluster in memory (./cluster.ts), for tests.
 *
 * Not a second truth: tests/contract runs one suite on this and on a real Ceph, and where they differ, this is wrong.
 * Not modelled: refusals for lack of space, slow or lost answers (for those see tests/support/ceph-faults.ts), mirroring
 * but for what the status says, and a trash that was emptied half. A snapshot in the snapshots' trash can't be opened by
 * its id.
 */
import type * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { type Ceph, type CephCalls, cephLayer } from "../../../lib/ceph/ceph.ts";
import type { ClusterAccess } from "../../../lib/ceph/rados.ts";
import { MEMORY_KEY, MemoryCluster, type MemoryOptions } from "./cluster.ts";
import { blocklistCalls } from "./blocklist.ts";
import { groupCalls } from "./groups.ts";
import { imageCalls } from "./images.ts";
import { managerCalls } from "./manager.ts";
import { radosCalls } from "./rados.ts";
import { snapshotCalls } from "./snapshots.ts";

export { type CutShort, MemoryCluster, MEMORY_KEY, type MemoryOptions } from "./cluster.ts";
export type { MemoryImage } from "./image.ts";

/** Reaches a memory cluster made without options. */
export const memoryAccess: ClusterAccess = {
  monitors: ["127.0.0.1:6789"],
  user: "admin",
  key: Redacted.make(MEMORY_KEY),
};

/** The calls of one driver on a cluster. */
export const cephMemoryService = (cluster: MemoryCluster): CephCalls => ({
  ...radosCalls(cluster),
  ...imageCalls(cluster),
  ...snapshotCalls(cluster),
  ...groupCalls(cluster),
  ...managerCalls(cluster),
  ...blocklistCalls(cluster),
});

/** A cluster and one driver's calls on it; `cephMemoryService(cluster)` makes those of the driver that comes next. */
export const makeCephMemory = (
  options?: MemoryOptions,
): { readonly service: CephCalls; readonly cluster: MemoryCluster } => {
  const cluster = new MemoryCluster(options);
  return { service: cephMemoryService(cluster), cluster };
};

/** The four services over a memory cluster, a new one where none is given. */
export const cephLayerMemory = (cluster: MemoryCluster = new MemoryCluster()): Layer.Layer<Ceph> =>
  cephLayer(cephMemoryService(cluster));
