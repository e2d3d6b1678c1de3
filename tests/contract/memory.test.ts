/** The contract on the cluster in memory. */
import { describe } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { showContent, ZEROS } from "../support/ceph-memory/content.ts";
import {
  cephLayerMemory,
  cephMemoryService,
  MEMORY_KEY,
  memoryAccess,
  MemoryCluster,
  type MemoryOptions,
} from "../support/ceph-memory/memory.ts";
import { diffContract } from "./diff.ts";
import { groupContract } from "./groups.ts";
import { groupSnapshotContract } from "./group-snapshots.ts";
import { session, type World } from "./harness.ts";
import { contract } from "./suite.ts";

const memoryWorld = async (options: MemoryOptions, diffsFromIds = true): Promise<World> => {
  const cluster = new MemoryCluster({
    ...options,
    pools: ["contract", "contract-data"],
    monitors: memoryAccess.monitors,
    users: {
      admin: { key: MEMORY_KEY, manager: true },
      limited: { key: "bGltaXRlZA==", manager: false, pools: ["contract"] },
    },
  });
  cluster.diffsFromIds = diffsFromIds;
  const coded = (name: string, overwrites: boolean) => {
    const pool = cluster.pools.get(name);
    if (pool !== undefined) pool.coded = { overwrites };
  };
  return {
    layer: cephLayerMemory(cluster),
    access: memoryAccess,
    pool: "contract",
    dataPool: "contract-data",
    namespace: "other",
    limited: { ...memoryAccess, user: "limited", key: Redacted.make("bGltaXRlZA==") },
    addPool: async (name) => cluster.addPool(name),
    addCodedPool: async (name) => {
      cluster.addPool(name);
      coded(name, false);
    },
    allowOverwrites: async (name) => coded(name, true),
    diffsFromIds,
    trashesMembers: cluster.trashesMembers,
    setQuota: async (name, bytes) => {
      const pool = cluster.pools.get(name);
      if (pool !== undefined) pool.quotaBytes = bytes;
    },
    write: async (ref, image, { offset, length } = { offset: 0n, length: 4096n }) =>
      cluster.image(ref.pool, image, ref.namespace).write(offset, length),
    writeZeros: async (ref, image) => {
      const found = cluster.image(ref.pool, image, ref.namespace);
      found.writeZeros(0n, found.objectSize);
    },
    discard: async (ref, image, { offset, length }) =>
      cluster.image(ref.pool, image, ref.namespace).discard(offset, length),
    content: async (ref, image, snapshot) => {
      const found = cluster.image(ref.pool, image, ref.namespace);
      const held = snapshot === undefined ? found : found.snapshotNamed(snapshot);
      return JSON.stringify(showContent((held?.holds() ?? []).filter(({ stamp }) => stamp !== ZEROS)));
    },
    lock: async (ref, image, id) => {
      const found = cluster.image(ref.pool, image, ref.namespace);
      found.locks = [{ id, client: "client.4099", address: "127.0.0.1:0/4099" }];
    },
    watch: async (ref, image) => {
      const close = cluster.watch(ref.pool, image, ref.namespace);
      return async () => close();
    },
    listen: async (ref, image) => {
      const found = cluster.image(ref.pool, image, ref.namespace);
      const before = found.notices;
      return { heard: () => found.notices - before, close: async () => {} };
    },
    cutCloneShort: async (what, ref, source, image) => {
      await Effect.runPromise(
        cephMemoryService(cluster).imageClone({ ...source, pool: ref }, ref, image, { features: 61n }),
      );
      cluster.cutShort(what, ref.pool, image, ref.namespace);
    },
    cutGroupSnapshotShort: async (ref, group, snapshot) =>
      cluster.cutGroupSnapshotShort(ref.pool, group, snapshot, ref.namespace),
    groups: {
      members: async (ref, group) => cluster.members(ref.pool, group, ref.namespace),
      drop: async (_ref, _group, { pool, image }) => cluster.leaveGroup(pool.pool, image, pool.namespace),
      snapshots: async (ref, group) => cluster.groupSnapshots(ref.pool, group, ref.namespace),
      removeSnapshot: async (ref, group, snapshot) =>
        cluster.removeGroupSnapshot(ref.pool, group, snapshot, ref.namespace),
    },
    metadata: async (ref, image) => Object.fromEntries(cluster.image(ref.pool, image, ref.namespace).meta),
    cutShort: async (what, ref, image) => cluster.cutShort(what, ref.pool, image, ref.namespace),
    restore: async (ref, id) => cluster.restore(ref.pool, id, ref.namespace),
    hasObjectMap: async (ref, image) => cluster.image(ref.pool, image, ref.namespace).objectMap === "whole",
    stopManager: async () => {
      cluster.managerUp = false;
    },
    startManager: async () => {
      cluster.managerUp = true;
    },
    remove: async () => {},
  };
};

contract("the cluster in memory", () => memoryWorld({}));

describe("the cluster in memory, like an older release", () => {
  const at = session(() => memoryWorld({ trashesMembers: true }, false));
  describe("differences", () => diffContract(at));
  describe("groups", () => groupContract(at));
  describe("snapshots of groups", () => groupSnapshotContract(at));
});
