/** Which filesystems a node takes: the table that node and controller share. */
import { expect, test } from "bun:test";
import { FILESYSTEMS, refusalOfSize, refusalOfType } from "../../../lib/csi/filesystems.ts";

const MIB = 1n << 20n;

test.each(["", ...FILESYSTEMS])("A node makes the filesystem type %j", (type) => {
  expect(refusalOfType(type)).toBeUndefined();
});

test.each(["XFS", "ext2", "Btrfs", "ext4 ", "ntfs", "constructor"])(
  "A node makes no filesystem of type %j, and the reason names the type and those that it makes",
  (type) => {
    expect(refusalOfType(type)).toBe(`must be one of ext4, xfs, ext3, btrfs, and not ${JSON.stringify(type)}`);
  },
);

test("A blank volume for xfs must have 300 MiB, unless mkfsOptions lift the limit of mkfs.xfs", () => {
  expect(refusalOfSize("xfs", 300n * MIB - 1n, undefined)).toContain("300 MiB");
  expect(refusalOfSize("xfs", 100n * MIB, ["-K"])).toContain("104857600 bytes");
  expect(refusalOfSize("xfs", 300n * MIB, undefined)).toBeUndefined();
  expect(refusalOfSize("xfs", 100n * MIB, ["-K", "--unsupported"])).toBeUndefined();
  for (const type of ["", "ext4", "ext3", "constructor"]) expect(refusalOfSize(type, MIB, undefined)).toBeUndefined();
});

test("A blank volume for btrfs must have 109 MiB, unless mkfsOptions choose how metadata are kept", () => {
  expect(refusalOfSize("btrfs", 109n * MIB - 1n, undefined)).toBe(
    "asks for btrfs on 114294783 bytes, and mkfs.btrfs makes none below 109 MiB (114294784 bytes). Ask for more, or use ext4",
  );
  expect(refusalOfSize("btrfs", 64n * MIB, ["-K", "--nodesize", "4096"])).toContain("109 MiB");
  expect(refusalOfSize("btrfs", 109n * MIB, undefined)).toBeUndefined();
  for (const words of [["-m", "single"], ["-msingle"], ["--metadata=single"], ["-M"], ["--mixed"]]) {
    expect(refusalOfSize("btrfs", 64n * MIB, words)).toBeUndefined();
  }
});
