/** Mount flags from NodeStageVolume to the mount in the pod. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { bindOptions, mountOptions, notInForce } from "../../../lib/host/filesystem.ts";
import { hostMemoryService, type MemoryNode, setDisk } from "../../support/host-memory.ts";
import { aNode, expanding, IMAGE, nodeOn, PLACE, publishing, staging, TARGET } from "../../support/node-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, creation, failureOf, GIB } from "../../support/world.ts";

const flagged = (mountFlags: string[], mode = Mode.SINGLE_NODE_WRITER) => ({
  accessType: { case: "mount" as const, value: { fsType: "ext4", mountFlags } },
  accessMode: { mode },
});
const optionsAt = (host: MemoryNode, path: string) => host.mounts.find(({ point }) => point === path)?.options;
const formatted = (host: MemoryNode) => {
  const image = host.cluster.image("rbd", IMAGE);
  image.hasData = true;
  setDisk(image, { kind: "filesystem", type: "ext4", sizeBytes: GIB / 2n, files: new Map() });
  return image;
};

describe("the mount flag ro", () => {
  for (const flags of [["ro", "noatime"], ["noatime,ro"]]) {
    const volumeCapability = flagged(flags);

    test(`NodeStageVolume with ${flags.join(" ")} mounts read-only, and nothing grows`, async () => {
      const { host } = await aNode();
      formatted(host);
      await using driver = nodeOn(host);
      await driver.stage(staging({ volumeCapability }));
      await driver.stage(staging({ volumeCapability }));
      expect(optionsAt(host, PLACE)).toEqual(["ro", "noatime"]);
      await driver.publish(publishing({ volumeCapability }));
      expect(optionsAt(host, TARGET)).toEqual(["ro", "noatime"]);
      const failure = await failureOf(driver.expand(expanding()));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("read-only") });
      expect(host.formatted).toEqual([]);
    });

    test(`NodeStageVolume with ${flags.join(" ")} refuses a blank image with the reason, and formats nothing`, async () => {
      const { host } = await aNode();
      const before = host.dump();
      await using driver = nodeOn(host);
      const failure = await failureOf(driver.stage(staging({ volumeCapability })));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("blank") });
      expect([host.formatted, host.dump()]).toEqual([[], before]);
    });

    test(`CreateVolume with ${flags.join(" ")} and without a content source is refused`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const failure = await failureOf(driver.createVolume(creation({ volumeCapabilities: [volumeCapability] })));
      expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("mount flag ro") });
      expect(cluster.dump()).toEqual(aCluster().dump());
    });
  }

  test("A filesystem that is staged read-only is published read-only, even to a pod that does not ask for it", async () => {
    const { host } = await aNode();
    formatted(host);
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeCapability: flagged(["ro"]) }));
    for (let times = 0; times < 2; times += 1) await driver.publish(publishing());
    expect(optionsAt(host, TARGET)).toEqual(["ro"]);
  });

  test("The mount flag rw does not make a volume of a reader's mode writable", async () => {
    const { host } = await aNode();
    formatted(host);
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeCapability: flagged(["rw"], Mode.SINGLE_NODE_READER_ONLY) }));
    expect(optionsAt(host, PLACE)).toEqual(["ro"]);
  });
});

describe("flags that forbid something", () => {
  for (const flags of [["noatime,noexec,nosuid,nodev"], ["noexec", "nosuid", "nodev", "noatime"]]) {
    for (const readonly of [true, false]) {
      test(`${flags.join(" ")} holds in a pod that is published ${readonly ? "read-only" : "writable"}`, async () => {
        const volumeCapability = flagged(flags);
        const { host } = await aNode();
        await using driver = nodeOn(host);
        await driver.stage(staging({ volumeCapability }));
        // A caller that does not repeat the flags gets them all the same.
        for (const capability of [volumeCapability, flagged([])]) {
          const targetPath = `${TARGET}-${capability === volumeCapability}`;
          await driver.publish(publishing({ volumeCapability: capability, targetPath, readonly }));
          expect(optionsAt(host, targetPath)?.toSorted()).toEqual(
            [readonly ? "ro" : "rw", "noatime", "noexec", "nodev", "nosuid"].toSorted(),
          );
        }
      });
    }
  }

  test("NodeStageVolume fails where the kernel drops such a flag, and leaves nothing mounted", async () => {
    const { host } = await aNode();
    const inner = hostMemoryService(host);
    const before = host.dump().mounts;
    await using driver = nodeOn(host, {
      host: { ...inner, mount: (request) => inner.mount({ ...request, options: ["_netdev"] }) },
    });
    const failure = await failureOf(driver.stage(staging({ volumeCapability: flagged(["noexec"]) })));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("lacks noexec") });
    expect(host.dump().mounts).toEqual(before);
    expect(await Effect.runPromise(inner.mappedDevices)).toEqual([]);
  });
});

test("The user's mount options come after the driver's, and each stands once", () => {
  expect(mountOptions("xfs", { flags: ["nouuid", "_netdev", "noatime"], readOnly: true })).toEqual([
    "nouuid",
    "_netdev",
    "noatime",
    "ro",
  ]);
  expect(mountOptions("ext4", { flags: [], readOnly: false })).toEqual(["_netdev"]);
});

test.each<[asked: string[], shown: string[], missing: string[]]>([
  [["_netdev", "noexec", "nosuid"], ["rw", "nosuid"], ["noexec"]],
  [["noexec", "exec"], ["rw"], []],
  [["exec", "noexec"], ["rw"], ["noexec"]],
  [["noatime", "discard"], ["rw", "relatime"], []],
])("Of the options %j, a mount that shows %j lacks %j", (asked, shown, missing) => {
  expect(notInForce(asked, shown)).toEqual(missing);
});

test.each<[flags: string[], readOnly: boolean, staged: string[], options: string[]]>([
  [[], false, ["rw", "relatime"], ["bind", "_netdev", "relatime"]],
  [[], true, ["rw", "nosuid", "noexec", "relatime"], ["bind", "_netdev", "nosuid", "noexec", "relatime", "ro"]],
  [["discard", "noatime"], false, ["rw", "relatime"], ["bind", "_netdev", "noatime"]],
  [["exec"], true, ["rw", "nosuid", "noexec"], ["bind", "_netdev", "nosuid", "ro", "exec"]],
  [["noexec"], true, ["ro", "noexec"], ["bind", "_netdev", "ro", "noexec"]],
])("A bind mount with %j, read-only %p, of a mount with %j gets %j", (flags, readOnly, staged, options) => {
  expect(bindOptions({ flags, readOnly }, staged)).toEqual(options);
});
