/**
 * The contract of lib/ceph/ceph.ts: one suite, run on the cluster in memory and on a real one, so that the model
 * cannot lie. Where the two differ, the real one is right.
 */
import { describe } from "bun:test";
import { accessContract } from "./access.ts";
import { blocklistContract } from "./blocklist.ts";
import { cloneContract } from "./clones.ts";
import { diffContract } from "./diff.ts";
import { flattenContract } from "./flatten.ts";
import { groupContract } from "./groups.ts";
import { groupSnapshotContract } from "./group-snapshots.ts";
import { halfCloneContract } from "./half-clones.ts";
import { session, type World } from "./harness.ts";
import { imageContract } from "./images.ts";
import { imageUseContract } from "./image-use.ts";
import { listingContract } from "./listing.ts";
import { managerContract } from "./manager.ts";
import { mendContract } from "./mend.ts";
import { omapContract } from "./omap.ts";
import { omapWriteContract } from "./omap-write.ts";
import { poolContract } from "./pools.ts";
import { snapshotContract } from "./snapshots.ts";
import { restoredContract } from "./restored.ts";
import { snapshotTrashContract } from "./snapshot-trash.ts";
import { sparsifyContract } from "./sparsify.ts";
import { trashContract } from "./trash.ts";

export const contract = (name: string, make: () => Promise<World>): void => {
  describe(name, () => {
    const at = session(make);
    describe("pools", () => poolContract(at));
    describe("omap", () => omapContract(at));
    describe("omap writes", () => omapWriteContract(at));
    describe("images", () => imageContract(at));
    describe("images in use", () => imageUseContract(at));
    describe("images cut short", () => mendContract(at));
    describe("trash", () => trashContract(at));
    describe("what leaves the trash", () => restoredContract(at));
    describe("snapshots", () => snapshotContract(at));
    describe("clones", () => cloneContract(at));
    describe("clones cut short", () => halfCloneContract(at));
    describe("the snapshots' trash", () => snapshotTrashContract(at));
    describe("flattening", () => flattenContract(at));
    describe("sparsifying", () => sparsifyContract(at));
    describe("differences", () => diffContract(at));
    describe("listing", () => listingContract(at));
    describe("groups", () => groupContract(at));
    describe("snapshots of groups", () => groupSnapshotContract(at));
    describe("the blocklist", () => blocklistContract(at));
    describe("access", () => accessContract(at));
    // last: it stops the manager
    describe("manager", () => managerContract(at));
  });
};
