/**
 * The contract of lib/ceph/ceph.ts: one suite, run on the cluster in memory and on a real one, so that the model
 * cannot lie. Where the two differ, the real one is right.
 */
import { describe } from "bun:test";
import { accessContract } from "./access.ts";
import { session, type World } from "./harness.ts";
import { imageContract } from "./images.ts";
import { imageUseContract } from "./image-use.ts";
import { managerContract } from "./manager.ts";
import { mendContract } from "./mend.ts";
import { omapContract } from "./omap.ts";
import { omapWriteContract } from "./omap-write.ts";
import { poolContract } from "./pools.ts";
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
    describe("access", () => accessContract(at));
    // last: it stops the manager
    describe("manager", () => managerContract(at));
  });
};
