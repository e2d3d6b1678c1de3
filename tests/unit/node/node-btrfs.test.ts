/** Volumes with btrfs: nodes that lack it, mounts that have a number of their own, a size that only large ones change. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode, VolumeUsage_Unit as Unit } from "../../../lib/gen/csi_pb.ts";
import type { HostService } from "../../../lib/host/host.ts";
import { hostMemoryService, type MemoryNode, setDisk } from "../../support/host-memory.ts";
import {
  aNode,
  expanding,
  IMAGE,
  nodeOn,
  OTHER_UUID,
  PLACE,
  publishing,
  seedVolume,
  staging,
  statistics,
  TARGET,
  unpublishing,
  unstaging,
  volumeIdOf,
} from "../../support/node-world.ts";
import { failureOf, formatted, GIB, PARAMETERS, seedImage } from "../../support/world.ts";

const MIB = 1n << 20n;
const BTRFS = { volumeCapability: formatted("btrfs") };
const LACK = { problem: "has kernel 5.14 without btrfs", remedy: "Install it" };

const holdsBtrfs = (host: MemoryNode, more: { image?: string; sizeBytes?: bigint; dirty?: boolean } = {}) => {
  const { image: name = IMAGE, ...disk } = more;
  const image = host.cluster.image("rbd", name);
  image.hasData = true;
  const files = new Map([["data", "precious"]]);
  setDisk(image, { kind: "filesystem", type: "btrfs", sizeBytes: GIB, files, ...disk });
};

describe("a volume with btrfs", () => {
  test("A volume with btrfs is staged, published, grown and unstaged, and knows its mounts by their source", async () => {
    const { host, cluster } = await aNode();
    const before = host.dump();
    await using driver = nodeOn(host);
    for (let times = 0; times < 2; times += 1) await driver.stage(staging(BTRFS));
    for (let times = 0; times < 2; times += 1) await driver.publish(publishing(BTRFS));
    expect(host.formatted).toHaveLength(1);
    expect(host.mounts.map(({ point, fsType, major }) => [point, fsType, major])).toEqual([
      [PLACE, "btrfs", 0],
      [TARGET, "btrfs", 0],
    ]);
    expect((await driver.stats(statistics())).usage.map(({ unit }) => unit)).toEqual([Unit.BYTES]);
    cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
    expect(await driver.expand(expanding())).toEqual({ capacityBytes: 2n * GIB });
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(before);
  });

  test("A volume with btrfs of less than 256 MiB keeps its size until it is expanded beyond that", async () => {
    const { host, cluster } = await aNode();
    const image = cluster.image("rbd", IMAGE);
    image.sizeBytes = 200n * MIB;
    holdsBtrfs(host, { sizeBytes: 128n * MIB });
    await using driver = nodeOn(host);
    await driver.stage(staging(BTRFS));
    await driver.publish(publishing(BTRFS));
    expect(await failureOf(driver.expand(expanding()))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("Ask for 256 MiB or more"),
    });
    image.sizeBytes = 256n * MIB;
    expect(await driver.expand(expanding())).toEqual({ capacityBytes: 256n * MIB });
  });

  test("A volume with btrfs whose journal nobody can replay is mounted without it for many readers", async () => {
    const { host } = await aNode();
    holdsBtrfs(host, { dirty: true });
    const inner = hostMemoryService(host);
    const tried: string[] = [];
    const mount: HostService["mount"] = (request) =>
      Effect.suspend(() => (tried.push(request.options.join()), inner.mount(request)));
    await using driver = nodeOn(host, { host: { ...inner, mount } });
    const readers = { ...formatted("btrfs"), accessMode: { mode: Mode.MULTI_NODE_READER_ONLY } };
    await driver.stage(staging({ volumeCapability: readers }));
    expect(tried).toEqual(["_netdev,ro", "_netdev,ro,rescue=nologreplay"]);
  });
});

describe("a copy beside its source", () => {
  const otherVolume = volumeIdOf(OTHER_UUID);
  const other = {
    ...BTRFS,
    volumeId: otherVolume,
    stagingTargetPath: "/kubelet/other",
    volumeContext: { ...PARAMETERS, imageName: `csi-vol-${OTHER_UUID}` },
  };

  test("Two volumes with btrfs are told apart by the devices that the kernel has opened for them", async () => {
    const { host, cluster } = await aNode();
    await seedVolume(cluster, OTHER_UUID);
    holdsBtrfs(host);
    holdsBtrfs(host, { image: `csi-vol-${OTHER_UUID}` });
    host.addDirectory("/kubelet/other");
    const before = host.dump();
    await using driver = nodeOn(host);
    await driver.stage(staging(BTRFS));
    await driver.stage(staging(other));
    await driver.unstage(unstaging());
    expect(host.mounts.map(({ point, source }) => [point, source])).toEqual([
      [`/kubelet/other/${otherVolume}`, "/dev/rbd1"],
    ]);
    await driver.unstage(unstaging({ volumeId: otherVolume, stagingTargetPath: "/kubelet/other" }));
    expect(host.dump()).toEqual(before);
  });

  test("A mount for which the kernel has opened the other device is undone, and fails the stage", async () => {
    const { host, cluster } = await aNode();
    await seedVolume(cluster, OTHER_UUID);
    holdsBtrfs(host);
    holdsBtrfs(host, { image: `csi-vol-${OTHER_UUID}` });
    host.addDirectory("/kubelet/other");
    await using driver = nodeOn(host);
    await driver.stage(staging(BTRFS));
    const before = host.dump();
    const inner = hostMemoryService(host);
    const mount: HostService["mount"] = (request) => inner.mount({ ...request, source: "/dev/rbd0" });
    await using wrong = nodeOn(host, { host: { ...inner, mount } });
    expect(await failureOf(wrong.stage(staging(other)))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("is not of /dev/rbd1"),
    });
    expect(host.dump()).toEqual(before);
  });
});

describe("a node without btrfs", () => {
  test("A node without btrfs refuses the volume before it maps it, and says what to do", async () => {
    const { host } = await aNode();
    host.lacks.set("btrfs", LACK);
    const before = host.dump();
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging(BTRFS)));
    expect(failure).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("this node has kernel 5.14 without btrfs. Install it"),
    });
    expect([host.dump(), host.formatted]).toEqual([before, []]);
  });

  test("A node without btrfs refuses a static volume that turns out to have it, and unmaps it", async () => {
    const { host } = await aNode();
    await seedImage(host.cluster, "by-hand");
    holdsBtrfs(host, { image: "by-hand" });
    host.lacks.set("btrfs", LACK);
    const before = host.dump();
    await using driver = nodeOn(host);
    const request = staging({
      volumeId: "by-hand",
      volumeContext: { ...PARAMETERS, staticVolume: "true" },
      volumeCapability: formatted(""),
    });
    expect(await failureOf(driver.stage(request))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("without btrfs"),
    });
    expect(host.dump()).toEqual(before);
    host.lacks.clear();
    await driver.stage(request);
    expect(host.mounts.map(({ fsType }) => fsType)).toEqual(["btrfs"]);
  });

  test("A node without btrfs serves other filesystems, and is not asked about them", async () => {
    const { host } = await aNode();
    const inner = hostMemoryService(host);
    const filesystemLack: HostService["filesystemLack"] = () => Effect.die(new Error("nobody asks"));
    await using driver = nodeOn(host, { host: { ...inner, filesystemLack } });
    await driver.stage(staging({ volumeCapability: formatted("xfs") }));
    expect(host.formatted).toHaveLength(1);
  });
});
