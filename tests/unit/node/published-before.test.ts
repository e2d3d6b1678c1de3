/** NodePublishVolume of a volume that ceph-csi, or a driver that was killed, has published already. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { HostFailed } from "../../../lib/host/errors.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import { aNode, nodeOn, publishing, staging, TARGET, unpublishing } from "../../support/node-world.ts";
import { asBlock, failureOf } from "../../support/world.ts";

const BLOCK = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };
const at = (host: MemoryNode, path: string) => host.mounts.filter(({ point }) => point === path);

const stagedNode = async (more: Parameters<typeof staging>[0] = {}) => {
  const { host } = await aNode();
  const driver = nodeOn(host);
  await driver.stage(staging(more));
  return { host, driver };
};

/** As a driver leaves the bind at a path that is killed before it gets its options. */
const withOptions = (host: MemoryNode, path: string, options: readonly string[]) => {
  const i = host.mounts.findIndex(({ point }) => point === path);
  host.mounts[i] = { ...host.mounts[i]!, options };
};

describe("NodePublishVolume at a target whose driver was killed between the bind and its options", () => {
  test("a writable bind becomes read-only where that is asked for, and the log says so", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing());
    await driver.publish(publishing({ readonly: true }));
    expect(at(host, TARGET).map(({ options }) => options.join())).toEqual(["ro"]);
    expect(driver.log.join("\n")).toContain(`${TARGET} is a mount with rw`);
    const once = host.dump();
    await driver.publish(publishing({ readonly: true }));
    expect(host.dump()).toEqual(once);
  });

  test("a bind gets what the request's own flags forbid, and those of the stage with it", async () => {
    const flags = (...mountFlags: string[]) => ({
      volumeCapability: {
        accessType: { case: "mount" as const, value: { fsType: "ext4", mountFlags } },
        accessMode: { mode: Mode.SINGLE_NODE_WRITER },
      },
    });
    const { host, driver } = await stagedNode(flags("noexec", "nodev"));
    await driver.publish(publishing(flags("noexec")));
    withOptions(host, TARGET, ["rw"]);
    await driver.publish(publishing(flags("noexec")));
    expect(at(host, TARGET)[0]?.options.toSorted()).toEqual(["nodev", "noexec", "rw"]);
    // what only the stage was asked for is no reason to change the mount of a pod that runs
    withOptions(host, TARGET, ["rw", "noexec"]);
    await driver.publish(publishing(flags("noexec")));
    expect(at(host, TARGET)[0]?.options).toEqual(["rw", "noexec"]);
  });
});

describe("NodePublishVolume of a raw volume that ceph-csi has published", () => {
  const reader = publishing({ ...BLOCK, readonly: true });
  const OTHER = "/kubelet/pods/2/dev";
  const deviceIs = (host: MemoryNode) => [...host.mappings.values()].map((each) => each.readOnly);
  /** ceph-csi's read-only bind of a writable device, or, with "rw", one of which it was killed. */
  const taken = async (options: readonly string[] = ["ro"]) => {
    const world = await stagedNode(BLOCK);
    await world.driver.publish(publishing(BLOCK));
    withOptions(world.host, TARGET, options);
    return world;
  };

  for (const options of ["ro", "rw"]) {
    test(`a reader's ${options} bind is completed, and the device is read-only then`, async () => {
      const { host, driver } = await taken([options]);
      await driver.publish(reader);
      expect([at(host, TARGET)[0]?.options, deviceIs(host)]).toEqual([["ro"], [true]]);
      await driver.publish(reader);
      await driver.publish(publishing({ ...BLOCK, readonly: true, targetPath: OTHER }));
      expect(at(host, OTHER)).toHaveLength(1);
    });
  }

  test("a reader that comes to it sets the device read-only, and one beside a writer is refused", async () => {
    const { host, driver } = await taken();
    await driver.publish(publishing({ ...BLOCK, targetPath: OTHER }));
    const third = publishing({ ...BLOCK, readonly: true, targetPath: "/kubelet/pods/3/dev" });
    const failure = await failureOf(driver.publish(third));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain(OTHER);
    expect(failure?.message).not.toContain(TARGET);
    await driver.unpublish(unpublishing({ targetPath: OTHER }));
    await driver.publish(third);
    expect(deviceIs(host)).toEqual([true]);
  });

  test("a reader beside a writer keeps what it has, and the device stays writable until the writer has gone", async () => {
    const { host, driver } = await taken();
    await driver.publish(publishing({ ...BLOCK, targetPath: OTHER }));
    await driver.publish(reader);
    expect(deviceIs(host)).toEqual([false]);
    expect(driver.log.join("\n")).toContain("stays writable");
    await driver.unpublish(unpublishing({ targetPath: OTHER }));
    await driver.publish(reader);
    expect(deviceIs(host)).toEqual([true]);
  });

  test("a device that cannot be set read-only fails no sync of a reader", async () => {
    const { host } = await taken();
    const failed = new HostFailed({ op: "blockdev", subject: "/dev/rbd0", errno: 1, reason: "not permitted" });
    const service = { ...hostMemoryService(host), setReadOnly: () => Effect.fail(failed) };
    await using driver = nodeOn(host, { host: service });
    await driver.publish(reader);
    expect(driver.log.join("\n")).toContain("not permitted");
  });
});
