/** The contract on the cluster in memory. */
import * as Redacted from "effect/Redacted";
import { CephMemory, MEMORY_KEY, memoryAccess, MemoryCluster } from "../../lib/ceph/memory.ts";
import { contract } from "./suite.ts";

contract("CephMemory", async () => {
  const cluster = new MemoryCluster({
    pools: ["contract", "contract-data"],
    monitors: memoryAccess.monitors,
    users: {
      admin: { key: MEMORY_KEY, manager: true },
      limited: { key: "bGltaXRlZA==", manager: false, pools: ["contract"] },
    },
  });
  return {
    layer: CephMemory(cluster),
    access: memoryAccess,
    pool: "contract",
    dataPool: "contract-data",
    namespace: "other",
    limited: { ...memoryAccess, user: "limited", key: Redacted.make("bGltaXRlZA==") },
    addPool: async (name) => cluster.addPool(name),
    write: async (ref, image) => {
      cluster.image(ref.pool, image, ref.namespace).hasData = true;
    },
    watch: async (ref, image) => {
      const close = cluster.watch(ref.pool, image, ref.namespace);
      return async () => close();
    },
    cutShort: async (what, ref, image) => cluster.cutShort(what, ref.pool, image, ref.namespace),
    hasObjectMap: async (ref, image) => cluster.image(ref.pool, image, ref.namespace).objectMap === "whole",
    stopManager: async () => {
      cluster.managerUp = false;
    },
    startManager: async () => {
      cluster.managerUp = true;
    },
    remove: async () => {},
  };
});
