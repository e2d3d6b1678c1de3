/**
 * Deletion while the cluster's manager is away: answers come soon, the space comes back all the same, and a driver that
 * starts later goes on with what a killed one had left.
 *
 * The cluster is its own: other tests need their manager.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type CephCluster, startCeph } from "../rig/ceph.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { CLUSTER, createRequest, MIB } from "./requests.ts";

const LIMIT = { timeoutMs: 60_000 };
/** Far above the second that is promised, far below the half minute that a manager that is away would cost. */
const SOON_MS = 8000;

const dir = testFolder("nm");
const secrets = () => ({ userID: "admin", userKey: ceph.adminKey });
const create = (driver: Driver, name: string, size = 64n * MIB) =>
  driver.controller.createVolume({ ...createRequest(name, { pool: "rbd" }, size), secrets: secrets() }, LIMIT);
const remove = (driver: Driver, volumeId: string) =>
  driver.controller.deleteVolume({ volumeId, secrets: secrets() }, LIMIT);

let ceph: CephCluster;
let driver: Driver;

beforeAll(async () => {
  ceph = await startCeph({ dir: join(dir, "ceph"), paxosInterval: 0.05 });
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: ceph.monitors }]);
  driver = await startDriver({ dir });
}, 120_000);

afterAll(async () => {
  await driver.end();
  await ceph.stop();
}, 60_000);

const trash = async () => (await ceph.exec("rbd", "trash", "ls", "--all", "rbd")).trim();
/** What a dead driver has open is tried again after 35 s, and after 60 s more. */
const emptyTrash = async () => {
  for (let tries = 0; tries < 800 && (await trash()) !== ""; tries++) await Bun.sleep(200);
  expect(await trash()).toBe("");
};

test("The driver deletes volumes and soon removes their images itself while there is no manager", async () => {
  const ids: string[] = [];
  for (let n = 0; n < 6; n++) ids.push((await create(driver, `pvc-${n}`)).volume?.volumeId ?? "");
  await ceph.stopMgr();
  const started = performance.now();
  await Promise.all(ids.map((id) => remove(driver, id)));
  expect(performance.now() - started).toBeLessThan(SOON_MS);
  await emptyTrash();
  expect((await ceph.exec("rbd", "ls", "rbd")).trim()).toBe("");
  expect(
    (await ceph.exec("rados", "-p", "rbd", "ls")).split("\n").filter((name) => /^rbd_(data|header)/.test(name)),
  ).toEqual([]);
}, 240_000);

test("The next driver removes what a killed driver left in the trash", async () => {
  const left = (await create(driver, "pvc-left")).volume?.volumeId ?? "";
  const large = (await create(driver, "pvc-large", 20_480n * MIB)).volume?.volumeId ?? "";
  const last = (await create(driver, "pvc-last")).volume?.volumeId ?? "";
  await remove(driver, large);
  await remove(driver, left);
  // it would begin to remove the image half a second later
  await driver.end("SIGKILL");
  driver = await startDriver({ dir });
  await remove(driver, last);
  await emptyTrash();
}, 240_000);

test("Once the manager is back, a deleted image leaves the trash as before", async () => {
  const { volume } = await create(driver, "pvc-back");
  await ceph.startMgr();
  for (
    let tries = 0;
    tries < 60 && !(await ceph.tryExec("ceph", "rbd", "task", "list")).stdout.includes("[");
    tries++
  ) {
    await Bun.sleep(500);
  }
  await remove(driver, volume?.volumeId ?? "");
  await emptyTrash();
}, 240_000);
