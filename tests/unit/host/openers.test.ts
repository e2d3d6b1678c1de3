/** Who has a device open, as a folder like /proc shows it, and which device a path leads to. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { blockDeviceAt } from "../../../lib/host/device-node.ts";
import { holdersOf, openersOf } from "../../../lib/host/holders.ts";

const proc = mkdtempSync(join(tmpdir(), "csi-rbd-proc-"));
afterAll(() => rmSync(proc, { recursive: true }));

const device = { path: "/dev/nbd0", major: 43, minor: 0 };

/** A process with these files open; gives its folder of files. */
const process = (pid: number, name: string, files: readonly string[]): string => {
  const folder = join(proc, String(pid), "fd");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(proc, String(pid), "comm"), `${name}\n`);
  files.forEach((file, fd) => symlinkSync(file, join(folder, String(fd))));
  return folder;
};

test("A process is found by what it has open, under whatever name, and sockets and pipes are not looked at", () => {
  const odd = process(12, "postgres", ["socket:[17]", "pipe:[4]", "/data/disk", "anon_inode:[eventpoll]", "/never"]);
  const gone = process(13, "cat", ["/", "/data/disk (deleted)"]);
  const other = process(14, "dd", ["/dev/nbd0"]);
  process(15, "rbd-nbd", ["/data/disk"]);
  process(globalThis.process.pid, "csi-rbd", ["/data/disk"]);
  mkdirSync(join(proc, "16"));
  mkdirSync(join(proc, "sys"));
  const looked: string[] = [];
  const devices = new Map([
    [`${odd}/2`, "43:0"],
    [`${gone}/1`, "43:0"],
    // a container may give that name to another device
    [`${other}/0`, "43:16"],
  ]);
  const deviceAt = (path: string) => {
    looked.push(path);
    return devices.get(path);
  };
  expect(openersOf(device, { proc, deviceAt }).toSorted()).toEqual(["process 12 (postgres)", "process 13 (cat)"]);
  expect(looked.toSorted()).toEqual([`${odd}/2`, `${gone}/0`, `${gone}/1`, `${other}/0`].toSorted());
});

test("A path leads to a block device, to something else, or nowhere", () => {
  expect(["/dev/null", "/", "/proc/self/fd/0", "/never"].map(blockDeviceAt)).toEqual(Array(4).fill(undefined));
  // as many as this machine has, which may be none
  for (const line of readFileSync("/proc/partitions", "utf8").split("\n")) {
    const [major, minor, , name] = line.trim().split(/\s+/);
    const node = `/dev/${name}`;
    if (statSync(node, { throwIfNoEntry: false })?.isBlockDevice() !== true) continue;
    expect([node, blockDeviceAt(node)]).toEqual([node, `${major}:${minor}`]);
  }
});

test("A loop device over the device's node, or over a path of it that is gone, holds it", () => {
  const sys = join(proc, "block");
  for (const [name, file] of [
    ["loop0", "/dev/rbd77"],
    ["loop1", "/rbd77//deleted"],
    ["loop2", "/dev/rbd7"],
    ["loop3", "/var/lib/images/disk.img"],
  ] as const) {
    mkdirSync(join(sys, name, "loop"), { recursive: true });
    writeFileSync(join(sys, name, "loop", "backing_file"), `${file}\n`);
  }
  mkdirSync(join(sys, "loop4"), { recursive: true });
  mkdirSync(join(sys, "rbd77", "holders", "dm-3"), { recursive: true });
  const held = holdersOf({ path: "/dev/rbd77", major: 252, minor: 1232 }, sys);
  expect(held.toSorted()).toEqual([
    "/dev/dm-3",
    "/dev/loop0 (a loop device; if nobody needs it: losetup -d /dev/loop0)",
    "/dev/loop1 (a loop device; if nobody needs it: losetup -d /dev/loop1)",
  ]);
});
