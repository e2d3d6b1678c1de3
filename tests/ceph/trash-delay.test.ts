/** `--rbdtrashmaxdelay` on a real cluster, as Ceph's own tools see the trash. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, omapOf, tool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest } from "./requests.ts";

let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  const dir = testFolder("trash-delay");
  pool = await makePool("trash-delay");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir, flags: ["--rbdtrashmaxdelay=24h"] });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

test("A deleted volume stays in the trash, protected for --rbdtrashmaxdelay, and its journal is clean", async () => {
  const request = createRequest("pvc-kept", { pool: pool.name, clusterID: CLUSTER });
  const { volume } = await driver.controller.createVolume(request, { timeoutMs: 30_000 });
  const before = Date.now();
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""), { timeoutMs: 30_000 });
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""), { timeoutMs: 30_000 });
  const trash = JSON.parse(await tool("rbd", "trash", "ls", "--all", "--long", "--format=json", pool.name)) as {
    name: string;
    status: string;
  }[];
  expect(trash).toHaveLength(1);
  expect(trash[0]?.name).toStartWith("csi-vol-");
  const until = /protected until (.*)$/.exec(trash[0]?.status ?? "")?.[1] ?? "";
  expect(Date.parse(until)).toBeWithin(before + 86_300_000, Date.now() + 86_500_000);
  expect((await omapOf(pool.name, "csi.volumes.default"))?.size).toBe(0);
}, 60_000);
