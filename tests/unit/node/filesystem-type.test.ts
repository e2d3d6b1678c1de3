/** A volume whose filesystem is of another type than its PersistentVolume says. */
import { describe, expect, test } from "bun:test";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { type Disk, setDisk } from "../../support/host-memory.ts";
import {
  aNode,
  ENCRYPTED,
  EXT4,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  staging,
  toBeEncrypted,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { codeOf, failureOf, formatted, GIB } from "../../support/world.ts";

const holding = async (disk: Disk) => {
  const world = await aNode();
  const image = world.cluster.image("rbd", IMAGE);
  image.hasData = true;
  setDisk(image, disk);
  return world;
};
const disk = (type: string): Disk => ({
  kind: "filesystem",
  type,
  sizeBytes: GIB / 2n,
  files: new Map([["data", "precious"]]),
});

describe("NodeStageVolume of a filesystem that is", () => {
  for (const [there, asked, mountType] of [
    ["ext2", "ext4", "ext4"],
    ["ext3", "ext4", "ext4"],
    ["ext4", "ext3", "ext4"],
    ["ext2", "ext3", "ext4"],
    ["ext3", "ext3", "ext3"],
    ["ext2", "", "ext4"],
    ["ext3", "", "ext3"],
    ["xfs", "", "xfs"],
  ] as const) {
    test(`${there} where ${asked || "any"} is asked for mounts it as ${mountType}, again and again`, async () => {
      const { host } = await holding(disk(there));
      await using driver = nodeOn(host);
      const request = { volumeCapability: formatted(asked) };
      await driver.stage(staging(request));
      await driver.stage(staging(request));
      await driver.publish(publishing(request));
      expect(host.mounts.map(({ fsType }) => fsType)).toEqual([mountType, mountType]);
      expect(host.files(PLACE).get("data")).toBe("precious");
      expect(host.blockOf(host.mounts[0])?.disk).toMatchObject({ type: there, sizeBytes: GIB });
      expect(host.formatted).toEqual([]);
      const told = driver.log.some((line) => line.includes(`holds ${there}, and the request asks for ${asked}`));
      expect(told).toBe(asked !== "" && asked !== there);
      await driver.unpublish(unpublishing());
      await driver.unstage(unstaging());
      expect(host.mappings.size).toBe(0);
    });
  }

  test("ext3, and that ceph-csi has staged as ext4, is staged as asked", async () => {
    const { host } = await holding(disk("ext3"));
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeCapability: formatted("ext3") }));
    host.mounts[0] = { ...host.mounts[0]!, fsType: "ext4" };
    for (const type of ["ext4", "ext3"]) await driver.stage(staging({ volumeCapability: formatted(type) }));
    expect(host.mounts).toHaveLength(1);
  });

  for (const [there, asked, words] of [
    ["xfs", "ext4", "PersistentVolume with fsType xfs"],
    ["ext4", "xfs", "PersistentVolume with fsType ext4"],
    ["ext2", "btrfs", "PersistentVolume with fsType ext4"],
    ["vfat", "ext4", "raw block volume"],
  ] as const) {
    test(`${there} where ${asked} is asked for is refused with what is right, and nobody is told to empty it`, async () => {
      const { host } = await holding(disk(there));
      await using driver = nodeOn(host);
      const failure = await failureOf(driver.stage(staging({ volumeCapability: formatted(asked) })));
      expect(failure?.code).toBe("FAILED_PRECONDITION");
      for (const text of [`it holds ${there}`, `asks for ${asked}`, words]) expect(failure?.message).toContain(text);
      expect(failure?.message).not.toContain("empty");
      expect([host.mounts, host.mappings.size, host.formatted]).toEqual([[], 0, []]);
    });
  }
});

describe("A filesystem that no node makes", () => {
  const forReaders = (type: string) => ({
    volumeCapability: { ...formatted(type), accessMode: { mode: Mode.MULTI_NODE_READER_ONLY } },
  });
  const withRo = {
    volumeCapability: {
      ...formatted("iso9660"),
      accessType: { case: "mount" as const, value: { fsType: "iso9660", mountFlags: ["ro"] } },
    },
  };

  for (const [request, type] of [
    [forReaders("squashfs"), "squashfs"],
    [forReaders(""), "erofs"],
    [withRo, "iso9660"],
  ] as const) {
    test(`${type} is mounted for readers, and neither checked nor grown`, async () => {
      const { host } = await holding(disk(type));
      await using driver = nodeOn(host);
      await driver.stage(staging(request));
      await driver.stage(staging(request));
      expect(host.mounts).toMatchObject([{ fsType: type, options: expect.arrayContaining(["ro"]) }]);
      expect(host.blockOf(host.mounts[0])?.disk).toMatchObject({ type, sizeBytes: GIB / 2n });
      await driver.unstage(unstaging());
      expect(host.mappings.size).toBe(0);
    });
  }

  for (const [asked, code] of [
    ["squashfs", "INVALID_ARGUMENT"],
    ["", "FAILED_PRECONDITION"],
  ] as const) {
    test(`is refused to a writer who asks for ${asked || "any"}, with how a reader gets it`, async () => {
      const { host } = await holding(disk("squashfs"));
      await using driver = nodeOn(host);
      const failure = await failureOf(driver.stage(staging({ volumeCapability: formatted(asked) })));
      expect(failure?.code).toBe(code);
      for (const text of ["squashfs", "for readers only", "ReadOnlyMany"]) expect(failure?.message).toContain(text);
      expect([host.mounts, host.mappings.size]).toEqual([[], 0]);
    });
  }

  test("is not made of a blank image, nor taken for another one", async () => {
    for (const [there, code] of [
      [undefined, "FAILED_PRECONDITION"],
      [disk("ext4"), "FAILED_PRECONDITION"],
    ] as const) {
      const { host } = there === undefined ? await aNode() : await holding(there);
      await using driver = nodeOn(host);
      expect(await codeOf(driver.stage(staging(forReaders("squashfs"))))).toBe(code);
      expect([host.mounts, host.mappings.size, host.formatted]).toEqual([[], 0, []]);
    }
  });

  test("has a name as mount(8) knows it", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    for (const type of ["XFS", "-o", "a,b", "ext4 "]) {
      expect(await codeOf(driver.stage(staging(forReaders(type))))).toBe("INVALID_ARGUMENT");
    }
  });
});

test("An image with a filesystem that is to be encrypted is not called one to empty", async () => {
  const { host, cluster } = await holding(EXT4());
  toBeEncrypted(cluster);
  await using driver = nodeOn(host);
  const failure = await failureOf(driver.stage(staging(ENCRYPTED)));
  expect(failure?.message).toContain("it is to be encrypted, but it holds ext4");
  expect(failure?.message).not.toContain("empty");
});
