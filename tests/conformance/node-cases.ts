/**
 * csi-sanity's Node cases against the real driver, where the kernel has krbd: in the rig's virtual machine, or on a
 * machine that one does not care for. They map, format and mount.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { type Driver, startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { EMPTY, makePool, settledInventory } from "../ceph/inventory.ts";
import { CLUSTER, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { run } from "../rig/place.ts";
import { runSanity } from "./sanity.ts";

export const nodeCases = (): void => {
  let driver: Driver;
  let dir = "";
  let pool: Awaited<ReturnType<typeof makePool>>;

  beforeAll(async () => {
    dir = testFolder("sanity");
    pool = await makePool("sanity");
    writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
    driver = await startDriver({ dir, flags: ["--nodeserver=true"] });
  }, 120_000);

  afterAll(async () => {
    await driver?.end();
    await pool?.remove();
  }, 60_000);

  const both = ["mount", "block"] as const;
  const cases = ["rbd", "rbd-nbd"].flatMap((mounter) => both.map((accessType) => ({ mounter, accessType })));
  for (const { mounter, accessType } of cases) {
    test(`csi-sanity: every Node case, ${accessType}, mounter ${mounter}`, async () => {
      const verdict = await runSanity({
        driver,
        dir,
        // what every krbd of the last years can map
        parameters: { clusterID: CLUSTER, pool: pool.name, imageFeatures: "layering", mounter },
        secrets: secrets(),
        accessType,
        focus: "Node Service",
        limitMs: 240_000,
      });
      const { passed, leftOut, failed } = verdict;
      console.log(
        `csi-sanity, Node (${accessType}, ${mounter}): ${passed.length} passed, ${leftOut.length} not advertised`,
      );
      if (failed.length > 0) console.log(driver.log().slice(-6000));
      expect(failed).toEqual([]);
      expect(passed.length).toBeGreaterThan(20);
      expect((await run({}, ["rbd", "device", "list"])).stdout).toBe("");
      expect(readdirSync("/sys/block").filter((name) => existsSync(`/sys/block/${name}/pid`))).toEqual([]);
      expect(await settledInventory(pool.name)).toEqual(EMPTY);
    }, 280_000);
  }
};
