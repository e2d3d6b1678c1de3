/** The kernel's mount table as data: escapes, optional fields, and whose mount is whose. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  isReadOnly,
  isShutDown,
  isRbdMount,
  type MountEntry,
  mountsAt,
  mountsOf,
  parseMountInfo,
  withLayerNames,
} from "../../../lib/host/mountinfo.ts";

const LINES = `22 28 0:20 / /proc rw,nosuid shared:12 master:3 - proc proc rw
36 35 252:16 / /var/lib/kubelet/a\\040b\\134c rw,noatime shared:1 - ext4 /dev/rbd1 rw,stripe=16
37 35 252:16 / /pods/1 ro,noatime - ext4 /dev/rbd1 rw,stripe=16
38 35 0:6 /rbd2 /staging/raw rw - devtmpfs udev rw,size=4k
39 35 0:6 /rbd20 /staging/other rw - devtmpfs udev rw
40 35 0:41 / /staging/btrfs rw - btrfs /dev/rbd3 rw,subvolid=5,subvol=/
41 35 0:42 / /staging/layered rw - btrfs /dev/dm-7 rw,subvolid=5,subvol=/
`;
const table = parseMountInfo(LINES);
const device = (path: string, major: number, minor: number) => ({ path, major, minor });

describe("the lines of mountinfo", () => {
  test("A line of mountinfo may have any number of optional fields", () => {
    expect(table.map(({ id, fsType, source }) => [id, fsType, source])).toEqual([
      [22, "proc", "proc"],
      [36, "ext4", "/dev/rbd1"],
      [37, "ext4", "/dev/rbd1"],
      [38, "devtmpfs", "udev"],
      [39, "devtmpfs", "udev"],
      [40, "btrfs", "/dev/rbd3"],
      [41, "btrfs", "/dev/dm-7"],
    ]);
  });

  test("The reader decodes octal escapes in a line of mountinfo, also those of non-ASCII bytes", () => {
    expect(table[1]?.point).toBe("/var/lib/kubelet/a b\\c");
    const odd = parseMountInfo("1 2 8:1 / /m\\303\\266p\\011\\012\\043x\\04 rw - xfs /dev/sda rw\n");
    expect(odd[0]?.point).toBe("/möp\t\n#x\\04");
  });

  test("A line of mountinfo that the reader cannot parse is an error, because it may be the one that matters", () => {
    for (const line of ["nonsense", "1 2 8 / /x rw - ext4 /dev/x rw", "1 2 8:1 / /x rw ext4 /dev/x rw"]) {
      expect(() => parseMountInfo(`${LINES}${line}\n`)).toThrow();
    }
  });

  test("The reader returns every path of mountinfo as the kernel wrote it", () => {
    const escape = (text: string) =>
      [...Buffer.from(text)]
        .map((byte) =>
          [9, 10, 32, 35, 92].includes(byte) ? `\\${byte.toString(8).padStart(3, "0")}` : String.fromCharCode(byte),
        )
        .join("");
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1 }), (name) => {
        if (name.includes("\0")) return;
        const line = Buffer.from(`5 1 252:0 / /${escape(name)} rw - ext4 /dev/rbd0 rw\n`, "latin1").toString("utf8");
        expect(parseMountInfo(line)[0]?.point).toBe(`/${name}`);
      }),
    );
  });
});

describe("the mounts of a device", () => {
  test("A device's filesystem mounts are found by the device number", () => {
    expect(mountsOf(table, device("/dev/rbd1", 252, 16)).map(({ id }) => id)).toEqual([36, 37]);
    expect(mountsOf(table, device("/dev/rbd1", 252, 32))).toEqual([]);
  });

  test("A device's btrfs mounts are found by the device that the kernel has opened, as their number is not its", () => {
    expect(mountsOf(table, device("/dev/rbd3", 252, 48)).map(({ id }) => id)).toEqual([40]);
    // a copy of it has the same UUID, and is another device
    expect(mountsOf(table, device("/dev/rbd4", 252, 64))).toEqual([]);
    expect(mountsOf(table, device("/dev/rbd30", 0, 41))).toEqual([]);
    const layer = { ...device("/dev/mapper/luks-rbd-1", 253, 7), kernelPath: "/dev/dm-7" };
    expect(mountsOf(table, layer).map(({ id }) => id)).toEqual([41]);
  });

  test("A btrfs on a LUKS layer is a volume's mount, also where udev has told the kernel the layer by its number", () => {
    const names: Readonly<Record<string, string>> = { "dm-7": "luks-rbd-1" };
    const named = parseMountInfo(withLayerNames(LINES, (name) => names[name]));
    expect(named.find(({ id }) => id === 41)?.source).toBe("/dev/mapper/luks-rbd-1");
    expect(named.filter(({ id }) => id !== 41)).toEqual(table.filter(({ id }) => id !== 41));
    expect(named.filter(isRbdMount).map(({ id }) => id)).toEqual([36, 37, 38, 39, 40, 41]);
    expect(withLayerNames(LINES, () => undefined)).toBe(LINES);
  });

  test("A device's raw block mounts are found by the whole name of its device node", () => {
    expect(mountsOf(table, device("/dev/rbd2", 252, 32)).map(({ id }) => id)).toEqual([38]);
    expect(mountsOf(table, device("/dev/rbd0", 252, 0))).toEqual([]);
  });
});

describe("a folder that has the name of a device", () => {
  const lines = `30 1 0:77 / /dev/shm rw - tmpfs shm rw
31 1 0:77 /rbd0 /pods/t/volume-subpaths/mem/c/0 rw - tmpfs tmpfs rw
32 1 252:16 /rbd0 /pods/t/volume-subpaths/data/c/1 rw - ext4 /dev/rbd1 rw
33 1 0:5 /rbd0 /pods/u/block rw - tmpfs dev rw
34 1 0:6 /rbd0 /pods/v/block rw - devtmpfs udev rw
`;
  const idsOf = (text: string) => mountsOf(parseMountInfo(text), device("/dev/rbd0", 252, 0)).map(({ id }) => id);

  test("Only on the filesystem of /dev it is the device", () => {
    expect(idsOf(lines)).toEqual([34]);
    const table = parseMountInfo(lines);
    expect(table.filter(isRbdMount).map(({ id }) => id)).toEqual([32, 34]);
  });

  test("It is the device also where /dev is a tmpfs, and only on that one", () => {
    expect(idsOf(`29 1 0:5 / /dev rw - tmpfs dev rw\n${lines}`)).toEqual([33, 34]);
    expect(idsOf(`29 1 0:5 / /dev rw - devtmpfs udev rw\n${lines}`)).toEqual([34]);
  });
});

describe("the mounts at a path", () => {
  const entry = (more: Partial<MountEntry>): MountEntry => ({ ...(table[1] as MountEntry), ...more });

  test("The mount at a path is the last one in mountinfo", () => {
    const stacked = [...table, entry({ id: 99, point: "/pods/1" })];
    expect(mountsAt(stacked, "/pods/1").at(-1)?.id).toBe(99);
    expect(mountsAt(stacked, "/pods")).toEqual([]);
  });

  test("A mount is read-only by its own option or by its filesystem's", () => {
    expect(isReadOnly(entry({}))).toBe(false);
    expect(isReadOnly(entry({ options: ["ro"] }))).toBe(true);
    expect(isReadOnly(entry({ superOptions: ["ro"] }))).toBe(true);
    expect(isShutDown(entry({ superOptions: ["rw", "shutdown"] }))).toBe(true);
  });

  test("A mount belongs to a volume by what is mounted, not by where it is mounted", () => {
    for (const source of ["/dev/rbd0", "/dev/nbd12", "/dev/mapper/luks-rbd-0001-0004-x"]) {
      expect(isRbdMount(entry({ source }))).toBe(true);
    }
    expect(isRbdMount(entry({ fsType: "devtmpfs", source: "udev", root: "/rbd3" }))).toBe(true);
    expect(isRbdMount(entry({ fsType: "devtmpfs", source: "udev", root: "/rbd3//deleted" }))).toBe(true);
    for (const source of ["/dev/sda1", "overlay", "/dev/rbdx", "tmpfs"]) {
      expect(isRbdMount(entry({ source }))).toBe(false);
    }
  });
});
