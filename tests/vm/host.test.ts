/** `hostLayerLive` on real block devices, filesystems and mounts. Not here: krbd (./node.test.ts). */
import { beforeAll, describe, expect, test } from "bun:test";
import { lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { mountOptions } from "../../lib/host/filesystem.ts";
import type { HostService } from "../../lib/host/host.ts";
import type { MappedDevice } from "../../lib/host/mapped-device.ts";
import { isReadOnly, mountsAt } from "../../lib/host/mountinfo.ts";
import { isMounted, mountTable, tool } from "./loop.ts";
import { hostOnLoops } from "./host-on-loops.ts";

const MIB = 1n << 20n;
const { host: service, loops, run, errorOf } = hostOnLoops();
let host: HostService;

beforeAll(async () => {
  host = await service();
});
let folders = 0;
const folder = (): string => {
  const path = `${loops.dir}/folder-${folders++}`;
  mkdirSync(path);
  return path;
};

describe("probe", () => {
  test("probe finds a device blank, and whether it is zeroed", async () => {
    const { device, file } = loops.make(16);
    expect(await run(host.probe(device))).toEqual({ kind: "blank", zeroed: true });
    writeFileSync(file, "unknown data", { flag: "r+" });
    tool("blockdev", "--flushbufs", device);
    expect(await run(host.probe(device))).toEqual({ kind: "blank", zeroed: false });
  });

  test("probe names partition tables and signatures that are not filesystems", async () => {
    const table = loops.make(16);
    const sector = Buffer.alloc(512);
    Buffer.from([0, 32, 33, 0, 0x83, 10, 0, 1, 0, 8, 0, 0, 0, 16, 0, 0]).copy(sector, 446);
    sector.set([0x55, 0xaa], 510);
    writeFileSync(table.file, sector, { flag: "r+" });
    expect(await run(host.probe(table.device))).toEqual({ kind: "partitions", type: "dos" });
    const swap = loops.make(16);
    tool("mkswap", swap.device);
    expect(await run(host.probe(swap.device))).toEqual({ kind: "other", type: "swap" });
  });

  test("probe never finds a device blank that is absent, empty, or not a block device", async () => {
    const empty = loops.make(0);
    for (const device of ["/dev/rbd-absent", empty.device, empty.file, "/dev/null"]) {
      expect((await errorOf(host.probe(device)))._tag).toBe("HostFailed");
    }
  });
});

describe("mkfs", () => {
  for (const [type, mebibytes] of [
    ["ext4", 64],
    ["xfs", 320],
    ["btrfs", 109],
  ] as const) {
    test(`mkfs makes ${type} once, and never over anything`, async () => {
      const { device } = loops.make(mebibytes);
      await run(host.mkfs({ device, type, options: undefined }));
      expect(await run(host.probe(device))).toEqual({ kind: "filesystem", type });
      const uuid = tool("blkid", "-p", "-s", "UUID", "-o", "value", device);
      if (type === "xfs") {
        // as a mkfs.xfs that is killed before its last write leaves it
        const setByte = (byte: string) =>
          tool("sh", "-c", `printf '\\${byte}' | dd of=${device} bs=1 seek=126 conv=notrunc,fsync 2>/dev/null`);
        setByte("001");
        expect(await run(host.probe(device))).toEqual({ kind: "filesystem", type, unfinished: true });
        setByte("000");
      }
      const refused = await errorOf(host.mkfs({ device, type, options: undefined }));
      expect(refused).toMatchObject({ _tag: "UnexpectedContent", message: expect.stringContaining(type) });
      expect(tool("blkid", "-p", "-s", "UUID", "-o", "value", device)).toBe(uuid);
    }, 60_000);
  }

  test("mkfs takes other arguments in place of its own, and fails with the words of the tool", async () => {
    const { device } = loops.make(64);
    const wrong = await errorOf(host.mkfs({ device, type: "ext4", options: ["-E", "nonsense"] }));
    expect(wrong).toMatchObject({ _tag: "HostRefused", message: expect.stringMatching(/nonsense.*mkfsOptions/) });
    await run(host.mkfs({ device, type: "ext4", options: ["-L", "label-of-ours"] }));
    expect(tool("blkid", "-p", "-s", "LABEL", "-o", "value", device)).toBe("label-of-ours");
    expect(await errorOf(host.mkfs({ device: loops.make(16).device, type: "nothing", options: [] }))).toMatchObject({
      message: expect.stringContaining("mkfs.nothing is not installed"),
    });
  });
});

describe("a filesystem", () => {
  for (const [type, before, after] of [
    ["ext4", 64, 128],
    ["xfs", 320, 448],
    ["btrfs", 256, 384],
  ] as const) {
    test(`a filesystem of ${type} is mounted, grows with its device, has its usage, and is unmounted`, async () => {
      const disk = loops.make(before);
      const { device } = disk;
      const point = folder();
      await run(host.mkfs({ device, type, options: undefined }));
      expect(await run(host.fsck({ device, type }))).toBe("");
      await run(
        host.mount({
          source: device,
          target: point,
          type,
          options: mountOptions(type, { flags: ["noatime"], readOnly: false }),
        }),
      );
      const [entry] = mountsAt(await run(host.mountTable), point);
      expect(entry).toMatchObject({ fsType: type, source: device, root: "/" });
      expect(entry?.options).toContain("noatime");
      writeFileSync(`${point}/data`, "x".repeat(100_000), { flush: true });
      expect(await run(host.growFilesystem({ device, type }, point))).toBeLessThanOrEqual(BigInt(before) * MIB);
      loops.grow(disk, after);
      expect((await run(host.deviceState(device)))?.sizeBytes).toBe(BigInt(after) * MIB);
      expect(await run(host.growFilesystem({ device, type }, point))).toBeGreaterThan(BigInt(after - 17) * MIB);
      const usage = await run(host.usage(point));
      expect(usage.totalBytes).toBeGreaterThan((BigInt(after) * MIB * 3n) / 4n);
      expect(usage.usedBytes).toBeGreaterThan(100_000n);
      expect(usage.availableBytes + usage.usedBytes).toBeLessThanOrEqual(usage.totalBytes);
      if (type === "btrfs") expect(usage.totalInodes).toBe(0n);
      else expect(usage.totalInodes).toBeGreaterThan(usage.freeInodes);
      await run(host.unmount(point));
      expect(isMounted(point)).toBe(false);
      await run(host.unmount(point));
    }, 60_000);
  }

  test("a filesystem is bound read-only in one step, beside its writable mount", async () => {
    const { device } = loops.make(64);
    const [point, bound] = [folder(), folder()];
    await run(host.mkfs({ device, type: "ext4", options: undefined }));
    await run(host.mount({ source: device, target: point, type: "ext4", options: ["_netdev", "defaults"] }));
    await run(host.mount({ source: point, target: bound, options: ["bind", "_netdev", "nosuid", "ro"] }));
    const table = mountTable();
    expect(mountsAt(table, bound).map((entry) => [isReadOnly(entry), entry.options.includes("nosuid")])).toEqual([
      [true, true],
    ]);
    expect(mountsAt(table, point).map(isReadOnly)).toEqual([false]);
    expect(() => writeFileSync(`${bound}/x`, "")).toThrow("EROFS");
    writeFileSync(`${point}/x`, "");
    await run(host.unmount(bound));
    await run(host.unmount(point));
  });

  test("a filesystem that was shut down answers with an error, and is unmounted all the same", async () => {
    const { device } = loops.make(320);
    const point = folder();
    await run(host.mkfs({ device, type: "xfs", options: undefined }));
    await run(host.mount({ source: device, target: point, type: "xfs", options: ["defaults"] }));
    tool("xfs_io", "-x", "-c", "shutdown", point);
    expect(() => lstatSync(`${point}/any`)).toThrow("EIO");
    expect(await errorOf(host.usage(point))).toMatchObject({ _tag: "HostFailed", errno: 5 });
    expect(await run(host.resolvePath(point))).toBe(point);
    await run(host.unmount(point));
    expect(isMounted(point)).toBe(false);
  }, 60_000);

  test("a filesystem that fsck does not repair unasked is damaged, and the message says what to do", async () => {
    const { device } = loops.make(64);
    await run(host.mkfs({ device, type: "ext4", options: undefined }));
    // as after errors: without it, fsck trusts a filesystem that was unmounted cleanly
    tool("debugfs", "-w", "-R", "set_super_value state 2", device);
    tool("debugfs", "-w", "-R", "clri <2>", device);
    expect(await errorOf(host.fsck({ device, type: "ext4" }))).toMatchObject({
      _tag: "FilesystemDamaged",
      message: expect.stringContaining("fsck.ext4 -y"),
    });
  });
});

describe("a device", () => {
  test("a device that is set read-only refuses writers until it is set writable", async () => {
    const { device } = loops.make(16);
    await run(host.setReadOnly(device, true));
    expect(await run(host.deviceState(device))).toMatchObject({ readOnly: true });
    expect(() => writeFileSync(device, "x", { flag: "r+" })).toThrow();
    await run(host.setReadOnly(device, false));
    writeFileSync(device, "x", { flag: "r+" });
  });

  test("a device that does not exist has no state", async () => {
    expect(await run(host.deviceState("/dev/rbd-absent"))).toBeUndefined();
    expect((await errorOf(host.deviceState("/dev/null")))._tag).toBe("HostFailed");
  });

  test("a device that is not mapped is unmapped already", async () => {
    const gone: MappedDevice = {
      mapper: "krbd",
      path: "/dev/rbd99",
      major: 252,
      minor: 1584,
      pool: "rbd",
      namespace: "",
      image: "gone",
      imageId: "1",
      snapshot: "",
      fsid: "",
      watcherId: "client.1",
      addresses: [],
      cookie: "",
      served: true,
      sizeBytes: 0n,
      readOnly: false,
    };
    await run(host.unmap(gone, ""));
  });
});

describe("a path", () => {
  test("a path has its parents resolved, and is itself not opened", async () => {
    const real = folder();
    symlinkSync(real, `${loops.dir}/link`);
    symlinkSync("/nowhere", `${real}/dangling`);
    expect(await run(host.resolvePath(`${loops.dir}/link/dangling`))).toBe(`${real}/dangling`);
    expect(await run(host.resolvePath(`${loops.dir}/absent/x`))).toBeUndefined();
    expect(await run(host.resolvePath(`${loops.dir}/disk-0/x/y`))).toBeUndefined();
  });

  test("a path is made with its parents, private, and known to be new", async () => {
    const path = `${folder()}/a/b/mount`;
    expect([await run(host.makeDirectory(path)), await run(host.makeDirectory(path))]).toEqual([true, false]);
    expect(statSync(path).mode & 0o777).toBe(0o750);
    const file = `${path}/device`;
    expect([await run(host.makeFile(file)), await run(host.makeFile(file))]).toEqual([true, false]);
    expect((await errorOf(host.makeFile(path)))._tag).toBe("PathInTheWay");
    expect((await errorOf(host.makeDirectory(file)))._tag).toBe("PathInTheWay");
    expect(await run(host.pathKind(file))).toBe("file");
  });

  test("a path is removed when it is empty, and never with anything in it", async () => {
    const path = folder();
    writeFileSync(`${path}/data`, "precious");
    symlinkSync(path, `${path}/link`);
    for (const held of [path, `${path}/data`, `${path}/link`]) {
      expect((await errorOf(host.removePath(held)))._tag).toBe("PathInTheWay");
    }
    expect(readdirSync(path).toSorted()).toEqual(["data", "link"]);
    const empty = folder();
    await run(host.makeFile(`${empty}/device`));
    for (const gone of [`${empty}/device`, empty, empty]) await run(host.removePath(gone));
    expect(await run(host.pathKind(empty))).toBe("absent");
  });

  test("a path that is a mount point is not removed", async () => {
    const point = folder();
    tool("mount", "-t", "tmpfs", "none", point);
    expect((await errorOf(host.removePath(point)))._tag).toBe("HostFailed");
    await run(host.unmount(point));
  });
});

describe("a small file", () => {
  test("a small file is written whole, private, and read back; one that a crash left half-written is replaced", async () => {
    const path = `${folder()}/image-meta.json`;
    expect(await run(host.readText(path))).toBeUndefined();
    writeFileSync(`${path}.new`, "half");
    await run(host.writeText(path, "whole"));
    await run(host.writeText(path, "wholë"));
    expect([readFileSync(path, "utf8"), statSync(path).mode & 0o777]).toEqual(["wholë", 0o600]);
    expect(await run(host.readText(path))).toBe("wholë");
    await run(host.removeText(path));
    await run(host.removeText(path));
    expect(await run(host.readText(path))).toBeUndefined();
  });

  test("a small file that is huge, or a folder, is refused", async () => {
    const path = folder();
    writeFileSync(`${path}/huge`, "x".repeat(100_000));
    for (const wrong of [path, `${path}/huge`]) expect((await errorOf(host.readText(wrong)))._tag).toBe("HostFailed");
  });
});
