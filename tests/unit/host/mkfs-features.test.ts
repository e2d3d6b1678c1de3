/** What mkfs is told to leave out, so that the kernel that is to mount a new filesystem knows all that is in it. */
import { describe, expect, test } from "bun:test";
import { isOlderKernel } from "../../../lib/host/kernel-version.ts";
import { leftOut, listingOf } from "../../../lib/host/mkfs-features.ts";

/** The usage of mkfs.xfs 7.2, as far as it names features. */
const XFS_NEW = `Usage: mkfs.xfs
/* metadata */		[-m crc=0|1,finobt=0|1,uuid=xxx,rmapbt=0|1,reflink=0|1,
			    inobtcount=0|1,bigtime=0|1,autofsck=xxx,
			    metadir=0|1]
/* inode size */	[-i perblock=n|size=num,maxpct=n,attr=0|1|2,
			    projid32bit=0|1,sparse=0|1,nrext64=0|1,
			    exchange=0|1,max_atomic_write=n]
/* naming */		[-n size=num,version=2|ci,ftype=0|1,parent=0|1]]
`;
/** That of mkfs.xfs 6.1, and of one from before them all. */
const XFS_6_1 = `/* metadata */ [-m crc=0|1,finobt=0|1,uuid=xxx,rmapbt=0|1,reflink=0|1,
			    inobtcount=0|1,bigtime=0|1]
/* inode size */	[-i perblock=n|size=num,projid32bit=0|1,sparse=0|1,nrext64=0|1]`;
const XFS_OLD = "/* metadata */ [-m crc=0|1,finobt=0|1,uuid=xxx]";

const OWN = ["-K"];
const xfs = (kernel: string, given: readonly string[] = OWN, list = XFS_NEW) =>
  leftOut("xfs", given, list, kernel).join(" ");

describe("a new xfs", () => {
  test.each([
    ["4.4.0", "-m reflink=0,rmapbt=0,inobtcount=0,bigtime=0 -i nrext64=0,exchange=0 -n parent=0"],
    ["5.4.0-216-generic", "-m reflink=0,inobtcount=0,bigtime=0 -i nrext64=0,exchange=0 -n parent=0"],
    ["5.10.0-32-amd64", "-m reflink=0 -i nrext64=0,exchange=0 -n parent=0"],
    ["5.18.19", "-m reflink=0 -i nrext64=0,exchange=0 -n parent=0"],
    ["6.1.0-57-amd64", "-m reflink=0 -i exchange=0 -n parent=0"],
    ["6.9.12", "-m reflink=0 -i exchange=0 -n parent=0"],
    ["6.10.0", "-m reflink=0"],
    ["10.2.0", "-m reflink=0"],
    ["of nobody", "-m reflink=0"],
  ])("On kernel %s a new mkfs.xfs leaves out what that kernel does not mount: %s", (kernel, words) => {
    expect(xfs(kernel)).toBe(words);
  });

  test("An older mkfs.xfs is told nothing that it does not know", () => {
    expect(xfs("5.4.0", OWN, XFS_6_1)).toBe("-m reflink=0,inobtcount=0,bigtime=0 -i nrext64=0");
    expect(xfs("5.4.0", OWN, XFS_OLD)).toBe("");
  });

  test.each([
    [["-m", "bigtime=1,reflink=1"], "-m inobtcount=0 -i nrext64=0,exchange=0 -n parent=0"],
    [["-mbigtime=1", "-i", "maxpct=5,nrext64=1"], "-m reflink=0,inobtcount=0 -i exchange=0 -n parent=0"],
    [["-m", "crc=1", "-m", "bigtime", "-n", "parent=1"], "-m reflink=0,inobtcount=0 -i nrext64=0,exchange=0"],
    // a label is no feature
    [["-L", "bigtime=1"], "-m reflink=0,inobtcount=0,bigtime=0 -i nrext64=0,exchange=0 -n parent=0"],
  ])("With mkfsOptions %j, which decide features themselves, the rest is left out: %s", (given, words) => {
    expect(xfs("5.4.0", given)).toBe(words);
  });
});

describe("a new btrfs", () => {
  const NEW = `Filesystem features available:
free-space-tree     - free space tree (compat=4.5, safe=4.9, default=5.15)
bgt                 - block-group-tree alias
block-group-tree    - block group tree (compat=6.1, safe=6.6, default=6.19)
`;
  test.each([
    ["5.15.0", OWN, NEW, "-O ^block-group-tree"],
    ["6.1.0", OWN, NEW, ""],
    ["5.15.0", OWN, "free-space-tree - free space tree", ""],
    ["5.15.0", ["-O", "quota,block-group-tree"], NEW, ""],
    ["5.15.0", ["-O^bgt"], NEW, ""],
    ["5.15.0", ["--features=bgt"], NEW, ""],
    ["5.15.0", ["--features", "quota"], NEW, "-O ^block-group-tree"],
  ])("On kernel %s, with mkfsOptions %j and a mkfs.btrfs that says %j: %j", (kernel, given, list, words) => {
    expect(leftOut("btrfs", given, list, kernel).join(" ")).toBe(words);
  });
});

describe("a new ext4", () => {
  const said = (version: string) => `mke2fs ${version} (1-Jan-2025)\n\tUsing EXT2FS Library version ${version}\n`;
  const BOTH = "-O ^orphan_file,^metadata_csum_seed";
  test.each([
    ["6.12.0", ["-m0"], said("1.47.2"), BOTH],
    ["4.18.0", ["-m0"], said("1.47.0"), BOTH],
    ["6.12.0", ["-m0"], said("1.100.0"), BOTH],
    ["6.12.0", ["-m0"], said("2.0"), BOTH],
    ["6.12.0", ["-m0"], said("1.46.5"), ""],
    ["6.12.0", ["-m0"], "mkfs.ext4: not found", ""],
    ["6.12.0", ["-O", "orphan_file,^metadata_csum"], said("1.47.2"), "-O ^metadata_csum_seed"],
    ["6.12.0", ["-O^orphan_file", "-O", "metadata_csum_seed"], said("1.47.2"), ""],
    ["6.12.0", ["-Lorphan_file"], said("1.47.2"), BOTH],
  ])("On kernel %s, with mkfsOptions %j and a mkfs.ext4 that says %j: %j", (kernel, given, list, words) => {
    expect(leftOut("ext4", given, list, kernel).join(" ")).toBe(words);
    expect(listingOf("ext4")).toEqual(["-V"]);
  });
});

test("Of ext3 nothing is left out, and its mkfs is not asked", () => {
  for (const type of ["ext3", "constructor"]) {
    expect(listingOf(type)).toBeUndefined();
    expect(leftOut(type, [], XFS_NEW, "4.4.0")).toEqual([]);
  }
});

test("Versions of kernels are compared as numbers", () => {
  expect(isOlderKernel("5.9.1", "5.10")).toBe(true);
  expect(isOlderKernel("5.10.0", "5.10")).toBe(false);
  expect(isOlderKernel("4.19.0", "5.0")).toBe(true);
  expect(isOlderKernel("6.0.0", "5.19")).toBe(false);
});
