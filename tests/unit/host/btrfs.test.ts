/** What the driver takes from the words of btrfs's tools and of mount(8). */
import { expect, test } from "bun:test";
import { extentIn, refusalOfCopy } from "../../../lib/host/btrfs.ts";

/** As `btrfs device usage --raw` of btrfs-progs 6.2, 6.14 and 7.1 prints it. */
const usage = (size: string, slack: string, id = 1) => `/dev/rbd0, ID: ${id}
   Device size:           ${size}
   Device slack:          ${slack}
   Data,single:             8388608
   Metadata,DUP:           67108864
   System,DUP:             16777216
   Unallocated:           117440512

`;

test("The size of a btrfs is that of its device without what it does not use yet", () => {
  expect(extentIn(usage("314572800", "104857600"))).toEqual({ id: "1", bytes: 209_715_200n });
  expect(extentIn(usage("314572800", "0", 3))).toEqual({ id: "3", bytes: 314_572_800n });
});

test("The size of a btrfs that is larger than its device is told, so that it is never made smaller", () => {
  expect(extentIn(usage("314572800", "18446744073604694016"))).toEqual({ id: "1", bytes: 419_430_400n });
});

test("The size of a btrfs on several devices, or of one that the tool does not tell, is an error", () => {
  expect(() => extentIn(usage("1", "0") + usage("1", "0", 2))).toThrow("on 2 devices");
  expect(() => extentIn("")).toThrow("does not say how large");
});

test("A mount that the kernel refuses because of a copy says so, and what to do", () => {
  const reason = refusalOfCopy("mount: /mnt: mount(2) system call failed: File exists.\n");
  expect(reason).toMatch(/another btrfs with the same UUID.*Run the pod on another node.*device scan --forget/);
  expect(refusalOfCopy("mount: /mnt: can't read superblock on /dev/rbd0.\n")).toBeUndefined();
});
