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

/** What the driver says between its two looks. */
const LOOKS_AGAIN = "it is looked at once more";
const said = () => driver.log().split(LOOKS_AGAIN).length;

/** The failure of a call during which something happens between the two looks. */
const failureWith = async (call: () => Promise<unknown>, between: () => Promise<unknown>) => {
  const before = said();
  const state = { ended: false };
  const failed = failureOf(call()).finally(() => void (state.ended = true));
  while (said() === before && !state.ended) await Bun.sleep(50);
  expect(state.ended).toBe(false);
  await between();
  return failed;
};

const watch = async (spec: string) => {
  const owner = Bun.spawn(["rbd", "-c", rig().conf, "watch", spec], {
    stdin: "pipe",
    stdout: "ignore",
    stderr: "ignore",
  });
  const isWatched = async () => (await tool("rbd", "status", spec)).includes("watcher=");
  while (!(await isWatched())) await Bun.sleep(50);
  return async () => {
    // it ends at a line, and takes its watch away
    await owner.stdin.write("\n");
    await owner.stdin.end();
    await owner.exited;
    while (await isWatched()) await Bun.sleep(200);
  };
};

test("An in-tree image with exclusive-lock that a dead kubelet has locked is grown and deleted", async () => {
  const { spec, volumeId } = await locked("layering,exclusive-lock", 1);
  const grown = await driver.controller.controllerExpandVolume(expandRequest(volumeId, GIB), LIMIT);
  expect(grown.capacityBytes).toBe(GIB);
  expect(await tool("rbd", "lock", "ls", spec)).not.toContain("kubelet_lock_magic");
  await tool("rbd", "lock", "add", spec, "kubelet_lock_magic_node-2");
  await driver.controller.deleteVolume(deleteRequest(volumeId), LIMIT);
  expect(await tool("rbd", "ls", pool.name)).not.toContain(spec.split("/")[1] ?? spec);
}, 120_000);

test("An in-tree image without exclusive-lock is grown and deleted at once, whatever lock it has", async () => {
  const { spec, volumeId } = await locked("layering", 2);
  const before = said();
  const grown = await driver.controller.controllerExpandVolume(expandRequest(volumeId, GIB), LIMIT);
  expect(grown.capacityBytes).toBe(GIB);
  expect(await tool("rbd", "lock", "ls", spec)).toContain("kubelet_lock_magic");
  await driver.controller.deleteVolume(deleteRequest(volumeId), LIMIT);
  expect(await tool("rbd", "ls", pool.name)).not.toContain(spec.split("/")[1] ?? spec);
  expect(said()).toBe(before);
}, 120_000);

test("An in-tree image that somebody opens, or locks anew, while its lock is looked at keeps the lock and is neither grown nor deleted", async () => {
  const used = await locked("layering,exclusive-lock", 8);
  for (const [n, call] of [
    () => driver.controller.deleteVolume(deleteRequest(used.volumeId), LIMIT),
    () => driver.controller.controllerExpandVolume(expandRequest(used.volumeId, GIB), LIMIT),
  ].entries()) {
    let close = async () => {};
    const opened = await failureWith(call, async () => (close = await watch(used.spec)));
    // one that has it open from the beginning
    const open = await failureOf(call());
    await close();
    for (const { code, details } of [opened, open]) {
      expect([codeName(code), details]).toEqual(["FAILED_PRECONDITION", expect.stringContaining("client.")]);
    }
    const newer = `kubelet_lock_magic_newer-${n}`;
    const relocked = await failureWith(call, async () => {
      const [lock] = JSON.parse(await tool("rbd", "lock", "ls", "--format=json", used.spec));
      await tool("rbd", "lock", "rm", used.spec, lock.id, lock.locker);
      await tool("rbd", "lock", "add", used.spec, newer);
    });
    expect([codeName(relocked.code), relocked.details]).toEqual([
      "FAILED_PRECONDITION",
      expect.stringMatching(new RegExp(`${newer}.*about to use it`)),
    ]);
    expect(await tool("rbd", "lock", "ls", used.spec)).toContain(newer);
  }
  expect(await tool("rbd", "info", used.spec)).toContain("size 64 MiB");
}, 240_000);

test("An in-tree image that a person has locked keeps the lock, and the message has the command that removes it", async () => {
  const byHand = await locked("layering,exclusive-lock", 9, "maintenance of today");
  for (const call of [
    () => driver.controller.deleteVolume(deleteRequest(byHand.volumeId), LIMIT),
    () => driver.controller.controllerExpandVolume(expandRequest(byHand.volumeId, GIB), LIMIT),
  ]) {
    const { code, details } = await failureOf(call());
    expect([codeName(code), details]).toEqual(["FAILED_PRECONDITION", expect.stringContaining("rbd lock remove")]);
  }
  expect(await tool("rbd", "lock", "ls", byHand.spec)).toContain("maintenance of today");
  const { details } = await failureOf(driver.controller.deleteVolume(deleteRequest(byHand.volumeId), LIMIT));
  const [, command = ""] = /(rbd lock remove .* client\.\d+)/.exec(details) ?? [];
  await tool("sh", "-c", command.replace("rbd", `rbd -c ${rig().conf}`));
  await driver.controller.deleteVolume(deleteRequest(byHand.volumeId), LIMIT);
}, 120_000);
