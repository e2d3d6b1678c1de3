/** Volumes of rbd-nbd whose healing hangs: they hold up no others, and the log names them. */
import { describe, expect, test } from "bun:test";
import { interceptedHost } from "../../support/host-faults.ts";
import { hanging } from "../../support/hanging.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import { aNode, nodeOn, seedVolume, staging, unstaging, volumeIdOf } from "../../support/node-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { failureOf, PARAMETERS } from "../../support/world.ts";

const uuidOf = (n: number) => `11111111-2222-4333-8444-55555555550${n}`;
const device = (n: number) => `/dev/nbd${n}`;
const deadOf = (host: MemoryNode) => [...host.mappings].flatMap(([path, { dead }]) => (dead === true ? [path] : []));

/** A node with that many staged volumes, of which an attach to a device in `hangs` does not come back. */
const staged = async (count: number) => {
  const { host, cluster } = await aNode();
  const hang = hanging();
  const hangs = new Set<string>();
  const watched = interceptedHost(hostMemoryService(host), ({ method, subject }, act) =>
    method === "attach" && hangs.has(subject) ? hang.around(act) : act,
  );
  const time = virtualTime();
  const driver = nodeOn(host, { host: watched, time });
  const volumes = Array.from({ length: count }, (_, n) => volumeIdOf(uuidOf(n)));
  for (const [n, volumeId] of volumes.entries()) {
    await seedVolume(cluster, uuidOf(n));
    host.addDirectory(`/kubelet/${n}`);
    const volumeContext = { ...PARAMETERS, mounter: "rbd-nbd" };
    await driver.stage(staging({ volumeId, volumeContext, stagingTargetPath: `/kubelet/${n}` }));
  }
  expect([...host.mappings.keys()]).toEqual(volumes.map((_, n) => device(n)));
  return { host, driver, time, hang, hangs, volumes };
};

describe("a volume whose healing hangs", () => {
  test("holds up neither the others nor the next look, and the log names device, image and stage", async () => {
    const { host, driver, time, hang, hangs } = await staged(3);
    hangs.add(device(0));
    for (const n of [0, 1]) host.killProcess(device(n));
    driver.watchProcesses();
    await time.pass("1 second");
    expect(deadOf(host)).toEqual([device(0)]);
    host.killProcess(device(2));
    await time.pass("10 seconds");
    expect(deadOf(host)).toEqual([device(0)]);
    await time.pass("10 seconds");
    const said = () => driver.log.filter((line) => line.includes("still lacks"));
    expect(said()).toHaveLength(1);
    for (const part of [device(0), `image rbd/csi-vol-${uuidOf(0)}`, 'stage "attach"', "has been running for 15"]) {
      expect(said()[0]).toContain(part);
    }
    await time.pass("5 minutes");
    expect(said()).toHaveLength(2);
    // It is not begun a second time, and ends in its own time.
    expect(hang.begun()).toBe(1);
    hang.end();
    await time.pass("1 second");
    expect(deadOf(host)).toEqual([]);
    await driver[Symbol.asyncDispose]();
  });

  test("gives up its turn, however many hang", async () => {
    const { host, driver, time, hang, hangs } = await staged(6);
    for (const n of [0, 1, 2, 3, 4]) hangs.add(device(n));
    for (const n of [0, 1, 2, 3, 4, 5]) host.killProcess(device(n));
    driver.watchProcesses();
    await time.pass("10 seconds");
    expect(hang.begun()).toBe(4);
    await time.pass("10 seconds");
    expect(deadOf(host)).not.toContain(device(5));
    hang.end();
    await time.pass("1 second");
    expect(deadOf(host)).toEqual([]);
    await driver[Symbol.asyncDispose]();
  });

  test("is named to whoever waits for its volume", async () => {
    const { host, driver, time, hang, hangs, volumes } = await staged(1);
    hangs.add(device(0));
    host.killProcess(device(0));
    driver.watchProcesses();
    await time.pass("1 second");
    const [volumeId = ""] = volumes;
    const failure = await time.until(
      failureOf(driver.unstage(unstaging({ volumeId, stagingTargetPath: "/kubelet/0" }), "20 seconds")),
    );
    expect(failure?.code).toBe("ABORTED");
    expect(failure?.message).toContain(`healing of volume ${volumeId} has been running for`);
    hang.end();
    await driver[Symbol.asyncDispose]();
  });

  test("because another call has its volume is named with that call", async () => {
    const { host, driver, time, hang, hangs, volumes } = await staged(1);
    const [volumeId = ""] = volumes;
    hangs.add(device(0));
    host.killProcess(device(0));
    // This one heals it as well, and hangs under the lock of the volume.
    const volumeContext = { ...PARAMETERS, mounter: "rbd-nbd" };
    const restaged = failureOf(
      driver.stage(staging({ volumeId, volumeContext, stagingTargetPath: "/kubelet/0" }), "1 second"),
    );
    await time.until(restaged);
    driver.watchProcesses();
    await time.pass("20 seconds");
    const [said = ""] = driver.log.filter((line) => line.includes("still lacks"));
    expect(said).toContain('stage "wait for lock"');
    expect(said).toContain(`NodeStageVolume of ${volumeId} has been running for`);
    hang.end();
    await time.pass("1 second");
    expect(deadOf(host)).toEqual([]);
    await driver[Symbol.asyncDispose]();
  });
});
