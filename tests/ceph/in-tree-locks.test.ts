/** The lock that a dead kubelet of the in-tree plugin left on an image: growth and removal on a real Ceph. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, tool } from "./inventory.ts";
import { CLUSTER, deleteRequest, expandRequest, failureOf, GIB } from "./requests.ts";

const dir = testFolder("intree");
const LIMIT = { timeoutMs: 60_000 };
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  pool = await makePool("intree");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  expect(await driver?.end()).toBe(0);
  await pool?.remove();
}, 60_000);

const locked = async (features: string, n: number, lock = "kubelet_lock_magic_node-1") => {
  const uuid = `b0285c97-a0ce-11eb-8c66-0242ac11000${n}`;
  const spec = `${pool.name}/kubernetes-dynamic-pvc-${uuid}`;
  await tool("rbd", "create", spec, "--size=64M", `--image-feature=${features}`);
  await tool("rbd", "lock", "add", spec, lock);
  return { spec, volumeId: `mig_mons-${CLUSTER}_image-${uuid}_${Buffer.from(pool.name).toString("hex")}` };
};

for (const [n, features] of ["layering", "layering,exclusive-lock"].entries()) {
  test(`An image with ${features} that a dead kubelet has locked is grown and deleted`, async () => {
    const { spec, volumeId } = await locked(features, n);
    const grown = await driver.controller.controllerExpandVolume(expandRequest(volumeId, GIB), LIMIT);
    expect(grown.capacityBytes).toBe(GIB);
    if (features === "layering") expect(await tool("rbd", "lock", "ls", spec)).toContain("kubelet_lock_magic");
    else await tool("rbd", "lock", "add", spec, "kubelet_lock_magic_node-2");
    await driver.controller.deleteVolume(deleteRequest(volumeId), LIMIT);
    expect(await tool("rbd", "ls", pool.name)).not.toContain(spec.split("/")[1] ?? spec);
  }, 120_000);
}

test("An image that a kubelet has locked and has open keeps its lock, and so does one that a person has locked", async () => {
  const used = await locked("layering,exclusive-lock", 8);
  const owner = Bun.spawn(["rbd", "-c", rig().conf, "watch", used.spec], {
    stdin: "pipe",
    stdout: "ignore",
    stderr: "ignore",
  });
  try {
    while (!(await tool("rbd", "status", used.spec)).includes("watcher=")) await Bun.sleep(50);
    for (const call of [
      driver.controller.deleteVolume(deleteRequest(used.volumeId), LIMIT),
      driver.controller.controllerExpandVolume(expandRequest(used.volumeId, GIB), LIMIT),
    ]) {
      expect(codeName((await failureOf(call)).code)).toBe("FAILED_PRECONDITION");
    }
    expect(await tool("rbd", "lock", "ls", used.spec)).toContain("kubelet_lock_magic_node-1");
  } finally {
    owner.kill();
    await owner.exited;
  }
  const byHand = await locked("layering,exclusive-lock", 9, "maintenance");
  for (const call of [
    () => driver.controller.deleteVolume(deleteRequest(byHand.volumeId), LIMIT),
    () => driver.controller.controllerExpandVolume(expandRequest(byHand.volumeId, GIB), LIMIT),
  ]) {
    const { code, details } = await failureOf(call());
    expect([codeName(code), details]).toEqual(["FAILED_PRECONDITION", expect.stringContaining("rbd lock remove")]);
  }
  expect(await tool("rbd", "lock", "ls", byHand.spec)).toContain("maintenance");
}, 120_000);
